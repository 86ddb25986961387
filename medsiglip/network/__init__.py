"""What changes how a checkpoint computes: attention by heads, eight bits, what is done to texts."""
