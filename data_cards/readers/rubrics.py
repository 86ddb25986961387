"""Conversations with rubrics, as their owners hand them out: HealthBench and HealthBench Professional, JSON lines."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from data_cards.readers.fields import cells, text_group, texts
from data_cards.readers.tables import read_json_lines

HEALTHBENCH_FILES: Mapping[str, str] = {
    "all": "2025-05-07-06-14-12_oss_eval.jsonl",
    "hard": "hard_2025-05-08-21-00-10.jsonl",
    "consensus": "consensus_2025-05-09-20-00-46.jsonl",
}
"""Part of HealthBench to the owners' file."""
PROFESSIONAL_FILE = "healthbench_professional.jsonl"


@dataclass(frozen=True)
class Criterion:
    """One line of a rubric."""

    text: str
    points: float
    """Negative for what the reply must not do: meeting it costs points."""


@dataclass(frozen=True)
class RubricConversation:
    """A conversation that ends with the user, and what its next reply is judged by."""

    item_id: str
    messages: tuple[tuple[str, str], ...]
    """(role, text); the last is the user's."""
    rubric: tuple[Criterion, ...]
    """At least one has positive points."""
    labels: Mapping[str, str]
    """What figures may be divided by: theme; use_case, type, difficulty, specialty."""
    group: str
    """Conversations that begin alike have one group."""


def read_healthbench(folder: Path, part: str = "all") -> list[RubricConversation]:
    """Read one part of HealthBench.

    Args:
        folder: Holds the owners' JSONL, under their name or as PART.jsonl.
        part: all, hard or consensus.

    Raises:
        ValueError: The file is missing, or a record has no conversation or no rubric with positive points.
    """
    named = folder / f"{part}.jsonl"
    table = named if named.is_file() else folder / HEALTHBENCH_FILES[part]
    found = []
    for number, row in enumerate(read_json_lines(table, ("prompt", "prompt_id", "rubrics", "example_tags")), start=1):
        tags = texts(table, number, row, "example_tags")
        theme = next((tag.removeprefix("theme:") for tag in tags if tag.startswith("theme:")), "")
        name = cells(table, number, row, ("prompt_id",))["prompt_id"]
        rubric = _rubric(table, number, row["rubrics"], "criterion")
        found.append(_conversation(table, number, name, row["prompt"], rubric, {"theme": theme}))
    return found


def read_healthbench_professional(folder: Path) -> list[RubricConversation]:
    """Read HealthBench Professional; its records have no name, so an item is named by its place.

    Raises:
        ValueError: As `read_healthbench`.
    """
    table = folder / PROFESSIONAL_FILE
    found = []
    for number, row in enumerate(read_json_lines(table, ("conversation", "rubric_items")), start=1):
        labels = {name: str(row.get(name) or "") for name in ("use_case", "type", "difficulty", "specialty")}
        rubric = _rubric(table, number, row["rubric_items"], "criterion_text")
        name = f"healthbench-professional-{number:05d}"
        found.append(_conversation(table, number, name, row["conversation"], rubric, labels))
    return found


def _conversation(
    table: Path,
    number: int,
    name: str,
    messages: object,
    rubric: tuple[Criterion, ...],
    labels: Mapping[str, str],
) -> RubricConversation:
    told = isinstance(messages, list) and [
        (str(turn.get("role")), turn.get("content")) for turn in messages if isinstance(turn, dict)
    ]
    if not told or not all(isinstance(text, str) for _, text in told) or told[-1][0] != "user":
        raise ValueError(
            f"{table}: record {number} has no conversation of role and content that ends with the user; "
            "fetch the file again"
        )
    turns = tuple((role, str(text)) for role, text in told)
    return RubricConversation(
        name, turns, rubric, {k: v for k, v in labels.items() if v}, text_group("healthbench", turns[0][1])
    )


def _rubric(table: Path, number: int, value: object, text_column: str) -> tuple[Criterion, ...]:
    try:
        found = tuple(Criterion(str(row[text_column]), float(row["points"])) for row in value)  # type: ignore[attr-defined]
    except (KeyError, TypeError, ValueError):
        raise ValueError(
            f"{table}: record {number} has no rubric of {text_column} and points; fetch the file again"
        ) from None
    if not any(criterion.points > 0 for criterion in found):
        raise ValueError(
            f"{table}: record {number} has no criterion with positive points, so that there is nothing to score "
            "against; take the record out"
        )
    return found
