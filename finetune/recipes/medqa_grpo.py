"""medqa_grpo: medical multiple choice by GRPO, as the notebooks on tuning MedGemma by reinforcement have it.

MedQA's questions are sampled in groups; an answer earns 1 for the right letter, read as the task MedQA reads it, and a
tenth for naming any letter at all. It is set for real weights. nano knows little medicine and answers with words: what
it shows is that the recipe runs.

Source: GRPO (arXiv:2402.03300); see docs/bond.md.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from evals.items import Item
from evals.outputs import Output
from evals.running.options import RunOptions
from evals.tasks.task import ItemOptions, Task
from finetune.on_policy import Reward
from finetune.rewards.texts import text_of
from finetune.tables.aligning import AlignConfig, Questions, align
from finetune.tables.before_after import Asked, Load, before_and_after
from finetune.tables.learning import set_line
from finetune.tables.of_sets import tasks_here

COMMAND = "medgemma-finetune run medqa_grpo"
TASKS = ("medqa", "kit-medqa")
"""The owners' set, or the kit's part of it."""
QUICK_ITEMS = 40
FORM_SHARE = 0.1


class Config(AlignConfig):
    """What is aligned, and how; the values are in medqa_grpo.yaml."""


def run(config: Config, data: Path, out: Path, quiet: bool) -> None:
    """Align on the training side's questions, and measure on the held-out side's.

    Raises:
        ValueError: the set is missing or broken.
    """
    task = tasks_here(TASKS, data)[0]
    train, held = (task.items(data, ItemOptions(task.checked_side(side))) for side in ("train", task.sides[0]))
    right = Reward(right_letter(task), name="right_letter")
    questions = Questions(
        str(data),
        set_line(data, train),
        train,
        held,
        [right, Reward(any_letter(task), FORM_SHARE, name="any_letter")],
        [right],
        lambda item: {"item": item},
        {"tasks": {task.name: task.version}, "prompts": [str(task.wording())]},
    )
    asked = Asked(task, data, RunOptions(side=task.sides[0], limit=QUICK_ITEMS if config.quick else None))

    def score(_: str, before: Load, after: Load) -> None:
        before_and_after([asked], before, after, out / "scores", command=COMMAND, quiet=quiet)

    align(config, questions, out, quiet, score)


def right_letter(task: Task) -> Callable[..., list[float]]:
    """The task's own grade, as a reward."""

    def reward(completions: Sequence[Any], item: Sequence[Item], **_: Any) -> list[float]:
        return [
            task.grade(one, Output(one.item_id, "", "", text=text_of(said)))[task.main_metric]
            for said, one in zip(completions, item, strict=True)
        ]

    return reward


def any_letter(task: Task) -> Callable[..., list[float]]:
    """1 where the task's reader finds an answer, right or wrong."""
    assert task.parse is not None
    parse = task.parse

    def reward(completions: Sequence[Any], item: Sequence[Item], **_: Any) -> list[float]:
        return [float(bool(parse(one, text_of(said)))) for said, one in zip(completions, item, strict=True)]

    return reward
