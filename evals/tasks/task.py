"""What a task is. A task owns wording, parsing and grading; the runner asks, and the scores read what it graded."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

from evals.clinic.dialogue import Dialogue
from evals.items import Item
from evals.measures import Answered, Measure
from evals.outputs import Output

SideName = TypeVar("SideName", bound=str)

Answers = Literal["text", "label", "choices", "dialogue"]
"""text: an Answerer writes it; label: an Embedder picks one of `Task.label_sets`; choices: a decoder gives every
continuation of `Item.choices` a log-likelihood, and no text is generated; dialogue: `Task.dialogue` plays the item, and
the output's text is what was said, as JSON."""

Form = Literal["letter", "yes-no", "short", "long", "json", "box", "label", "likelihood"]
"""What an answer is once it is parsed."""


@dataclass(frozen=True)
class ItemOptions:
    """Which items of a task's data are made, and how."""

    side: str
    """One of `Task.sides`."""
    seed: int = 0
    """Of the order and of all draws."""
    num_fewshot: int = 0
    """Worked examples before each question."""
    examples_for: str = ""
    """The items are worked examples for those of this side: a group that is asked about there is left out."""


def checked_side(side: str, sides: Sequence[SideName]) -> SideName:
    """Return the side, as one of those that a set has.

    Raises:
        ValueError: It is none of them.
    """
    for known in sides:
        if side == known:
            return known
    raise ValueError(f"got side {side!r}; expected one of {', '.join(sides)}")


def of_side_and_seed(items: Callable[[str | Path, str, int], list[Item]]) -> Callable[..., list[Item]]:
    """Return what `Task.items` is, of a function of the data's folder, the side and the seed."""
    return lambda data_dir, options: items(data_dir, options.side, options.seed)


@dataclass(frozen=True)
class Task:
    """A task that can be run."""

    name: str
    cards: tuple[str, ...]
    """The data sets it reads."""
    summary: str
    answers: Answers
    form: Form
    items: Callable[[str | Path, ItemOptions], list[Item]]
    """--data and options to the items, in a seeded order, so that any prefix is a fair sample."""
    grade: Callable[[Item, Output], dict[str, float]]
    """One output to metric name to 0..1; the metrics whose mean over items is the figure."""
    wording: Callable[[], object]
    """All that prompts are made of apart from the data, as JSON values: its hash belongs to the version."""
    sides: tuple[str, ...] = ("held-out", "train")
    """What --side may be, the default first."""
    main_metric: str = "accuracy"
    """The metric of `grade` that stands for the task."""
    parse: Callable[[Item, str], str] | None = None
    """The answer in a model's text, empty if there is none: what a majority votes on. None: a vote has no meaning."""
    pooled: Callable[[Sequence[Answered]], dict[str, Measure]] | None = None
    """The metrics that are no means of items (macro F1, AUROC)."""
    breakdown: str = ""
    """The key of Item.meta that scores are also given by."""
    subgroups: tuple[str, ...] = ()
    """The keys of Item.meta that the report tells apart (sex, age_band, view); an item may lack them."""
    label_sets: Mapping[str, Mapping[str, Sequence[str]]] = field(default_factory=dict)
    """Of a label task: Item.meta["label_set"] (empty if an item names none) to the captions of each class."""
    dialogue: Dialogue | None = None
    """Of a dialogue task: how its items are played."""
    is_jsonl: bool = False
    """Its data is --data/CARD/SIDE.jsonl, in the format of jsonl.py."""
    is_table: bool = False
    """Its data is a user's own table, and what `items` takes is the path of that."""
    trained_on: str = ""
    """Of a label task: the side that a linear probe learns from; empty: labels are picked by caption."""
    system: str = ""
    """A system turn; the report gives MedGemma none."""
    thinks: bool = False
    """Whether the report's protocol has the model think first."""
    max_new_tokens: int = 32
    num_fewshot: int = 0
    """Worked examples before each question, by default."""
    fewshot_from: str = ""
    """The side (split) that examples are taken from; empty if the task has none."""
    version: int = 1
    """One more whenever wording, items, parsing or grading change: figures of two versions do not compare."""

    def checked_side(self, side: str) -> str:
        """Return the side, the default one for an empty text.

        Raises:
            ValueError: The task has no such side.
        """
        if not side:
            return self.sides[0]
        if side not in self.sides:
            raise ValueError(f"task {self.name}: got side {side!r}; expected one of {', '.join(self.sides)}")
        return side
