"""The one training loop, and what recipes need beside it."""

from finetune.training.best import Evaluation, load_best
from finetune.training.draws import Part, named_places, rows_of_step, step_generator
from finetune.training.loop import Loop, Precision, Turn, autocast, train
from finetune.training.ranks import ALONE, Ranks, join_ranks, leave_ranks
from finetune.training.schedule import Schedule
from finetune.training.state import Kept

__all__ = [
    "ALONE",
    "Evaluation",
    "Kept",
    "Loop",
    "Part",
    "Precision",
    "Ranks",
    "Schedule",
    "Turn",
    "autocast",
    "join_ranks",
    "leave_ranks",
    "load_best",
    "named_places",
    "rows_of_step",
    "step_generator",
    "train",
]
