"""What a trained nano pair measures on groups it never saw."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_cards.split import Side
from evals.baselines import accuracy_of, model_minus_baseline, raw_pixel_baseline
from evals.metrics.statistics import Estimate
from evals.options import Condition, RunOptions
from evals.runner import condition_folder, run_task
from evals.scores import DIFFERENCE, as_json, grades, read_answered, score_dir
from evals.tasks.catalogue import TASKS
from evals.tasks.zero_shot import TRAINED_WORDINGS
from evals.words_alone import mean_of, model_minus_words, words_alone
from finetune.recipes.nano_card import Figure, Measured
from finetune.recipes.nano_confounds import background_alone, modality_of_dicom_files, on_black, view_only_auroc
from finetune.recipes.nano_probe import PROBED, Compared, probe
from medsiglip.command import progress

if TYPE_CHECKING:
    from medsiglip.encoder import MedSigLIP

ENCODER_TASKS = (
    "zero-shot-lung-histology",
    "zero-shot-mednist",
    "zero-shot-modality",
    "zero-shot-body-part",
    "zero-shot-vqa-rad",
    "zero-shot-nih-pneumonia",
)
DECODER_TASKS = ("vqa-rad", "picture-questions", "picture-questions-new-wordings", "outside-questions")
SHUFFLED_TASKS = DECODER_TASKS[:3]
"""Asked a second time with the pictures shuffled among the questions."""
MEASURED_SIDES: tuple[Side, ...] = ("held-out", "final")
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
    "open_exact_match_norm/not of this picture",
)
"""The metrics that go on a card, in this order; scores.json holds the others too."""


def measure_encoder(folder: Path, data: Path, out: Path, *, seed: int, quiet: bool) -> Measured:
    """Zero-shot tasks in both wordings with their baselines and confounds, and linear probes.

    Args:
        folder: the trained encoder.
        data: folder with one folder a card.
        out: items, outputs and scores by side; a stopped measurement goes on there.
        seed: of the items.
        quiet: no progress bar.
    """
    from medsiglip.encoder import MedSigLIP

    encoder, rows = MedSigLIP.from_pretrained(folder, dtype="float32"), []
    for side in MEASURED_SIDES:
        names = [name + wordings for name in ENCODER_TASKS for wordings in ("", TRAINED_WORDINGS)]
        scores = _run(encoder, [(name, "real") for name in names], side, data, out, seed, quiet)
        for name in ENCODER_TASKS:
            rows += [*_figures(side, name, scores[name]), *_baseline(side, name, data, out / side)]
            rows += _figures(side, name + TRAINED_WORDINGS, scores[name + TRAINED_WORDINGS])
        view_alone = view_only_auroc(data, side)
        rows.append(_estimate("zero-shot-nih-pneumonia", side, "auroc of the view alone", view_alone))
        grey = background_alone(data, side)
        rows.append(_estimate("zero-shot-mednist", side, "accuracy of the background's grey alone", grey))
        rows += _compared("zero-shot-mednist on black", side, on_black(encoder, data, side))
    of_dicom = modality_of_dicom_files(encoder, data)
    rows.append(_estimate("zero-shot-modality of dicom-real", "held-out", "accuracy", of_dicom))
    for card in PROBED:
        with progress(None, f"pictures of {card}", quiet):
            rows += _probe_rows(encoder, data, card, seed)
    return Measured(encoder.fingerprint, seed, tuple(rows))


def measure_decoder(folder: Path, data: Path, out: Path, *, seed: int, quiet: bool) -> Measured:
    """Questions about pictures, with their own and with other pictures; arguments as of `measure_encoder`."""
    from medgemma.model import MedGemma

    decoder, rows = MedGemma.from_pretrained(folder, dtype="float32"), []
    runs: list[tuple[str, Condition]] = [(name, "real") for name in DECODER_TASKS]
    runs += [(name, "shuffled") for name in SHUFFLED_TASKS]
    for side in MEASURED_SIDES:
        scores = _run(decoder, runs, side, data, out, seed, quiet)
        rows += [row for name in DECODER_TASKS for row in _figures(side, name, scores[name])]
        rows += _words_alone(side, data, out / side)
    return Measured(decoder.fingerprint, seed, tuple(rows))


def _run(
    model: Any, runs: Sequence[tuple[str, Condition]], side: Side, data: Path, out: Path, seed: int, quiet: bool
) -> dict[str, dict[str, dict[str, Any]]]:
    for name, condition in runs:
        options = RunOptions(side=side, seed=seed, condition=condition)
        command = f"medgemma-eval run {name} --side {side}" + " --shuffle-pictures" * (condition == "shuffled")
        with progress(None, f"items of {name}, {side}", quiet) as advance:
            run_task(TASKS[name], options, data, out / side, model, "nano", command, advance, expect=advance.expect)
    return score_dir(out / side)


def _figures(side: Side, task: str, metrics: dict[str, dict[str, Any]]) -> list[Figure]:
    shown = [name for name in SHOWN_METRICS if name in metrics]
    return [_figure(side, task, name, metrics[name]) for name in shown if None not in metrics[name]["ci95"]]


def _baseline(side: Side, task: str, data: Path, out: Path) -> list[Figure]:
    """The raw-pixel classifier on the same split, and the paired difference."""
    predictions = raw_pixel_baseline(data, task, side)
    graded = grades(TASKS[task], read_answered(TASKS[task], condition_folder(out, task, "real")))["accuracy"]
    return [
        _estimate(task, side, "accuracy of raw pixels", accuracy_of(predictions)),
        _estimate(
            task,
            side,
            "accuracy, nano minus raw pixels",
            model_minus_baseline({g.item_id: g.value for g in graded}, predictions),
        ),
    ]


def _words_alone(side: Side, data: Path, out: Path) -> list[Figure]:
    """VQA-RAD without its pictures, and the paired difference."""
    graded = words_alone(data, side)
    answered = grades(TASKS["vqa-rad"], read_answered(TASKS["vqa-rad"], condition_folder(out, "vqa-rad", "real")))
    rows = []
    for metric in ("closed_accuracy", "open_token_f1_squad"):
        nano = {one.item_id: one.value for one in answered[metric]}
        rows += [
            _estimate("vqa-rad", side, f"{metric} of words alone", mean_of(graded, metric)),
            _estimate("vqa-rad", side, f"{metric}, nano minus words alone", model_minus_words(nano, graded, metric)),
        ]
    return rows


def _probe_rows(encoder: "MedSigLIP", data: Path, card: str, seed: int) -> list[Figure]:
    probed = probe(encoder, data, card, MEASURED_SIDES, seed)
    return [row for side, found in probed.items() for row in _compared(f"linear probe of {card}", side, found)]


def _compared(task: str, side: Side, found: Compared) -> list[Figure]:
    return [
        _estimate(task, side, "accuracy", found.nano),
        _estimate(task, side, "accuracy of raw pixels", found.raw_pixels),
        _estimate(task, side, "accuracy, nano minus raw pixels", found.difference),
    ]


def _estimate(task: str, side: Side, metric: str, found: Estimate) -> Figure:
    return _figure(side, task, metric, as_json(found))


def _figure(side: Side, task: str, metric: str, found: dict[str, Any]) -> Figure:
    low, high = found["ci95"]
    return Figure(side, task, metric, found["value"], (low, high), found["n"], found["n_groups"])
