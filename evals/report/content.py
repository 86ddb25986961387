"""What a report says of each task: read from a folder of runs, nothing is generated."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from data_cards.schema import DataCard, load_card
from evals.measures import Answered
from evals.report import charts
from evals.report.predictions import Predictions, commonest_share, predictions_of
from evals.results.scores import Scores, as_json, estimate_of, grades, measures, read_answered, shortfalls
from evals.tasks.catalogue import TASKS
from evals.tasks.task import Task
from medsiglip.metrics.calibration import bins_of_equal_width
from medsiglip.metrics.classification import UNPARSED, confusion_counts
from medsiglip.metrics.estimates import auroc_estimate, average_precision_estimate, calibration_error_estimate
from medsiglip.metrics.statistics import Estimate

Figure = Mapping[str, Any]
"""One figure as scores.json has it."""

N_WORST = 10
SHARES_RIGHT = ("accuracy", "closed_accuracy")
"""Metrics that always giving the commonest answer has a value in; of macro F1 or AUROC that share is none."""
SHOWN_CHARACTERS = 400


@dataclass(frozen=True)
class Published:
    """A published figure beside ours."""

    metric: str
    value: float
    model: str
    protocol: str
    source: str
    card: str
    is_same_data: bool
    """The figure is of the data that was run; else of a set that shares items with it."""


@dataclass(frozen=True)
class Confusion:
    """Counts of references (rows) and answers (columns)."""

    rows: list[str]
    columns: list[str]
    counts: list[list[int]]


@dataclass(frozen=True)
class Subgroup:
    """The main metric of a part of the items."""

    key: str
    value: str
    figure: Figure


@dataclass(frozen=True)
class Shown:
    """One item that went wrong."""

    item_id: str
    prompt: str
    reference: str
    answer: str
    score: str
    files: tuple[str, ...]


@dataclass(frozen=True)
class Section:
    """One task of the report."""

    name: str
    """As in scores.json."""
    task: Task
    main_metric: str
    main: Figure
    """The figure of the task's main metric, the first one if it lacks that."""
    baseline: float | None
    """What always giving the commonest reference scores."""
    metrics: Mapping[str, Figure]
    parts: Mapping[str, Figure]
    """Metrics of a part of the items, `metric/part`."""
    record: Figure
    """What run.json and the outputs say."""
    published: Sequence[Published]
    figures: Sequence[Markup]
    confusion: Confusion | None
    subgroups: Sequence[Subgroup]
    worst: Sequence[Shown]
    failed: Sequence[Shown]
    example: str
    """The prompt of one item."""


def sections_of(out_dir: Path, scores: Scores) -> Iterator[Section]:
    """Yield the sections of a scored folder.

    Raises:
        ValueError: A file is missing or broken.
    """
    for name, metrics in scores.items():
        if metrics:
            task, _, shuffled = name.partition(":")
            folder = out_dir / task / "shuffled" if shuffled else out_dir / task
            yield _section(name, TASKS[task], metrics, read_answered(TASKS[task], folder))


def published_for(task: Task) -> list[Published]:
    """Return the published figures for the data of a task, then those for overlapping sets of the same kind."""
    own = [load_card(name) for name in task.cards]
    kinds = {kind for card in own for kind in card.tasks}
    others = dict.fromkeys(name for card in own for name in card.overlaps if name not in task.cards)
    related = [card for card in map(load_card, others) if kinds & set(card.tasks)]
    return [*_figures(own, True), *_figures(related, False)]


def remarks_of(out_dir: Path, scores: Scores) -> list[str]:
    """Return what a reader must know before any figure, one line a matter, with the tasks it concerns."""
    concerned: dict[str, list[str]] = defaultdict(list)
    for name, metrics in scores.items():
        record = next(iter(metrics.values()), {})
        for table in record.get("data_differs_from_card", ()):
            concerned[f"{table} is not the copy its card describes; figures do not compare with others"].append(name)
        if record.get("limit") == record.get("n_items", -1):
            concerned[f"{record['limit']} items drawn by seed {record['seed']}, not all (--limit)"].append(name)
        if record.get("shown_as_examples"):
            concerned["items that the worked examples show too"].append(f"{name} ({len(record['shown_as_examples'])})")
        if judge := record.get("judge"):
            accepted = judge["accepted"]
            measured = f"agreement with people {accepted['agreement']['value']:.3f}" if accepted else "not measured"
            concerned[f"judged by {judge['judge']}, frame {judge['frame_version']}, {measured}"].append(name)
        if record.get("n_cut"):
            concerned["answers cut at the limit of tokens"].append(f"{name} ({record['n_cut']} of {record['n_items']})")
    return [*shortfalls(out_dir, scores), *(f"{what}: {', '.join(names)}" for what, names in concerned.items())]


def _figures(cards: Sequence[DataCard], is_same_data: bool) -> list[Published]:
    return [
        Published(f.metric, f.value, f.model, f.protocol, f.source, card.name, is_same_data)
        for card in cards
        for f in card.reference_figures
    ]


def _section(name: str, task: Task, metrics: Mapping[str, Figure], answered: list[Answered]) -> Section:
    predictions = predictions_of(task, answered)
    whole = {metric: figure for metric, figure in metrics.items() if "/" not in metric}
    main = task.main_metric if task.main_metric in whole else next(iter(whole))
    return Section(
        name=name,
        task=task,
        main_metric=main,
        main=whole[main],
        baseline=commonest_share(task, answered) if main in SHARES_RIGHT else None,
        metrics=whole,
        parts={metric: figure for metric, figure in metrics.items() if "/" in metric},
        record=whole[main],
        published=published_for(task),
        figures=list(_charts(predictions)) if predictions and predictions.probabilities is not None else [],
        confusion=_confusion(predictions) if predictions else None,
        subgroups=list(_subgroups(task, main, answered)),
        worst=list(_worst(task, main, answered)),
        failed=[_shown(pair, "failed", pair.output.error) for pair in answered if pair.output.error],
        example=answered[0].item.prompt,
    )


def _charts(found: Predictions) -> Iterator[Markup]:
    """ROC and precision-recall of each class against the others (of two, of the second), and the reliability."""
    assert found.probabilities is not None
    roc, recall = [], []
    for place in range(1 if len(found.classes) == 2 else 0, len(found.classes)):
        truth, scores = np.array(found.labels) == found.classes[place], found.probabilities[:, place]
        if truth.all() or not truth.any():
            continue
        area = auroc_estimate(scores, truth, found.groups).bootstrap
        precision = average_precision_estimate(scores, truth, found.groups)
        roc.append(charts.roc(scores, truth, found.classes[place], "AUROC " + _said(area)))
        recall.append(charts.precision_recall(scores, truth, found.classes[place], "AP " + _said(precision)))
    if roc:
        yield charts.curves(roc, "ROC", "1 - specificity", "sensitivity", diagonal=True)
        yield charts.curves(recall, "Precision and recall", "recall", "precision", diagonal=False)
    top, right = found.probabilities.max(axis=1), np.array(found.predicted) == np.array(found.labels)
    error = calibration_error_estimate(bins_of_equal_width(top, right), found.groups)
    note = (
        f"Probability of the class that was picked. Expected calibration error, 10 bins of equal width: {_said(error)}"
    )
    yield charts.reliability(top, right, "Reliability", note)


def _said(estimate: Estimate) -> str:
    low, high = estimate.ci95
    return f"{estimate.value:.3f} [{low:.3f}, {high:.3f}]" if np.isfinite(low) else f"{estimate.value:.3f}"


def _confusion(found: Predictions) -> Confusion:
    columns = [*found.classes, *([UNPARSED] if UNPARSED in found.predicted else [])]
    counts = confusion_counts(found.predicted, found.labels, columns)
    table = np.asarray(counts).reshape(len(columns), len(columns)).astype(int)
    shown = [name if name != UNPARSED else "none of these" for name in columns]
    return Confusion(found.classes, shown, table[: len(found.classes)].tolist())


def _subgroups(task: Task, metric: str, answered: Sequence[Answered]) -> Iterator[Subgroup]:
    for key in task.subgroups:
        for value in sorted({pair.item.meta.get(key, "") for pair in answered} - {""}):
            part = [pair for pair in answered if pair.item.meta.get(key) == value]
            measure = measures(task, part).get(metric)
            if measure is not None:
                yield Subgroup(key, value, as_json(estimate_of(measure)))


def _worst(task: Task, metric: str, answered: Sequence[Answered]) -> Iterator[Shown]:
    """The items with the lowest grade; of equals those whose wrong class had the highest probability."""
    good = [pair for pair in answered if not pair.output.error]
    of_id = {pair.item.item_id: pair for pair in good}
    graded = grades(task, good).get(metric, [])

    def sureness(item_id: str) -> float:
        return max(of_id[item_id].output.probabilities.values(), default=0.0)

    for grade in sorted((g for g in graded if g.value < 1), key=lambda g: (g.value, -sureness(g.item_id)))[:N_WORST]:
        sure = sureness(grade.item_id)
        yield _shown(of_id[grade.item_id], f"{grade.value:.2f}" + (f", p = {sure:.3f}" if sure else ""))


def _shown(pair: Answered, score: str, answer: str = "") -> Shown:
    said = answer or pair.output.text or " ".join(f"{score:.2f}" for score in pair.output.log_likelihoods)
    return Shown(
        pair.item.item_id,
        _clipped(pair.item.prompt),
        _clipped(pair.item.reference),
        _clipped(said) or "(empty)",
        score,
        pair.item.files,
    )


def _clipped(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + " …"
