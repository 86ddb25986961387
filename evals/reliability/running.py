"""Running a task's items with their probes, and what is written of it: reliability.json and reliability.html."""

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from evals.items import Item, read_items
from evals.outputs import latest, read_outputs
from evals.reliability.probes import NUM_ORDERS, kind_of, probes
from evals.reliability.quadrants import (
    QUADRANTS,
    Reliability,
    due,
    item_reliability,
    reliability,
)
from evals.running.options import PROBED, RELIABILITY, RunOptions
from evals.running.record import read_record
from evals.tasks.task import ItemOptions, Task
from medsiglip.metrics.statistics import Estimate

ROUNDS = 3
"""Of asking; see `quadrants.due`."""


def probing_task(task: Task, options: RunOptions, out_dir: Path, num_orders: int = NUM_ORDERS) -> Task:
    """Return the task that asks the items of another and their probes, as far as earlier answers leave a question open.

    It is run until it has no more items than before (`quadrants.due`), at most ROUNDS times.

    Raises:
        ValueError: The task's answers are no text that can be parsed, so that two cannot be compared.
    """
    if not can_be_probed(task):
        raise ValueError(
            f"task {task.name}: its answers cannot be compared; take one whose answer is a letter or short"
        )
    folder = out_dir / f"{task.name}{PROBED}"

    def items(data_dir: str | Path, asked: ItemOptions) -> list[Item]:
        made = probes(task.items(data_dir, asked)[: options.limit], folder / "blank", asked.seed, num_orders)
        return due(made, _texts(folder, made, task), task)

    return replace(task, name=folder.name, items=items)


def can_be_probed(task: Task) -> bool:
    """Whether two answers of a task can be compared: they are read from a text, or are the likeliest choice."""
    return task.answers == "choices" or (task.answers == "text" and task.parse is not None)


def num_probes(folder: Path) -> int:
    """Return how many probes the last round asked in all; 0 before the first."""
    path = folder / "items.jsonl"
    return len(read_items(path)) if path.is_file() else 0


def summarise(task: Task, out_dir: Path, seed: int = 0) -> Reliability:
    """Count the quadrants of a task that was run, and write reliability.json and the page.

    Raises:
        ValueError: It was not run.
    """
    folder = out_dir / f"{task.name}{PROBED}"
    asked = read_items(folder / "items.jsonl")
    texts = _texts(folder, asked, task)
    found = reliability(item_reliability(asked, texts, task), seed)
    record = read_record(folder)
    written = _as_json(found) | {
        "task_version": task.version,
        "model": record.get("model", ""),
        "model_identity": record.get("model_identity", ""),
        "num_probes": len(asked),
        "num_answered": sum(text is not None for text in texts.values()),
        "num_items": sum(kind_of(probe) == "asked" for probe in asked),
    }
    results = read_results(out_dir) | {task.name: written}
    write_whole(out_dir / RELIABILITY, json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    write_whole(out_dir / "reliability.html", page(results))
    return found


def _texts(folder: Path, asked: Sequence[Item], task: Task) -> dict[str, str | None]:
    """Probe id to the answer: a text, the likeliest choice's letter, None for one that failed."""
    outputs = latest(read_outputs(folder / "outputs.jsonl"), asked)
    if task.answers == "choices":
        return {
            name: None if output.error else chr(ord("A") + output.log_likelihoods.index(max(output.log_likelihoods)))
            for name, output in outputs.items()
        }
    return {name: None if output.error else output.text for name, output in outputs.items()}


def read_results(out_dir: Path) -> dict[str, Any]:
    """Return what reliability.json holds, nothing if it is not there."""
    path = out_dir / RELIABILITY
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def lines_of(task: str, found: Reliability) -> list[tuple[str, str, str, str]]:
    """Return table rows: task, what, share, accuracy."""
    rows = [
        (task, name, shown(quadrant.share), f"accuracy {shown(quadrant.accuracy)}" if quadrant.accuracy else "")
        for name, quadrant in found.quadrants.items()
    ]
    totals = (("stable", found.stable), ("needs the picture", found.looks), ("keeps the letter", found.position_bias))
    return rows + [(task, name, shown(value), f"n={value.n}") for name, value in totals if value]


def page(results: Mapping[str, Any]) -> str:
    """Return one HTML page: the quadrants of each task, and the items by quadrant."""
    parts = ["<!doctype html><meta charset=utf-8><title>Reliability</title>", STYLE, "<h1>Reliability</h1>"]
    for task, result in results.items():
        parts.append(
            f"<h2>{html.escape(task)}</h2><p>{html.escape(str(result['model']))}, {result['num_items']} items</p>"
        )
        rows = "".join(
            f"<tr><td>{name}<td>{interval(cell['share'])}<td>{interval(cell['accuracy']) if cell['accuracy'] else ''}"
            for name, cell in result["quadrants"].items()
        )
        parts.append(f"<table><tr><th>quadrant<th>share<th>accuracy in it{rows}</table>")
        for name in QUADRANTS:
            inside = [item["item_id"] for item in result["items"] if item["quadrant"] == name]
            listed = html.escape(", ".join(inside))
            parts.append(f"<details><summary>{name}: {len(inside)} items</summary>{listed}</details>")
    return "\n".join(parts) + "\n"


STYLE = (
    "<style>body{font:15px sans-serif;max-width:60em;margin:2em auto}td,th{padding:.2em 1em;text-align:left}</style>"
)


def _as_json(found: Reliability) -> dict[str, Any]:
    def figure(value: Estimate | None) -> dict[str, Any] | None:
        if value is None:
            return None
        low, high = value.ci95
        ends = [None, None] if low != low else [low, high]  # nan: no interval
        return {"value": value.value, "n": value.n, "n_groups": value.n_groups, "ci95": ends}

    return {
        "quadrants": {
            name: {"share": figure(cell.share), "accuracy": figure(cell.accuracy)}
            for name, cell in found.quadrants.items()
        },
        "stable": figure(found.stable),
        "needs_picture": figure(found.looks),
        "position_bias": figure(found.position_bias),
        "items": [{**asdict(item), "quadrant": item.quadrant} for item in found.items],
    }


def shown(value: Estimate) -> str:
    """Return "0.512 [0.431, 0.590]", or why there is no interval."""
    if value.ci95.low != value.ci95.low:  # nan
        return f"{value.value:.3f} (too few: {value.note})"
    return f"{value.value:.3f} [{value.ci95.low:.3f}, {value.ci95.high:.3f}]"


def interval(figure: Mapping[str, Any]) -> str:
    """Return a figure of reliability.json as text."""
    low, high = figure["ci95"]
    ends = "" if low is None else f" [{low:.3f}, {high:.3f}]"
    return f"{figure['value']:.3f}{ends} n={figure['n']}"


def write_whole(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    draft = path.with_suffix(".tmp")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)
