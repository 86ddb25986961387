"""MedCalc-Bench: a patient note, a quantity to compute from it, and between which limits an answer is right."""

import re
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Literal

from data_cards.readers.fields import cells
from data_cards.readers.tables import read_csv

Kind = Literal["decimal", "integer", "date", "weeks-days"]

COLUMNS = (
    "Row Number",
    "Calculator ID",
    "Calculator Name",
    "Category",
    "Output Type",
    "Note ID",
    "Patient Note",
    "Question",
    "Ground Truth Answer",
    "Lower Limit",
    "Upper Limit",
)

DATE = re.compile(r"\b(?P<month>\d{1,2})/(?P<day>\d{1,2})/(?P<year>\d{4})\b")
WEEKS_DAYS = re.compile(r"(?P<weeks>\d+)\W{0,3}weeks?\b\W*(?:and\s+)?\W*(?P<days>\d+)\W{0,3}days?\b", re.IGNORECASE)


@dataclass(frozen=True)
class Calculation:
    """One question."""

    item_id: str
    calculator: str
    category: str
    """lab test, risk, physical, severity, diagnosis, date or dosage."""
    note: str
    question: str
    kind: Kind
    """What an answer is. decimal: right between the limits, 95 and 105 % of the truth; integer, date, weeks-days: right
    if it is the truth."""
    truth: str
    """A number; a date as YYYY-MM-DD; weeks and days as W+D."""
    lower: float
    """Limits of a decimal, the smaller first; of other kinds 0."""
    upper: float
    group: str
    """The patient note: several questions may be asked about one."""


def read_medcalc_bench(folder: Path, split: Literal["test", "train"] = "test") -> list[Calculation]:
    """Read one split of a user's copy.

    The owners give 95 and 105 % of the truth as lower and upper limit, so that of a negative truth the lower one is the
    larger; here the smaller comes first, or no answer could be right.

    Args:
        folder: Holds test_data.csv and train_data.csv.
        split: Which.

    Raises:
        ValueError: The file or a column is missing, or an answer is of no known kind.
    """
    table = folder / f"{split}_data.csv"
    return [_calculation(table, number, row, split) for number, row in enumerate(read_csv(table, COLUMNS), start=1)]


def date_of(text: str) -> str | None:
    """Return the one date (month/day/year) in a text as YYYY-MM-DD; None if there is none, or two that differ."""
    found = set()
    for said in DATE.finditer(text):
        try:
            found.add(date(int(said["year"]), int(said["month"]), int(said["day"])).isoformat())
        except ValueError:
            continue
    return found.pop() if len(found) == 1 else None


def weeks_and_days_of(text: str) -> str | None:
    """Return the one span of weeks and days in a text ("17 weeks, 4 days") as W+D; None if there is none, or two."""
    found = {f"{int(said['weeks'])}+{int(said['days'])}" for said in WEEKS_DAYS.finditer(text)}
    return found.pop() if len(found) == 1 else None


def _calculation(table: Path, number: int, row: dict[str, str], split: str) -> Calculation:
    found = cells(table, number, row, COLUMNS)
    said = found["Ground Truth Answer"]
    stated = found["Output Type"].lower()
    kind: Kind
    if weeks := weeks_and_days_of(said):
        kind, truth, limits = "weeks-days", weeks, (0.0, 0.0)
    elif day := date_of(said):
        kind, truth, limits = "date", day, (0.0, 0.0)
    elif stated in ("decimal", "integer"):
        kind = "decimal" if stated == "decimal" else "integer"
        truth, limits = _numbers(table, number, found)
    else:
        raise ValueError(
            f"{table}: record {number} has output type {stated!r}; expected decimal, integer, or an answer that is a "
            "date or weeks and days; fetch the file again"
        )
    return Calculation(
        item_id=f"medcalc-{split}-{found['Row Number']}",
        calculator=found["Calculator Name"],
        category=found["Category"],
        note=found["Patient Note"],
        question=found["Question"],
        kind=kind,
        truth=truth,
        lower=min(limits),
        upper=max(limits),
        group=f"medcalc_{found['Note ID']}",
    )


def _numbers(table: Path, number: int, found: dict[str, str]) -> tuple[str, tuple[float, float]]:
    try:
        truth, lower, upper = (float(found[name]) for name in ("Ground Truth Answer", "Lower Limit", "Upper Limit"))
    except ValueError:
        raise ValueError(
            f"{table}: record {number} has an answer or limit that is no number; mend the record"
        ) from None
    return repr(truth), (lower, upper)
