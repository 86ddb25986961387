"""The shipped nano decoder: weights, tokenizer, measured figures and card."""

from pathlib import Path

NANO_FOLDER = Path(__file__).parent
