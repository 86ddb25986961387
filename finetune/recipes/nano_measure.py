"""What a trained nano pair measures on groups it never saw, and the cards that say so."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evals.baselines import accuracy_of, model_minus_baseline, raw_pixel_baseline
from evals.metrics.statistics import Estimate
from evals.options import RunOptions
from evals.runner import condition_folder, run_task
from evals.scores import DIFFERENCE, as_json, grades, read_answered, score_dir
from evals.tasks.catalogue import TASKS
from medsiglip.command import progress

ENCODER_TASKS = (
    "zero-shot-lung-histology",
    "zero-shot-mednist",
    "zero-shot-modality",
    "zero-shot-body-part",
    "zero-shot-nih-pneumonia",
)
DECODER_TASKS = ("vqa-rad", "picture-questions", "picture-questions-new-wordings")
SHOWN_METRICS = (
    "accuracy",
    "macro_auroc_one_vs_rest",
    "closed_accuracy",
    "closed_accuracy" + DIFFERENCE,
    "open_token_f1_squad",
    "open_exact_match_norm",
    "closed_accuracy/modality",
    "closed_accuracy/body_part",
    "open_exact_match_norm/modality",
    "open_exact_match_norm/body_part",
    "open_exact_match_norm/tissue",
)
"""The metrics that go on a card, in this order; scores.json holds the others too."""


@dataclass(frozen=True)
class Figure:
    """One row of a card."""

    task: str
    metric: str
    value: float
    ci95: tuple[float, float]
    n: int
    n_groups: int


def measure(encoder_folder: Path, decoder_folder: Path, data: Path, out: Path, *, seed: int, quiet: bool) -> None:
    """Run the evaluations of both models into OUT, and write measurements.json and README.md beside their weights.

    Every text task is run twice, the second time with the pictures shuffled among the questions.
    """
    from medgemma.model import MedGemma
    from medsiglip.encoder import MedSigLIP

    encoder, decoder = MedSigLIP.from_pretrained(encoder_folder), MedGemma.from_pretrained(decoder_folder)
    runs: list[tuple[str, Any, RunOptions]] = [(name, encoder, RunOptions(seed=seed)) for name in ENCODER_TASKS]
    for name in DECODER_TASKS:
        runs += [
            (name, decoder, RunOptions(seed=seed)),
            (name, decoder, RunOptions(seed=seed, condition="shuffled")),
        ]
    for name, model, options in runs:
        command = f"medgemma-eval run {name}" + (" --shuffle-pictures" if options.condition == "shuffled" else "")
        with progress(None, f"items of {name}", quiet) as advance:
            run_task(TASKS[name], options, data, out, model, "nano", command, advance)
    scores = score_dir(out)
    encoder_rows = [
        row for name in ENCODER_TASKS for row in [*_figures(name, scores[name]), *_baseline(name, data, out)]
    ]
    decoder_rows = [row for name in DECODER_TASKS for row in _figures(name, scores[name])]
    _write(encoder_folder, encoder_rows, encoder.fingerprint, seed)
    _write(decoder_folder, decoder_rows, decoder.fingerprint, seed)


def _figures(task: str, metrics: dict[str, dict[str, Any]]) -> list[Figure]:
    shown = [name for name in SHOWN_METRICS if name in metrics]
    return [_figure(task, name, metrics[name]) for name in shown if None not in metrics[name]["ci95"]]


def _baseline(task: str, data: Path, out: Path) -> list[Figure]:
    """The raw-pixel classifier on the same split, and the paired difference."""
    predictions = raw_pixel_baseline(data, task)
    graded = grades(TASKS[task], read_answered(TASKS[task], condition_folder(out, task, "real")))["accuracy"]
    rows: dict[str, Estimate] = {
        "accuracy of raw pixels": accuracy_of(predictions),
        "accuracy, nano minus raw pixels": model_minus_baseline({g.item_id: g.value for g in graded}, predictions),
    }
    return [_figure(task, name, as_json(estimate)) for name, estimate in rows.items()]


def _figure(task: str, metric: str, found: dict[str, Any]) -> Figure:
    low, high = found["ci95"]
    return Figure(task, metric, found["value"], (low, high), found["n"], found["n_groups"])


def _write(folder: Path, figures: Sequence[Figure], fingerprint: str, seed: int) -> None:
    from dataclasses import asdict

    facts = {
        "fingerprint": fingerprint,
        "command": "medgemma-eval run TASK --data DIR --out DIR [--shuffle-pictures]",
        "side": "held-out",
        "seed": seed,
        "figures": [asdict(figure) for figure in figures],
    }
    (folder / "measurements.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    template = (Path(__file__).parent / f"nano_card_{folder.name}.md").read_text(encoding="utf-8")
    card = template.replace("{{ figures }}", _table(figures)).replace("{{ fingerprint }}", fingerprint)
    (folder / "README.md").write_text(card, encoding="utf-8")


def _table(figures: Sequence[Figure]) -> str:
    lines = ["| task | metric | value | 95 % interval | n | groups |", "| --- | --- | --- | --- | --- | --- |"]
    for row in figures:
        low, high = row.ci95
        interval = f"{low:.3f} to {high:.3f}"
        lines.append(f"| {row.task} | {row.metric} | {row.value:.3f} | {interval} | {row.n} | {row.n_groups} |")
    return "\n".join(lines)
