"""The engine: the only way to generate text.

`Engine` and `EngineBusy` are imported on first use, since they bring torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from medgemma.engine.request import (
    ChoiceScore,
    Completion,
    Constraint,
    ConstraintState,
    FinishReason,
    Request,
    Sampling,
    likeliest,
)

if TYPE_CHECKING:
    from medgemma.engine.engine import Engine, EngineBusy

__all__ = [
    "ChoiceScore",
    "Completion",
    "Constraint",
    "ConstraintState",
    "Engine",
    "EngineBusy",
    "FinishReason",
    "Request",
    "Sampling",
    "likeliest",
]


def __getattr__(name: str) -> Any:
    if name in ("Engine", "EngineBusy"):
        return getattr(import_module("medgemma.engine.engine"), name)
    raise AttributeError(f"module 'medgemma.engine' has no attribute {name!r}")
