"""rlef_impression: the impression of a chest report from its findings, held to what these support, by entailment RL.

The model first learns the impressions that radiologists have written. Then its own are rewarded by log P(entailment)
given the findings, against KL to where it began. OUT/scores/faithfulness.md has support, contradiction, recall of the
reference's findings, coverage, density and length before and after, beside the commonest impression, which is the hack:
"No acute cardiopulmonary abnormality." is supported by most findings and says none of them.

Source: Roit et al., entailment RL, arXiv:2306.00186 (2023); Zhang et al., arXiv:1911.02541, for the task.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from evals.items import Item
from evals.metrics.entailment import stated_findings
from evals.results.scores import read_answered
from evals.running.options import RunOptions
from evals.running.runner import condition_folder
from evals.tasks.catalogue import task_named
from evals.tasks.final_answer import spoken
from evals.tasks.report_generation import source_of
from evals.tasks.task import ItemOptions, Task
from finetune.configuration import Section
from finetune.on_policy import Reward
from finetune.rewards import guards
from finetune.rewards.entailment import entailment_reward
from finetune.rewards.faithfulness import Case, compared, contradiction_of, finding_recall, write_table
from finetune.tables.aligning import AlignConfig, Questions, StartSection, align, taught_first
from finetune.tables.before_after import Asked, Load, before_and_after
from finetune.tables.learning import Lessons, divided, set_line
from medgemma.entailment.named import scorer_named
from medgemma.entailment.scores import By, Scorer
from medsiglip.command import say

COMMAND = "medgemma-finetune run rlef_impression"
TASK = "kit-iu-xray-impression"
COMMONEST = "commonest impression"
MODELS = ("base", "tuned")
QUICK_ITEMS = 40
BOILERPLATE_COUNT = 5
"""How often an impression without a finding stands on the training side to be a phrase."""


class GuardSection(Section):
    """What each guard of `finetune.rewards.guards` costs at most, in nats."""

    length: float = Field(ge=0)
    fewest_words: int = Field(ge=1)
    most_words: int = Field(ge=1)
    copying: float = Field(ge=0)
    longest_copy: int = Field(ge=1)
    repetition: float = Field(ge=0)
    empty: float = Field(ge=0)
    boilerplate: float = Field(ge=0)

    @model_validator(mode="after")
    def _fewest_is_below_most(self) -> Self:
        if self.fewest_words > self.most_words:
            raise ValueError(f"fewest_words is {self.fewest_words}, above most_words, {self.most_words}")
        return self


class Config(AlignConfig):
    """What is aligned, and how; the values are in rlef_impression.yaml."""

    sft: StartSection | None
    scorer: str
    by: By
    guards: GuardSection


def run(config: Config, data: Path, out: Path, quiet: bool) -> None:
    """Teach, align, and measure on the held-out side's reports.

    Raises:
        ValueError: the set is missing or broken, or the scorer is unknown or fails.
    """
    task, scorer = task_named(TASK), scorer_named(config.scorer, as_reward=True)
    train, held = (task.items(data, ItemOptions(side)) for side in ("train", "held-out"))
    form = {"tasks": {task.name: task.version}, "prompts": [str(task.wording())]}
    taught, chosen = divided(train)
    lessons = Lessons(str(data), set_line(data, train), taught, chosen, task, lambda item: item.reference, form)
    model = taught_first(config, config.sft, lessons, out, quiet)
    support = Reward(entailment_reward(scorer, config.by, f"entailment:{config.scorer}"), name="entailment")
    told = [
        Reward(contradiction_of(scorer), 0.0),
        Reward(finding_recall, 0.0),
        Reward(guards.coverage, 0.0),
        Reward(guards.density, 0.0),
        Reward(guards.words, 0.0),
    ]
    questions = Questions(
        str(data),
        set_line(data, train),
        train,
        held,
        [support, *guarding(config.guards, train)],
        [support, *told],
        columns,
        form,
    )
    options = RunOptions(
        side="held-out",
        limit=QUICK_ITEMS if config.quick else None,
        temperature=config.temperature,  # the paper's way; the likeliest text of a small model is the commonest one
        max_new_tokens=config.max_new_tokens,
    )

    def score(_: str, before: Load, after: Load) -> None:
        before_and_after([Asked(task, data, options)], before, after, out / "scores", command=COMMAND, quiet=quiet)
        [(commonest, count)] = Counter(item.reference for item in train).most_common(1)
        say(f"{COMMONEST}, {count} of {len(train)} on the training side: {commonest}")
        say(faithfulness(task, scorer, out / "scores", commonest).rstrip())

    align(config.model_copy(update={"model": model}), questions, out, quiet, score)


def faithfulness(task: Task, scorer: Scorer, scores: Path, commonest: str) -> str:
    """SCORES/faithfulness.md and .json of what was answered there, of all reports and of the abnormal ones.

    Args:
        task: of the answers.
        scorer: of premises and hypotheses.
        scores: holds base and tuned, as `before_and_after` leaves them.
        commonest: an impression that answers every report.
    """
    answered = {name: read_answered(task, condition_folder(scores / name, task.name, "real")) for name in MODELS}
    items, rows = [pair.item for pair in answered[MODELS[0]]], []
    for part in ("all", "abnormal"):
        places = [place for place, item in enumerate(items) if part in ("all", item.meta["normality"])]
        said = {name: [spoken(pairs[place].output.text) for place in places] for name, pairs in answered.items()}
        cases = [case_of(items[place]) for place in places]
        rows += compared(cases, {COMMONEST: [commonest] * len(cases), **said}, scorer, part)
    return write_table(rows, scores)


def case_of(item: Item) -> Case:
    """An item with its source."""
    return Case(source_of(item), item.reference, item.group)


def columns(item: Item) -> dict[str, Any]:
    """What the rewards take by name."""
    return {"premise": source_of(item), "answer": item.reference}


def guarding(section: GuardSection, train: Sequence[Item]) -> list[Reward]:
    """The guards with what they cost; those that cost nothing are logged."""
    often = Counter(item.reference for item in train)
    phrases = [text for text, count in often.items() if count >= BOILERPLATE_COUNT and not stated_findings(text)]
    return [
        Reward(guards.length(section.fewest_words, section.most_words), -section.length),
        Reward(guards.copying(section.longest_copy), -section.copying),
        Reward(guards.repetition, -section.repetition),
        Reward(guards.empty, -section.empty),
        Reward(guards.boilerplate(phrases, lambda source: bool(stated_findings(source))), -section.boilerplate),
    ]
