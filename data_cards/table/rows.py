"""What a table becomes: rows of one kind, whatever the table was, and what was understood of its columns."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

Split = Literal["train", "validation", "test"]
"""Recipes learn from `train`, are decided by `validation`, and `test` is scored once."""
SPLITS: tuple[Split, ...] = get_args(Split)

Kind = Literal["class", "multi-label", "number", "boxes", "text"]
"""class: one of several that exclude each other; multi-label: each of several present or absent; number: a count or a
measure; boxes: where things are; text: words of one's own."""
KINDS: tuple[Kind, ...] = get_args(Kind)

Policy = Literal["left-out", "zero", "one"]
"""What becomes of a present-or-absent label that is missing or uncertain."""
POLICIES: tuple[Policy, ...] = get_args(Policy)

NONE = "none"
"""Given for a column: there is none, and none is to be guessed."""


class Box(NamedTuple):
    """A box in a picture."""

    label: str
    """What it is around; empty where the table does not say."""
    y0: float
    x0: float
    y1: float
    x1: float
    unit: Literal["px", "per_mille", "fraction"]
    """Of the four numbers: pixels, 0 to 1000 (MedGemma's `box_2d`), or 0 to 1 of the picture's height and width."""


Label = str | float | Mapping[str, bool] | tuple[Box, ...]
"""class and text: a text; number: a number; multi-label: finding to whether it is present, those that are left out
missing; boxes: all of the row, none for an empty tuple."""

Message = Mapping[str, Any]
"""{"role": "system" | "user" | "assistant", "content": [{"type": "text", "text": ...} | {"type": "image"}, ...]}: as
transformers' chat templates take it, the pictures being `Row.files` in order."""


@dataclass(frozen=True)
class Columns:
    """Which columns mean what. What is left empty is guessed; "none" says that there is none."""

    files: tuple[str, ...] = ()
    """Of the row's pictures, volumes or folders, in order."""
    label: tuple[str, ...] = ()
    question: str = ""
    """A column, or one question (a text that is no column's name) for all rows."""
    answer: str = ""
    choices: tuple[str, ...] = ()
    """One column with a list, or a column a choice."""
    messages: str = ""
    group: str = ""
    """What rows that are not independent share: the patient, the lesion, the study."""
    split: str = ""
    group_pattern: str = ""
    """Regular expression that finds the key in the group column, where that holds more, such as a path."""
    kind: Kind | None = None
    """Of the label columns; None tells it by their values."""
    classes: tuple[str, ...] = ()
    """All labels there are; a row with another one is a fault. Empty takes those that occur."""
    missing: Policy = "left-out"
    """What an empty cell of a present-or-absent label says. Other labels that are missing are always left out."""
    uncertain: Policy = "left-out"
    """What -1, "u" or "uncertain" says there."""

    def __post_init__(self) -> None:
        _demand("kind", self.kind, (None, *KINDS))
        _demand("missing", self.missing, POLICIES)
        _demand("uncertain", self.uncertain, POLICIES)


@dataclass(frozen=True)
class Target:
    """What one label says."""

    name: str
    """Its column, `labels` for several present-or-absent columns, `label` for several of which one is 1."""
    kind: Kind
    classes: tuple[str, ...] = ()
    """class: sorted, or as given; multi-label: the findings, in the order of the columns; boxes: their labels."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Class, or finding that is present, to the number of rows."""
    unknown: Mapping[str, int] = field(default_factory=dict)
    """Finding to rows that say nothing of it (missing or uncertain, left out)."""


@dataclass(frozen=True)
class Row:
    """One row, or all rows of one picture where boxes lie in rows of their own."""

    place: str
    """For messages and as an id: "T.csv row 17", the header being row 1; "T.jsonl line 17"; "T.parquet record 17"."""
    files: tuple[Path, ...]
    """Pictures, volumes, or folders with a study's DICOM files; not opened."""
    group: str
    """Never empty."""
    split: Split
    question: str = ""
    answer: str = ""
    choices: tuple[str, ...] = ()
    messages: tuple[Message, ...] = ()
    """A whole conversation, if that is what the table holds; question and answer are then empty."""
    labels: Mapping[str, Label] = field(default_factory=dict)
    """Name of a `Target` to what the row says; a label that is missing is not there."""
    fault: str = ""
    """Why the row cannot be used, with its place and what to do."""


@dataclass(frozen=True)
class Table:
    """Everything read from a table."""

    source: Path
    rows: tuple[Row, ...]
    """Those that can be used, in the order of the table."""
    faulty: tuple[Row, ...]
    """Those that cannot."""
    columns: Columns
    """As used."""
    guessed: frozenset[str]
    """Names of the fields of `columns` that were guessed."""
    targets: Mapping[str, Target]
    given_splits: tuple[Split, ...]
    """The sides that the table itself names; empty where the rows were divided by group."""
    findings: tuple[str, ...]
    """What one should know, a line each."""

    def on(self, *splits: Split) -> tuple[Row, ...]:
        """The usable rows of these sides."""
        return tuple(row for row in self.rows if row.split in splits)

    def target(self, name: str = "") -> Target:
        """The target of this name, the only one for an empty name.

        Raises:
            ValueError: There is no such target, none at all, or several for an empty name.
        """
        if not name and len(self.targets) == 1:
            return next(iter(self.targets.values()))
        if name in self.targets:
            return self.targets[name]
        known = ", ".join(self.targets) or "none"
        raise ValueError(
            f"{self.source.name}: expected one label column, got {name or known!r} of {known}; give --label"
        )

    def without_faults(self) -> "Table":
        """This table, if every row of it can be used.

        Raises:
            ValueError: Names the first rows that cannot, and how many there are.
        """
        if self.faulty:
            more = f" (and {len(self.faulty) - 1} more rows)" if len(self.faulty) > 1 else ""
            raise ValueError(f"{self.faulty[0].fault}{more}; `medgemma-data check --table` lists them all")
        return self

    def described(self) -> list[str]:
        """What was understood, to be shown before anything runs; the findings are not in it."""
        told = [f"{self.source}: {len(self.rows) + len(self.faulty)} rows"]
        for name in ("files", "label", "question", "answer", "choices", "messages", "group", "split"):
            value = getattr(self.columns, name)
            if value and value != NONE:
                shown = ", ".join(value) if isinstance(value, tuple) else value
                if name == "group" and self.columns.group_pattern:
                    shown += f" ({self.columns.group_pattern})"
                told.append(f"{name}: {shown}{' (guessed)' if name in self.guessed else ''}")
        told += [_target_line(target) for target in self.targets.values()]
        told.append(self._sides_line())
        return told

    def _sides_line(self) -> str:
        how = "as the table says" if self.given_splits else "divided by group"
        sizes = Counter(row.split for row in self.rows)
        groups = {split: len({row.group for row in self.on(split)}) for split in SPLITS}
        counted = ", ".join(f"{split} {sizes[split]} rows of {groups[split]} groups" for split in SPLITS)
        return f"sides ({how}): {counted}"


def with_guesses(columns: Columns, **guesses: Any) -> Columns:
    """Fill what the user left empty; guesses for what was given are not used."""
    open_fields = {f.name for f in fields(columns) if not getattr(columns, f.name)}
    return replace(columns, **{name: value for name, value in guesses.items() if name in open_fields})


def _target_line(target: Target) -> str:
    counts = ", ".join(f"{name} {count}" for name, count in list(target.counts.items())[:MOST_CLASSES_SHOWN])
    if len(target.counts) > MOST_CLASSES_SHOWN:
        counts += f", and {len(target.counts) - MOST_CLASSES_SHOWN} more"
    return f"{target.name} is {_WHAT[target.kind]}{f': {counts}' if counts else ''}"


MOST_CLASSES_SHOWN = 30
_WHAT: dict[Kind, str] = {
    "class": "one of the classes",
    "multi-label": "present or absent",
    "number": "a number",
    "boxes": "boxes",
    "text": "free text",
}


def _demand(name: str, value: object, allowed: Sequence[object]) -> None:
    if value not in allowed:
        raise ValueError(f"got {name} {value!r}; expected one of {', '.join(str(one) for one in allowed if one)}")
