"""Early stopping: the checkpoint of a run that a proxy likes best."""

from collections.abc import Mapping

from finetune.selection.ranking import larger_is_better
from finetune.selection.scores import Score


def best_checkpoint(curve: Mapping[int, Score]) -> int:
    """The step whose score is the best; of equal ones the earliest.

    Args:
        curve: Step to score, in any order.

    Raises:
        ValueError: There is no checkpoint.
    """
    if not curve:
        raise ValueError("got no checkpoint; expected one at least")
    return min(curve, key=lambda step: (-larger_is_better(curve[step]), step))


def stopping_step(curve: Mapping[int, Score], patience: int) -> int:
    """The step at which training stops: the first after `patience` checkpoints that were no better; else the last.

    Args:
        curve: Step to score, in any order.
        patience: Checkpoints, at least 1.

    Raises:
        ValueError: There is no checkpoint, or patience is below 1.
    """
    if not curve or patience < 1:
        raise ValueError(f"got {len(curve)} checkpoints and patience {patience}; expected 1 at least")
    best, waited = None, 0
    for step in sorted(curve):
        value = larger_is_better(curve[step])
        if best is None or value > best:
            best, waited = value, 0
        else:
            waited += 1
        if waited == patience:
            return step
    return max(curve)
