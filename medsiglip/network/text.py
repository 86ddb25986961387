"""What is done to a text before the tokenizer: nothing, or what the report's own evaluations do.

Source: big_vision, pp/proj (lower case, `_` to a space, ASCII punctuation removed, white space collapsed), from which
MedSigLIP was trained. transformers' slow tokenizer does the same but for `_`; its fast one keeps `/`, `<` and `>`.
"""

import string
from collections.abc import Sequence
from typing import Literal, get_args

TextNormaliser = Literal["huggingface", "report"]
TEXT_NORMALISERS: tuple[TextNormaliser, ...] = get_args(TextNormaliser)
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(texts: Sequence[str], normaliser: TextNormaliser) -> list[str]:
    """Normalise texts.

    Args:
        texts: any.
        normaliser: "huggingface": as they are, for the checkpoint's own tokenizer to handle; "report": lower case,
            `_` a space, punctuation removed, white space collapsed.

    Raises:
        ValueError: an unknown normaliser, or nothing is left of a text.
    """
    if normaliser not in TEXT_NORMALISERS:
        raise ValueError(f"text normaliser {normaliser!r} is unknown; choose one of {', '.join(TEXT_NORMALISERS)}")
    if normaliser == "huggingface":
        return list(texts)
    found = [" ".join(text.replace("_", " ").translate(_NO_PUNCTUATION).lower().split()) for text in texts]
    for text, left in zip(texts, found, strict=True):
        if not left:
            raise ValueError(f"nothing is left of the text {text!r} without its punctuation; use words")
    return found
