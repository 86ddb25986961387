"""What a trained nano pair measures on groups it never saw."""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from data_cards.split import Side
from evals.controls.baselines import BaselinePrediction, accuracy_of, model_minus_baseline, raw_pixel_baseline
from evals.controls.words_alone import mean_of, model_minus_words, words_alone
from evals.results.scores import DIFFERENCE, Graded, as_json, grades, read_answered, score_dir
from evals.running.options import Condition, RunOptions
from evals.running.runner import condition_folder, run_task
from evals.tasks.catalogue import TASKS
from evals.tasks.zero_shot import TRAINED_WORDINGS
from finetune.recipes.nano.card import CardSide, Figure, Measured
from finetune.recipes.nano.confounds import background_alone, modality_of_dicom_files, on_black, view_only_auroc
from finetune.recipes.nano.probe import PROBED, Compared, probe
from medsiglip.command import progress
from medsiglip.metrics.statistics import Estimate, paired_difference

if TYPE_CHECKING:
    from medgemma.model import MedGemma
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
SHUFFLED_TASKS = DECODER_TASKS[1:3]
"""Asked a second time with the pictures shuffled among the questions."""
SHUFFLES = 8
"""So many times VQA-RAD is asked with its pictures shuffled: of its few questions one shuffle gives a fall in accuracy
that the next shuffle halves or doubles."""
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
    right: dict[str, dict[str, float]] = {name: {} for name in ENCODER_TASKS}
    of_raw_pixels: dict[str, list[BaselinePrediction]] = {name: [] for name in ENCODER_TASKS}
    for side in MEASURED_SIDES:
        names = [name + wordings for name in ENCODER_TASKS for wordings in ("", TRAINED_WORDINGS)]
        scores = _run(encoder, [(name, "real") for name in names], side, data, out, seed, quiet)
        for name in ENCODER_TASKS:
            mine, raw_pixels = _right(name, out / side), raw_pixel_baseline(data, name, side)
            rows += [*_figures(side, name, scores[name]), *_beside_raw_pixels(side, name, mine, raw_pixels)]
            right[name] |= mine
            of_raw_pixels[name] += raw_pixels
            rows += _figures(side, name + TRAINED_WORDINGS, scores[name + TRAINED_WORDINGS])
        view_alone = view_only_auroc(data, side)
        rows.append(_estimate("zero-shot-nih-pneumonia", side, "auroc of the view alone", view_alone))
        grey = background_alone(data, side)
        rows.append(_estimate("zero-shot-mednist", side, "accuracy of the background's grey alone", grey))
        rows += _compared("zero-shot-mednist on black", side, on_black(encoder, data, side))
    rows += [_minus_raw_pixels("both", name, right[name], of_raw_pixels[name]) for name in ENCODER_TASKS]
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
    rows += _falls_over_shuffles(decoder, data, out, quiet)
    return Measured(decoder.fingerprint, seed, tuple(rows))


def _falls_over_shuffles(decoder: "MedGemma", data: Path, out: Path, quiet: bool) -> list[Figure]:
    """What VQA-RAD's closed questions lose with other groups' pictures, on each side and on both."""
    real = {side: _closed(condition_folder(out / side, "vqa-rad", "real")) for side in MEASURED_SIDES}
    shuffled = {side: _closed_when_shuffled(decoder, side, data, out / side, quiet) for side in MEASURED_SIDES}
    falls: dict[CardSide, Estimate] = {side: mean_fall(real[side], shuffled[side]) for side in MEASURED_SIDES}
    together = [list(chain(*of_sides)) for of_sides in zip(*shuffled.values(), strict=True)]
    falls["both"] = mean_fall(list(chain(*real.values())), together)
    metric = f"closed_accuracy{DIFFERENCE}, mean of {SHUFFLES} shuffles"
    return [_estimate("vqa-rad", side, metric, fall) for side, fall in falls.items()]


def _closed_when_shuffled(
    decoder: "MedGemma", side: Side, data: Path, out: Path, quiet: bool
) -> list[Sequence[Graded]]:
    shuffled = []
    for seed in range(SHUFFLES):
        folder = out / f"shuffle-{seed}"
        options = RunOptions(side=side, seed=seed, condition="shuffled")
        command = f"medgemma-eval run vqa-rad --side {side} --shuffle-pictures --seed {seed}"
        with progress(None, f"items of vqa-rad, {side}, shuffle {seed + 1} of {SHUFFLES}", quiet) as advance:
            run_task(TASKS["vqa-rad"], options, data, folder, decoder, "nano", command, advance, expect=advance.expect)
        shuffled.append(_closed(condition_folder(folder, "vqa-rad", "shuffled")))
    return shuffled


def _closed(run: Path) -> Sequence[Graded]:
    return grades(TASKS["vqa-rad"], read_answered(TASKS["vqa-rad"], run))["closed_accuracy"]


def mean_fall(real: Sequence[Graded], shuffled: Sequence[Sequence[Graded]]) -> Estimate:
    """What an item loses with another group's picture, on the average over shuffles, with its interval over groups.

    Raises:
        KeyError: a shuffle lacks an item.
    """
    by_item = [{one.item_id: one.value for one in shuffle} for shuffle in shuffled]
    others = [fmean(values[one.item_id] for values in by_item) for one in real]
    return paired_difference([one.value for one in real], others, [one.group for one in real])


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


def _right(task: str, out: Path) -> dict[str, float]:
    """Item id to 1 where the model was right, else 0."""
    graded = grades(TASKS[task], read_answered(TASKS[task], condition_folder(out, task, "real")))["accuracy"]
    return {one.item_id: one.value for one in graded}


def _beside_raw_pixels(
    side: Side, task: str, right: dict[str, float], raw_pixels: list[BaselinePrediction]
) -> list[Figure]:
    """The raw-pixel classifier on the same split, and the paired difference."""
    return [
        _estimate(task, side, "accuracy of raw pixels", accuracy_of(raw_pixels)),
        _minus_raw_pixels(side, task, right, raw_pixels),
    ]


def _minus_raw_pixels(
    side: CardSide, task: str, right: dict[str, float], raw_pixels: list[BaselinePrediction]
) -> Figure:
    return _estimate(task, side, "accuracy, nano minus raw pixels", model_minus_baseline(right, raw_pixels))


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


def _compared(task: str, side: CardSide, found: Compared) -> list[Figure]:
    return [
        _estimate(task, side, "accuracy", found.nano),
        _estimate(task, side, "accuracy of raw pixels", found.raw_pixels),
        _estimate(task, side, "accuracy, nano minus raw pixels", found.difference),
    ]


def _estimate(task: str, side: CardSide, metric: str, found: Estimate) -> Figure:
    return _figure(side, task, metric, as_json(found))


def _figure(side: CardSide, task: str, metric: str, found: dict[str, Any]) -> Figure:
    low, high = found["ci95"]
    return Figure(side, task, metric, found["value"], (low, high), found["n"], found["n_groups"])
