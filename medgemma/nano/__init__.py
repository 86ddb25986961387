"""The shipped nano decoder: weights, tokenizer, measured figures and card."""
