"""Rewards with TRL's signature: f(prompts, completions, **columns) -> one number a completion."""
