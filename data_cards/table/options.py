"""The options by which every command takes a table."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, cast

import typer

from data_cards.table.read import read_table
from data_cards.table.rows import Columns, Kind, Policy, Table


@dataclass(frozen=True)
class TableOptions:
    """`--table` and what the user says of its columns."""

    table: Annotated[
        Path | None, typer.Option(metavar="T", help="CSV, TSV, Parquet, JSONL, class folders or a saved data set.")
    ] = None
    files: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN", help="Column of pictures; again, or with commas, for several.")
    ] = None
    label: Annotated[list[str] | None, typer.Option(metavar="COLUMN", help="Column of what is right; likewise.")] = None
    group: Annotated[str, typer.Option(metavar="COLUMN", help="Patient, lesion, study; none: group by file.")] = ""
    split: Annotated[str, typer.Option(metavar="COLUMN", help="train, validation, test; none: divide by group.")] = ""
    question: Annotated[str, typer.Option(metavar="COLUMN|TEXT", help="Or one question for all rows.")] = ""
    answer: Annotated[str, typer.Option(metavar="COLUMN", help="The right answer to the question.")] = ""
    choices: Annotated[list[str] | None, typer.Option(metavar="COLUMN", help="A list, or a column a choice.")] = None
    messages: Annotated[str, typer.Option(metavar="COLUMN", help="Whole conversations.")] = ""
    group_pattern: Annotated[str, typer.Option(metavar="REGEX", help="Finds the group within its column.")] = ""
    kind: Annotated[str, typer.Option(help="Of the labels: class, multi-label, number, boxes or text.")] = ""
    classes: Annotated[str, typer.Option(metavar="A;B", help="All labels there are; others are faults.")] = ""
    missing: Annotated[str, typer.Option(help="Empty present-or-absent labels: left-out, zero or one.")] = "left-out"
    uncertain: Annotated[str, typer.Option(help="Those of -1: left-out, zero or one.")] = "left-out"

    @property
    def columns(self) -> Columns:
        """What the user said.

        Raises:
            ValueError: The kind or a policy is none that there is.
        """
        return Columns(
            files=_names(self.files),
            label=_names(self.label),
            question=self.question,
            answer=self.answer,
            choices=_names(self.choices),
            messages=self.messages,
            group=self.group,
            split=self.split,
            group_pattern=self.group_pattern,
            kind=cast(Kind, self.kind) if self.kind else None,
            classes=tuple(name.strip() for name in self.classes.split(";") if name.strip()),
            missing=cast(Policy, self.missing),
            uncertain=cast(Policy, self.uncertain),
        )

    def read(self, *, labelled: bool = True) -> Table:
        """Read the table that `--table` names.

        Raises:
            ValueError: As `read_table`; there is no `--table`.
        """
        if self.table is None:
            raise ValueError("give --table T: a CSV, TSV, Parquet or JSONL file, or a folder")
        return read_table(self.table, self.columns, labelled=labelled)


def _names(given: list[str] | None) -> tuple[str, ...]:
    """Column names given again or between commas; a name with a comma cannot be given."""
    return tuple(name.strip() for text in given or [] for name in text.split(",") if name.strip())
