"""What plain transformers makes of a turn: the oracle of prompts and answers."""

from collections.abc import Sequence
from typing import Any


def chat_inputs(processor: Any, images: Sequence[Any], text: str) -> Any:
    """The tensors of one user turn, its pictures first, by nothing but transformers' documented path."""
    content = [*({"type": "image", "image": image} for image in images), {"type": "text", "text": text}]
    return processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
