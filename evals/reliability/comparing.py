"""Two models' reliability side by side (before and after tuning): shares of both, moves, and the items that moved."""

import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from evals.items import read_items
from evals.outputs import latest, read_outputs
from evals.reliability.quadrants import QUADRANTS, ItemReliability, Moves, moves
from evals.reliability.running import STYLE, interval, read_results, shown, write_whole
from evals.results.tables import aligned
from evals.running.options import PROBED
from medsiglip.metrics.statistics import Estimate

SHOWN_CHARACTERS = 300


class Compared(NamedTuple):
    """What is printed and what is written."""

    lines: list[str]
    values: dict[str, Any]
    """Task to shares, differences, moves and items, as JSON values."""


def compared_reliability(first: Path, second: Path, seed: int = 0, page: Path | None = None) -> Compared:
    """Compare two folders of `medgemma-eval reliability`, task by task, those that both have; write a page if asked.

    Raises:
        ValueError: They share no task, a task's version differs, or its items do.
    """
    one, other = read_results(first), read_results(second)
    found = compare_results(first, second, seed)
    if page is not None:
        write_whole(page, _page(first, second, found))
    rows = [row for task in found for row in _lines(task, one[task], other[task], found[task])]
    return Compared(list(aligned(rows)), {task: _as_json(one[task], other[task], found[task]) for task in found})


def compare_results(first: Path, second: Path, seed: int = 0) -> dict[str, Moves]:
    """Return the moves of each task that both folders have.

    Raises:
        ValueError: As `compared_reliability`.
    """
    one, other = read_results(first), read_results(second)
    shared = [task for task in one if task in other]
    if not shared:
        raise ValueError(f"{first} and {second}: no task in common; run `medgemma-eval reliability` into both")
    for task in shared:
        if one[task]["task_version"] != other[task]["task_version"]:
            raise ValueError(f"task {task}: versions {one[task]['task_version']} and {other[task]['task_version']}")
    return {task: moves(_items(one[task]), _items(other[task]), seed) for task in shared}


def _lines(task: str, one: Mapping[str, Any], other: Mapping[str, Any], found: Moves) -> list[tuple[str, ...]]:
    """The shares of both, the difference with its paired interval, then the moves."""
    rows: list[tuple[str, ...]] = [
        (
            task,
            name,
            interval(one["quadrants"][name]["share"]),
            interval(other["quadrants"][name]["share"]),
            f"second - first {_signed(difference.estimate)}",
            f"p {difference.p_bootstrap:.3f}" if difference.p_bootstrap == difference.p_bootstrap else "p -",
        )
        for name, difference in found.differences.items()
    ]
    return rows + [(task, f"{a} -> {b}", f"{n} items", "", "", "") for (a, b), n in _moved(found)]


def _moved(found: Moves) -> list[tuple[tuple[str, str], int]]:
    counted = sorted(found.counts.items(), key=lambda row: (-row[1], row[0]))
    return [((a, b), n) for (a, b), n in counted if a != b]


def _signed(value: Estimate) -> str:
    return f"+{shown(value)}" if value.value > 0 else shown(value)


def _as_json(one: Mapping[str, Any], other: Mapping[str, Any], found: Moves) -> dict[str, Any]:
    return {
        "models": [one["model"], other["model"]],
        "shares": {
            name: {
                "first": one["quadrants"][name]["share"],
                "second": other["quadrants"][name]["share"],
                "difference": difference.estimate.value,
                "ci95": [end if end == end else None for end in difference.estimate.ci95],
                "p_bootstrap": difference.p_bootstrap if difference.p_bootstrap == difference.p_bootstrap else None,
            }
            for name, difference in found.differences.items()
        },
        "moves": [{"from": a, "to": b, "items": n} for (a, b), n in _moved(found)],
        "changed": list(found.changed),
    }


def _page(first: Path, second: Path, found: Mapping[str, Moves]) -> str:
    one, other = read_results(first), read_results(second)
    title = "Reliability of two models"
    parts = [f"<!doctype html><meta charset=utf-8><title>{title}</title>", STYLE, f"<h1>{title}</h1>"]
    for task, moved in found.items():
        parts += [f"<h2>{html.escape(task)}</h2>", _shares(one[task], other[task], moved), "<h3>Items that moved</h3>"]
        parts.append(_changed(task, first, second, one[task], other[task], moved) if moved.changed else "<p>None.</p>")
    return "\n".join(parts) + "\n"


def _shares(one: Mapping[str, Any], other: Mapping[str, Any], found: Moves) -> str:
    heads = "".join(f"<th>{html.escape(str(result['model']))}<th>accuracy in it" for result in (one, other))
    rows = []
    for name in QUADRANTS:
        cells = "".join(
            f"<td>{interval(cell['share'])}<td>{interval(cell['accuracy']) if cell['accuracy'] else ''}"
            for cell in (one["quadrants"][name], other["quadrants"][name])
        )
        rows.append(f"<tr><td>{name}{cells}<td>{_signed(found.differences[name].estimate)}")
    return f"<table><tr><th>quadrant{heads}<th>second - first (paired){''.join(rows)}</table>"


def _changed(
    task: str, first: Path, second: Path, one: Mapping[str, Any], other: Mapping[str, Any], found: Moves
) -> str:
    """The items that moved, with the question and both answers to it."""
    folder = first / f"{task}{PROBED}"
    items = [item for item in read_items(folder / "items.jsonl") if item.meta["probe"] == "asked"]
    asked = {item.meta["probe_of"]: item for item in items}
    said = [latest(read_outputs(out / f"{task}{PROBED}" / "outputs.jsonl"), items) for out in (first, second)]
    where = [{item["item_id"]: item["quadrant"] for item in result["items"]} for result in (one, other)]
    rows = []
    for name in found.changed:
        probe = asked[name]
        texts = [outputs[probe.item_id].text if probe.item_id in outputs else "" for outputs in said]
        cells = (name, probe.prompt, probe.reference, texts[0], texts[1], where[0][name], where[1][name])
        rows.append("<tr>" + "".join(f"<td>{html.escape(cell[:SHOWN_CHARACTERS])}" for cell in cells))
    heads = "<tr><th>item<th>question<th>right<th>first said<th>second said<th>first<th>second"
    return f"<table>{heads}{''.join(rows)}</table>"


def _items(result: Mapping[str, Any]) -> list[ItemReliability]:
    return [ItemReliability(**{k: v for k, v in row.items() if k != "quadrant"}) for row in result["items"]]
