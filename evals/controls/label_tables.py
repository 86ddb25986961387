"""Zero-shot and probe figures of every labelled picture set of the kit, raw pixels beside them.

Letters: N pictures, C labels, D width.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from threadpoolctl import threadpool_limits

from data_cards.readers.pictures import LabelledPicture, read_labelled_pictures
from data_cards.split import Side, side
from evals.controls.baselines import has_colour, pixel_rows, small_pixels
from evals.tasks.picture_classes import RETINOPATHY, RETINOPATHY_CAPTIONS, SKIN
from evals.tasks.zero_shot import class_prompts, label_of
from evals.tasks.zero_shot_findings import NIH14_FINDINGS
from medsiglip.metrics.statistics import Estimate, grouped_bootstrap_ci
from medsiglip.probe import logistic_regression
from medsiglip.probing.study import Fold, Labelled, held_out, mean_auroc, mean_auroc_difference
from medsiglip.prompts import LabelSet, label_set
from medsiglip.zero_shot import ZeroShotClassifier

if TYPE_CHECKING:
    from medsiglip.encoder import MedSigLIP

LEAST_GROUPS = 2
"""Groups with and without a finding, on either side, that it takes to be scored."""
COVID = {
    "COVID-19": ("a chest X-ray of COVID-19",),
    "other pneumonia/ARDS": ("a chest X-ray of pneumonia",),
    "No Finding": ("a chest X-ray without findings",),
}
Truth = Callable[[LabelledPicture], Mapping[str, float]]
"""A picture's labels, 1 or 0; empty leaves it out."""


HEAD = (
    "# Every labelled picture set of the kit",
    "",
    "`medgemma-eval labels` writes this table. A probe and raw pixels (24×24 in a logistic regression) learn from the",
    "training side; what is scored neither saw. Zero-shot uses captions that no recipe trains on. nano was trained on",
    "none of the skin, fundus and COVID-19 pictures.",
    "",
)
"""The head of the page."""


@dataclass(frozen=True)
class LabelledSet:
    """One row of the table."""

    name: str
    card: str
    labels: LabelSet
    truth: Truth


@dataclass(frozen=True)
class Row:
    """What was measured of one set; None where the training side has too little to learn from."""

    name: str
    labels: tuple[str, ...]
    n: int
    n_groups: int
    zero_shot: Estimate
    """Mean AUROC."""
    zero_shot_accuracy: Estimate | None
    """Of labels that exclude each other."""
    commonest: float | None
    """Share of the commonest label."""
    probe: Estimate | None
    raw_pixels: Estimate | None
    probe_minus_raw_pixels: Estimate | None


def labelled_sets() -> list[LabelledSet]:
    """Every labelled picture set of the kit."""
    return [
        *(
            LabelledSet(f"{card}: {what}", card, LabelSet("", "softmax", _texts(task)), _by_task(task))
            for card, what, task in (
                ("modality-mednist", "six kinds", "zero-shot-mednist"),
                ("histo-lc25000-lung", "three tissues", "zero-shot-lung-histology"),
                ("vqa-rad", "four kinds", "zero-shot-vqa-rad"),
                ("cxr-nih14", "pneumonia or no finding", "zero-shot-nih-pneumonia"),
            )
        ),
        LabelledSet("cxr-nih14: findings", "cxr-nih14", _findings(), _finding_truth),
        LabelledSet("cxr-nih14-64px: findings", "cxr-nih14-64px", _findings(), _finding_truth),
        LabelledSet("cxr-covid: three classes", "cxr-covid", LabelSet("", "softmax", COVID), _by_column(COVID)),
        LabelledSet("derm-ham10000: seven lesions", "derm-ham10000", _skin(), _by_column(SKIN)),
        LabelledSet(
            "fundus-dr: five grades",
            "fundus-dr",
            LabelSet("", "softmax", RETINOPATHY_CAPTIONS),
            _by_column(RETINOPATHY),
        ),
    ]


def measure(encoder: "MedSigLIP", data: Path, which: LabelledSet, on: Side = "held-out", seed: int = 0) -> Row:
    """Score one side of a set: zero-shot; and a probe and raw pixels that learned from the training side.

    Args:
        encoder: the encoder.
        data: the kit.
        which: the set.
        on: the side that is scored.
        seed: of folds.

    Raises:
        ValueError: the set is missing or broken, or nothing of it lies on the side.
    """
    pictures = [p for p in read_labelled_pictures(data, which.card) if p.labels.get("copy", "1") == "1"]
    found = [(picture, which.truth(picture)) for picture in pictures]
    known = [(picture, truth) for picture, truth in found if truth]
    labels = _scorable(known, which, on)
    if not labels:
        raise ValueError(f"{which.name}: no label with {LEAST_GROUPS} groups on the side {on}")
    vectors = encoder.encode_images([picture.path for picture, _ in known])
    sides = np.array([side(picture.group) for picture, _ in known])
    data_of = Labelled(
        labels,
        which.labels.exclusive,
        vectors,
        np.array([[truth[label] for label in labels] for _, truth in known]),
        tuple(picture.group for picture, _ in known),
        tuple(picture.path.name for picture, _ in known),
        ("",) * len(known),
    )
    fold = Fold(np.flatnonzero(sides == "train"), np.flatnonzero(sides == on))
    scored = data_of.rows(fold.scored)
    said = ZeroShotClassifier(encoder, which.labels).classify_vectors(scored.vectors)
    zero_shot = said.probabilities[:, [said.labels.index(label) for label in labels]]
    probed = _probed(data_of, fold, seed)
    pixels = _by_raw_pixels([picture for picture, _ in known], data_of, fold)
    exclusive = which.labels.exclusive
    right = scored.truth[np.arange(len(zero_shot)), zero_shot.argmax(axis=1)] == 1
    return Row(
        which.name,
        labels,
        len(zero_shot),
        len(set(scored.groups)),
        mean_auroc(scored, zero_shot),
        grouped_bootstrap_ci(right.astype(float), scored.groups) if exclusive else None,
        float(scored.truth.mean(axis=0).max()) if exclusive else None,
        None if probed is None else mean_auroc(scored, probed),
        None if pixels is None else mean_auroc(scored, pixels),
        None if probed is None or pixels is None else mean_auroc_difference(scored, probed, pixels),
    )


def markdown(rows: Sequence[Row], model: str, on: Side) -> str:
    """The table, and below it the labels of each row."""
    lines = [
        *HEAD,
        f"Model `{model}`, side `{on}`. Mean AUROC over labels, one against the rest; 95 % intervals by bootstrap over "
        "groups.",
        "",
        "| set | n, groups | zero-shot | accuracy | commonest label | probe | raw pixels | probe minus pixels |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        estimates = (row.probe, row.raw_pixels, row.probe_minus_raw_pixels)
        commonest = "" if row.commonest is None else f"{row.commonest:.3f}"
        cells = [row.name, f"{row.n}, {row.n_groups}", _text(row.zero_shot), _text(row.zero_shot_accuracy), commonest]
        lines.append(f"| {' | '.join([*cells, *map(_text, estimates)])} |")
    lines += ["", *(f"- {row.name}: {'; '.join(row.labels)}" for row in rows)]
    return "\n".join(lines) + "\n"


def _text(estimate: Estimate | None) -> str:
    if estimate is None:
        return ""
    low, high = estimate.ci95
    return f"{estimate.value:.3f}" + (f" [{low:.3f}, {high:.3f}]" if np.isfinite(low) else " (no interval)")


def _probed(data: Labelled, fold: Fold, seed: int) -> np.ndarray | None:
    """(n, C) of the scored side; None where a label has too few groups on the training side."""
    try:
        return np.asarray(held_out(data, [fold], "linear", seed)[fold.scored])
    except ValueError:
        return None


def _by_raw_pixels(pictures: Sequence[LabelledPicture], data: Labelled, fold: Fold) -> np.ndarray | None:
    """(n, C) of the scored side by 24 x 24 pixels in a logistic regression, as in `baselines`; None as `_probed`."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    small = small_pixels(picture.path for picture in pictures)
    rows = pixel_rows(small, 3 if has_colour(small[fold.fitted]) else 1)
    names = data.truth.argmax(axis=1)[:, None] if data.exclusive else data.truth.astype(int)
    found = np.zeros((len(fold.scored), len(data.labels)))
    with threadpool_limits(1):
        for j, column in enumerate(names.T):
            if len(set(column[fold.fitted].tolist())) < 2:
                return None
            fitted = make_pipeline(StandardScaler(), logistic_regression(1.0)).fit(
                rows[fold.fitted], column[fold.fitted]
            )
            table = fitted.predict_proba(rows[fold.scored])
            if data.exclusive:
                found[:, fitted.classes_] = table
            else:
                found[:, j] = table[:, 1]
    return found


def _scorable(
    known: Sequence[tuple[LabelledPicture, Mapping[str, float]]], which: LabelledSet, on: Side
) -> tuple[str, ...]:
    """Labels that are there; independent ones need groups with and without them on both sides."""
    if which.labels.exclusive:
        there = {label for _, truth in known for label, cell in truth.items() if cell == 1}
        return tuple(label for label in which.labels.labels if label in there)
    kept = []
    for label in which.labels.labels:
        counts = [
            len({picture.group for picture, truth in known if truth[label] == cell and side(picture.group) == where})
            for cell in (0, 1)
            for where in ("train", on)
        ]
        if min(counts) >= LEAST_GROUPS:
            kept.append(label)
    return tuple(kept)


def _texts(task: str) -> dict[str, tuple[str, ...]]:
    return {label: tuple(texts) for label, texts in class_prompts(task).items()}


def _by_task(task: str) -> Truth:
    labels = list(class_prompts(task))

    def truth(picture: LabelledPicture) -> Mapping[str, float]:
        label = label_of(task, picture)
        return {} if label is None else {name: float(name == label) for name in labels}

    return truth


def _by_column(labels: Mapping[str, object]) -> Truth:
    def truth(picture: LabelledPicture) -> Mapping[str, float]:
        own = picture.labels["label"]
        return {name: float(name == own) for name in labels} if own in labels else {}

    return truth


def _findings() -> LabelSet:
    whole = label_set("chest-xray-findings")
    prompts, absent = ({name: of[name] for name in NIH14_FINDINGS} for of in (whole.prompts, whole.absent))
    return LabelSet("", whole.convention, prompts, absent)


def _finding_truth(picture: LabelledPicture) -> Mapping[str, float]:
    return {
        name: float("1" in [picture.labels[column] for column in columns]) for name, columns in NIH14_FINDINGS.items()
    }


def _skin() -> LabelSet:
    return LabelSet(
        "", "softmax", {label: (f"a skin lesion: {text}", f"dermatoscopy of {text}") for label, text in SKIN.items()}
    )
