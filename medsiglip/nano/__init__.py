"""The shipped nano encoder: weights, tokenizer, measured figures and card."""
