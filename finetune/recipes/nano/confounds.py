"""What gives a class of the kit away without being it (view, grey around the body); nano without it, and elsewhere.

Letters: N pictures, H and W height and width in pixels.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_cards.readers.pictures import LabelledPicture, read_labelled_pictures
from data_cards.readers.tables import find_set, read_csv
from data_cards.split import Side, side
from evals.controls.baselines import accuracy_of, model_minus_baseline, raw_pixel_baseline
from evals.tasks.zero_shot import class_prompts
from finetune.recipes.nano.probe import Compared, pneumonia_label
from medsiglip.encoder import MedSigLIP
from medsiglip.imaging import read_pictures
from medsiglip.metrics.statistics import Estimate, grouped_bootstrap_ci, grouped_statistic_ci
from medsiglip.zero_shot import ZeroShotClassifier

CONSTANT_SHARE = 0.6
"""A border is padding where so much of it is within CONSTANT_LEVELS of its median: all slices of MedNIST, 2 % of its
chest films, 12 % of its hands."""
CONSTANT_LEVELS = 3
DICOM_MODALITIES = {"CT": "CT", "MR": "MRI", "CR": "X-ray", "RG": "X-ray"}
"""Modality (0008,0060) of dicom-real's files to the one captions name; ultrasound and angiograms have none."""


def view_only_auroc(data: Path, on: Side) -> Estimate:
    """AUROC for pneumonia against no finding by nothing but the film's view: the confound of the set."""
    from sklearn.metrics import roc_auc_score

    known = [(picture, pneumonia_label(picture)) for picture in read_labelled_pictures(data, "cxr-nih14")]
    labelled = [(picture, label == "pneumonia") for picture, label in known if label is not None]
    share = {
        view: np.mean([ill for p, ill in labelled if side(p.group) == "train" and p.labels["view"] == view])
        for view in sorted({p.labels["view"] for p, _ in labelled})
    }
    scored = [(share[p.labels["view"]], ill, p.group) for p, ill in labelled if side(p.group) == on]
    scores, ill = np.array([s for s, _, _ in scored]), np.array([i for _, i, _ in scored])

    def auroc(rows: NDArray[np.intp]) -> float:
        return float(roc_auc_score(ill[rows], scores[rows])) if 0 < ill[rows].sum() < len(rows) else float("nan")

    return grouped_statistic_ci(auroc, [group for _, _, group in scored])


def background_alone(data: Path, on: Side) -> Estimate:
    """Accuracy on MedNIST's six kinds by nothing but two greys, the border's median and the corners': its confound."""
    from sklearn.tree import DecisionTreeClassifier

    pictures = read_labelled_pictures(data, "modality-mednist")
    greys = np.array([_border_greys(_pixels(picture)) for picture in pictures])
    labels = np.array([picture.labels["label"] for picture in pictures])
    sides = np.array([side(picture.group) for picture in pictures])
    fitted = DecisionTreeClassifier(min_samples_leaf=3, random_state=0).fit(
        greys[sides == "train"], labels[sides == "train"]
    )
    rows = sides == on
    right = fitted.predict(greys[rows]) == labels[rows]
    return grouped_bootstrap_ci(right, [picture.group for picture, kept in zip(pictures, rows, strict=True) if kept])


def on_black(encoder: MedSigLIP, data: Path, on: Side) -> Compared:
    """MedNIST's six kinds by held-out captions, every slice before black; raw pixels learn from such pictures too."""
    pixels = raw_pixel_baseline(data, "zero-shot-mednist", on, change=black_background)
    pictures = {picture.picture_id: picture for picture in read_labelled_pictures(data, "modality-mednist")}
    changed = [black_background(_pixels(pictures[one.item_id])) for one in pixels]
    said = _named(encoder, "zero-shot-mednist", changed)
    right = {one.item_id: float(one.label == name) for one, name in zip(pixels, said, strict=True)}
    nano = grouped_bootstrap_ci(list(right.values()), [one.group for one in pixels])
    return Compared(nano, accuracy_of(pixels), model_minus_baseline(right, pixels))


def modality_of_dicom_files(encoder: MedSigLIP, data: Path) -> Estimate:
    """Accuracy on the modality of dicom-real's files by held-out captions: as scanners write them, of no trained set.

    One of them has a false photometric interpretation, so it is seen inverted.
    """
    table = find_set(data, "dicom-real") / "labels.csv"
    rows = [row for row in read_csv(table, ("file", "modality", "patient_id")) if row["modality"] in DICOM_MODALITIES]
    pictures = [read_pictures(table.parent / row["file"])[0].pixels for row in rows]
    said = _named(encoder, "zero-shot-modality", pictures)
    right = [DICOM_MODALITIES[row["modality"]] == name for row, name in zip(rows, said, strict=True)]
    return grouped_bootstrap_ci(right, [row["patient_id"] for row in rows])


def black_background(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Set the lower end of a picture's window to the grey of its padding, so that what is around the body is black.

    Args:
        pixels: (H, W, 3) uint8; one whose border is not of one grey comes back as it is.
    """
    border = _border(pixels)
    grey = float(np.median(border))
    if (np.abs(border - grey) <= CONSTANT_LEVELS).mean() < CONSTANT_SHARE or grey > 200:
        return pixels
    stretched = (pixels.astype(np.float32) - grey) * (255 / (255 - grey))
    return stretched.clip(0, 255).round().astype(np.uint8)


def _named(encoder: MedSigLIP, task: str, pictures: Sequence[NDArray[np.uint8]]) -> list[str]:
    """The class of each picture, by a task's held-out captions."""
    found = ZeroShotClassifier(encoder, class_prompts(task)).classify(pictures)
    return [found.labels[place] for place in found.probabilities.argmax(1)]


def _border(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The mean grey of the outermost pixels, corners twice."""
    grey = pixels.mean(2, dtype=np.float32)
    return np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])


def _border_greys(pixels: NDArray[np.uint8]) -> tuple[float, float]:
    corners = pixels[:: len(pixels) - 1, :: pixels.shape[1] - 1].mean(2)
    return float(np.median(_border(pixels))), float(np.median(corners))


def _pixels(picture: LabelledPicture) -> NDArray[np.uint8]:
    return read_pictures(picture.path)[0].pixels
