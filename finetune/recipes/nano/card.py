"""The cards of a nano pair: written from what was measured, and held against what is measured again."""

import json
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from data_cards.split import Side

MEASUREMENTS = "measurements.json"
CardSide = Side | Literal["both"]
"""`both` is held-out and final together, for differences that either is too small to show."""
AS_PRINTED = 5e-4
"""Figures that differ by less look the same on a card."""


@dataclass(frozen=True)
class Figure:
    """One row of a card."""

    side: CardSide
    task: str
    metric: str
    value: float
    ci95: tuple[float, float]
    n: int
    n_groups: int


@dataclass(frozen=True)
class Measured:
    """All rows of one card."""

    fingerprint: str
    """Of the weights."""
    seed: int
    figures: tuple[Figure, ...]


def write_card(folder: Path, measured: Measured, trained: str) -> None:
    """Write measurements.json and README.md beside the weights.

    Args:
        folder: `medsiglip` or `medgemma` of a run.
        measured: its figures.
        trained: a sentence, how the weights came about.
    """
    write_measurements(measured, folder / MEASUREMENTS)
    template = (Path(__file__).parent / f"card_{folder.name}.md").read_text(encoding="utf-8")
    card = template.replace("{{ figures }}", table(measured.figures)).replace("{{ fingerprint }}", measured.fingerprint)
    card = card.replace("{{ trained }}", "\n  ".join(textwrap.wrap(trained, 117)))
    (folder / "README.md").write_text(card, encoding="utf-8")


def write_measurements(measured: Measured, path: Path) -> None:
    """Write what was measured as JSON."""
    facts = {
        "fingerprint": measured.fingerprint,
        "command": "medgemma-finetune measure PAIR --data DIR --out DIR",
        "seed": measured.seed,
        "figures": [asdict(figure) for figure in sides_together(measured.figures)],
    }
    path.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def read_measurements(path: Path) -> Measured:
    """Read what `write_measurements` wrote.

    Raises:
        ValueError: there is no such file, or it holds something else.
    """
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        figures = tuple(Figure(**{**row, "ci95": tuple(row["ci95"])}) for row in facts["figures"])
        return Measured(facts["fingerprint"], facts["seed"], figures)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: holds no measurements of a card; run the recipe with measure: true") from error


def differences(card: Measured, again: Measured, items: float = 0.0) -> list[str]:
    """A line for every figure that is on one side only, or not the same as printed.

    Args:
        card: what the card says.
        again: what was measured now.
        items: what so many items of a figure's n can change is no difference.
    """
    said, found = ({(f.side, f.task, f.metric): f for f in one.figures} for one in (card, again))
    lines = []
    for key in [*said, *(key for key in found if key not in said)]:
        side, task, metric = key
        if key not in found or key not in said:
            lines.append(f"{task}, {metric}, {side}: {'not measured again' if key in said else 'not on the card'}")
        elif abs(said[key].value - found[key].value) >= max(AS_PRINTED, items / said[key].n):
            lines.append(f"{task}, {metric}, {side}: {said[key].value:.3f} on the card, {found[key].value:.3f} now")
    return lines


def table(figures: Sequence[Figure]) -> str:
    """The figures as a Markdown table."""
    lines = [
        "| task | metric | side | value | 95 % interval | n | groups |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in sides_together(figures):
        low, high = row.ci95
        interval = f"{low:.3f} to {high:.3f}"
        lines.append(
            f"| {row.task} | {row.metric} | {row.side} | {row.value:.3f} | {interval} | {row.n} | {row.n_groups} |"
        )
    return "\n".join(lines)


def sides_together(figures: Sequence[Figure]) -> list[Figure]:
    """The figures in their order, but all sides of a metric where it comes first."""
    places = {(row.task, row.metric): place for place, row in reversed(list(enumerate(figures)))}
    return sorted(figures, key=lambda row: places[row.task, row.metric])
