"""LoRA adapters and their bases: what fits, what is merged, what is averaged."""
