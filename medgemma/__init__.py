"""MedGemma: a SigLIP tower in a Gemma 3 decoder; pictures and questions in, answers out.

The names below are imported on first use, so that `import medgemma` stays fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medgemma.answers import Answer
    from medgemma.asking import AnswerOptions
    from medgemma.engine.request import Sampling
    from medgemma.model import MedGemma

__all__ = ["Answer", "AnswerOptions", "MedGemma", "Sampling"]

_HOMES = {
    "Answer": "medgemma.answers",
    "AnswerOptions": "medgemma.asking",
    "MedGemma": "medgemma.model",
    "Sampling": "medgemma.engine.request",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'medgemma' has no attribute {name!r}")
