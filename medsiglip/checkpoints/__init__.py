"""Model folders: their files, key layouts and tensors, read safely and checked."""
