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
