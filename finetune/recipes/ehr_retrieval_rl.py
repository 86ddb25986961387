"""ehr_retrieval_rl: the answers of `ehr_retrieval` reinforced where they are right, over at most 512 retrieved tokens.

The model first learns the right answers, as `ehr_retrieval` does. Then it answers in its own words, several times a
question, and earns 1 for an answer that is right by its kind (a date, a list, a quantity). OUT/scores/errors.md has the
share of wrong answers about held-out patients before and after reinforcement, and the paired difference with its
interval over patients.

Source: MedGemma technical report (arXiv:2507.05201), section 5: the 27B text model tuned by reinforcement on EHRQA.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from evals.items import Item
from evals.metrics.paired import paired_mean_difference
from evals.results.scores import as_json, read_answered
from evals.running.options import RunOptions
from evals.running.runner import condition_folder
from evals.tasks.record_questions import facts_task
from evals.tasks.task import Task
from finetune.on_policy import Reward
from finetune.recipes.ehr_retrieval import questions, reward, right_answer
from finetune.rewards.texts import text_of
from finetune.tables.aligning import AlignConfig, Questions, StartSection, align, taught_first
from finetune.tables.before_after import FORGETTING_ITEMS, Asked, Load, before_and_after, forgetting
from finetune.tables.learning import Lessons, divided, set_line
from medsiglip.command import say, whole_file
from medsiglip.metrics.statistics import grouped_bootstrap_ci

COMMAND = "medgemma-finetune run ehr_retrieval_rl"
MOST_RECORD_TOKENS = 512
QUICK_ITEMS = 40


class Config(AlignConfig):
    """What is aligned, and how; the values are in ehr_retrieval_rl.yaml."""

    sft: StartSection | None
    record_tokens: int = Field(ge=100, le=MOST_RECORD_TOKENS)


def run(config: Config, data: Path, out: Path, quiet: bool) -> None:
    """Teach, reinforce, and count the errors about held-out patients before and after.

    Raises:
        ValueError: the set is missing or broken.
    """
    task = facts_task(config.record_tokens)
    train, held = (questions(data, side, config.record_tokens) for side in ("train", "held-out"))
    form = {"tasks": {task.name: task.version}, "record_tokens": config.record_tokens}
    taught, chosen = divided(train)
    lessons = Lessons(str(data), set_line(data, train), taught, chosen, task, right_answer, form)
    model = taught_first(config, config.sft, lessons, out, quiet)
    right = [Reward(right_by_its_kind)]
    asked = Questions(str(data), set_line(data, train), train, held, right, right, lambda item: {"item": item}, form)
    options = RunOptions(side="held-out", limit=QUICK_ITEMS if config.quick else None)

    def score(_: str, before: Load, after: Load) -> None:
        kept, probed = forgetting(data, QUICK_ITEMS if config.quick else FORGETTING_ITEMS)
        learned, scores = [Asked(task, data, options)], out / "scores"
        before_and_after(learned, before, after, scores, kept=kept, probed=probed, command=COMMAND, quiet=quiet)
        say(errors(task, scores))

    align(config.model_copy(update={"model": model}), asked, out, quiet, score)


def right_by_its_kind(completions: Sequence[Any], item: Sequence[Item], **_: Any) -> list[float]:
    """1 for an answer that is right by its kind, else 0."""
    return [reward(one, text_of(said)) for said, one in zip(completions, item, strict=True)]


def errors(task: Task, scores: Path) -> str:
    """SCORES/errors.md and .json: wrong answers before and after, and after less before, whole patients resampled."""
    before, after = (_wrong(task, scores / name) for name in ("base", "tuned"))
    both = [item_id for item_id in before if item_id in after]
    first, second = ([of[item_id][0] for item_id in both] for of in (before, after))
    groups = [before[item_id][1] for item_id in both]
    found = {
        "errors before": as_json(grouped_bootstrap_ci(first, groups)),
        "errors after": as_json(grouped_bootstrap_ci(second, groups)),
        "after − before": as_json(paired_mean_difference(first, second, groups).estimate),
    }
    head = f"{len(both)} questions, {len(set(groups))} patients; 95 % intervals over patients\n\n"
    lines = (f"- {name}: {_shown(one)}\n" for name, one in found.items())
    with whole_file(scores / "errors.md") as file:
        file.write(text := head + "".join(lines))
    with whole_file(scores / "errors.json") as file:
        file.write(json.dumps(found, indent=1, allow_nan=False) + "\n")
    return text.rstrip()


def _wrong(task: Task, folder: Path) -> dict[str, tuple[float, str]]:
    """Item to whether its answer is wrong, and its patient."""
    grade: Callable[..., dict[str, float]] = task.grade
    answered = read_answered(task, condition_folder(folder, task.name, "real"))
    return {pair.item.item_id: (1 - grade(*pair)["accuracy"], pair.item.group) for pair in answered}


def _shown(found: dict[str, Any]) -> str:
    low, high = found["ci95"]
    return f"{found['value']:.3f}" + ("" if low is None else f" ({low:.3f} to {high:.3f})")
