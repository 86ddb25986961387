"""How the losses of tokens become the loss of a step; each way is the same for any micro-batches and ranks."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from finetune.collate import Batch, Example

Normalisation = Literal["token", "sequence-mean", "sequence-sum"]
"""token: the sum over all tokens, divided by the completion tokens of the step, as in DAPO.
sequence-mean: the mean over each sequence, then over sequences, as in GKD and GRPO.
sequence-sum: the sum over each sequence, then the mean over sequences, as in REINFORCE and BOND: the gradient of a
sequence's log-probability."""


def normalised(examples: Sequence[Example], normalisation: Normalisation) -> list[Example]:
    """Examples whose weights make the weighted sum over `counted` the loss of this name."""
    if normalisation != "sequence-mean":
        return list(examples)
    return [_meaned(example) for example in examples]


def counted(batch: Batch, normalisation: Normalisation) -> float:
    """What a part adds to the step's denominator: tokens, or sequences."""
    return float(len(batch.targets) if normalisation == "token" else len(batch.places))


def _meaned(example: Example) -> Example:
    tokens = len(example.completion_ids)
    weights = (1.0,) * tokens if example.weights is None else example.weights
    return replace(example, weights=tuple(weight / tokens for weight in weights))
