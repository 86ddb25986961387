"""What a linear probe makes of nano's embeddings, beside the same probe on raw pixels; sets it never saw among them.

Letters: N pictures.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_cards.readers.pictures import LabelledPicture, read_labelled_pictures
from data_cards.split import Side, side
from evals.controls.baselines import has_colour, pixel_rows, small_pixels
from finetune.recipes.nano.card import CardSide
from medsiglip.encoder import MedSigLIP
from medsiglip.imaging import read_pictures
from medsiglip.metrics.statistics import Estimate, grouped_bootstrap_ci, paired_difference
from medsiglip.probe import LinearProbe


def _label(picture: LabelledPicture) -> str | None:
    return picture.labels["label"]


def pneumonia_label(picture: LabelledPicture) -> str | None:
    """Pneumonia or no finding, None for a film that is neither."""
    if picture.labels["Pneumonia"] == "1":
        return "pneumonia"
    return "no finding" if picture.labels["no_finding"] == "1" else None


def _retinopathy(picture: LabelledPicture) -> str | None:
    return "no DR" if picture.labels["label"] == "0" else "DR"


PROBED: Mapping[str, Callable[[LabelledPicture], str | None]] = {
    "histo-lc25000-lung": _label,
    "modality-mednist": _label,
    "cxr-nih14": pneumonia_label,
    "derm-ham10000": _label,
    "fundus-dr": _retinopathy,
}
"""Card to the class of a picture, None for none; dermatoscopy and fundus were in no training of nano's."""


class Compared(NamedTuple):
    """Accuracies on one side of one set."""

    nano: Estimate
    raw_pixels: Estimate
    difference: Estimate


def probe(encoder: MedSigLIP, data: Path, card: str, sides: Sequence[Side], seed: int) -> dict[CardSide, Compared]:
    """Fit both probes on the train side of a set and score them on others and `both`; of LC25000 one copy a tile.

    Raises:
        ValueError: the set is missing or broken.
    """
    known = [(picture, PROBED[card](picture)) for picture in read_labelled_pictures(data, card)]
    labelled = [
        (picture, label) for picture, label in known if label is not None and picture.labels.get("copy", "1") == "1"
    ]
    pictures = [picture for picture, _ in labelled]
    labels = np.array([label for _, label in labelled])
    groups = np.array([picture.group for picture in pictures])
    on = np.array([side(group) for group in groups.tolist()])
    vectors = encoder.encode_images([read_pictures(picture.path)[0] for picture in pictures])
    right = {}
    for name, features in (("nano", vectors), ("raw pixels", _standardised_pixels(pictures, on == "train"))):
        fitted = LinearProbe.fit(features[on == "train"], labels[on == "train"], groups[on == "train"], seed=seed)
        right[name] = np.array(fitted.predict(features)) == labels
    found: dict[CardSide, Compared] = {}
    scored: dict[CardSide, NDArray[np.bool_]] = {**{one: on == one for one in sides}, "both": np.isin(on, sides)}
    for one, rows in scored.items():
        nano, pixels, of_rows = right["nano"][rows], right["raw pixels"][rows], groups[rows].tolist()
        found[one] = Compared(
            grouped_bootstrap_ci(nano, of_rows),
            grouped_bootstrap_ci(pixels, of_rows),
            paired_difference(nano, pixels, of_rows),
        )
    return found


def _standardised_pixels(pictures: Sequence[LabelledPicture], train: NDArray[np.bool_]) -> NDArray[np.float32]:
    """(N, D) float32: 24 x 24 pixels, standardised on the train side and of about unit length, as embeddings are.

    The length makes the strengths that the probe tries mean the same for both.
    """
    from sklearn.preprocessing import StandardScaler

    pixels = small_pixels(picture.path for picture in pictures)
    rows = pixel_rows(pixels, 3 if has_colour(pixels) else 1)
    standardised = StandardScaler().fit(rows[train]).transform(rows)
    return np.asarray(standardised / np.sqrt(rows.shape[1]), dtype=np.float32)
