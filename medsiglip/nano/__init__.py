"""The shipped nano encoder: weights, tokenizer, measured figures and card."""

from pathlib import Path

NANO_FOLDER = Path(__file__).parent
