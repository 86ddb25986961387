"""The engine: the only way to generate text."""

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

__all__ = [
    "ChoiceScore",
    "Completion",
    "Constraint",
    "ConstraintState",
    "FinishReason",
    "Request",
    "Sampling",
    "likeliest",
]
