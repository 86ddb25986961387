"""bond_answers: a MedGemma whose one answer is as good as the best of several, by BOND or a baseline of it.

Visual questions (VQA-RAD) are sampled, and an answer earns the F1 of its words with the right one: 0 or 1 of a yes or
no, levels between of a longer one. Held-out questions are graded by exact match as well, which is never learned from.
OUT/reward_kl.svg has both over the KL to the start; OUT/scores/before_after.md the task's own figures.

Source: BOND (arXiv:2407.14622); see docs/bond.md.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evals.items import Item
from evals.metrics.answers import exact_match_norm
from evals.running.options import RunOptions
from evals.tasks.catalogue import task_named
from evals.tasks.task import ItemOptions
from finetune.on_policy import Reward
from finetune.rewards.texts import text_of, word_overlap
from finetune.tables.aligning import AlignConfig, Questions, align
from finetune.tables.before_after import FORGETTING_ITEMS, Asked, Load, before_and_after, forgetting
from finetune.tables.learning import set_line

COMMAND = "medgemma-finetune run bond_answers"
TASK = "vqa-rad"
QUICK_ITEMS = 40


class Config(AlignConfig):
    """What is aligned, and how; the values are in bond_answers.yaml."""


def run(config: Config, data: Path, out: Path, quiet: bool) -> None:
    """Align on the training side's questions, and measure on the held-out side's.

    Raises:
        ValueError: the set is missing or broken.
    """
    task = task_named(TASK)
    train, held = (task.items(data, ItemOptions(task.checked_side(side))) for side in ("train", "held-out"))
    questions = Questions(
        str(data),
        set_line(data, train),
        train,
        held,
        [Reward(word_overlap)],
        [Reward(word_overlap), Reward(exact_match, 0.0)],
        answer_of,
        {"tasks": {task.name: task.version}, "prompts": [str(task.wording())]},
    )
    asked = Asked(task, data, RunOptions(side="held-out", limit=QUICK_ITEMS if config.quick else None))

    def score(_: str, before: Load, after: Load) -> None:
        kept, probed = forgetting(data, QUICK_ITEMS if config.quick else FORGETTING_ITEMS)
        before_and_after([asked], before, after, out / "scores", kept=kept, probed=probed, command=COMMAND, quiet=quiet)

    align(config, questions, out, quiet, score)


def answer_of(item: Item) -> dict[str, Any]:
    """What the rewards take by name."""
    return {"answer": item.reference}


def exact_match(completions: Sequence[Any], answer: Sequence[str], **_: Any) -> list[float]:
    """1 for an answer that is the right one but for case, punctuation and articles, else 0."""
    return [exact_match_norm(text_of(said), right) for said, right in zip(completions, answer, strict=True)]
