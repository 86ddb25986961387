"""What nano's zero-shot probabilities are worth: a temperature a label set, from pictures it was not trained on.

Fitted on `held-out`, every set of the kit counting alike; scored on `final`. MedNIST counts twice, as it is and with
the grey around the body made black (docs/nano.md): on pictures like the latter nano is wrong and sure of it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data_cards.readers.pictures import LabelledPicture, read_labelled_pictures
from data_cards.split import Side, side
from finetune.recipes.nano.confounds import black_background
from medsiglip.calibration.calibration import Calibration, calibrate, write_calibration
from medsiglip.calibration.fitting import log_losses
from medsiglip.calibration.shipped import FILE
from medsiglip.imaging import read_pictures
from medsiglip.imaging.frame import VOI
from medsiglip.metrics.calibration import bins_of_equal_mass
from medsiglip.metrics.estimates import calibration_error_estimate
from medsiglip.metrics.statistics import grouped_bootstrap_ci
from medsiglip.performance.figures import estimate_json
from medsiglip.zero_shot import ZeroShotClassifier

if TYPE_CHECKING:
    from medsiglip.encoder import MedSigLIP

SITE = "the kit's held-out side"
_MODALITY = {"AbdomenCT": "CT", "BreastMRI": "MRI", "CXR": "X-ray", "ChestCT": "CT", "Hand": "X-ray", "HeadCT": "CT"}
_BODY_PART = {"AbdomenCT": "abdomen", "BreastMRI": "breast", "CXR": "chest", "ChestCT": "chest", "Hand": "hand",
              "HeadCT": "head"}  # fmt: skip
_ORGAN = {"HEAD": "head", "CHEST": "chest", "ABD": "abdomen"}
LabelOf = Callable[[LabelledPicture], str]
SETS: dict[str, dict[str, LabelOf]] = {
    "modality": {
        "modality-mednist": lambda picture: _MODALITY[picture.labels["label"]],
        "modality-mednist on black": lambda picture: _MODALITY[picture.labels["label"]],
        "vqa-rad": lambda picture: picture.labels["modality"],
        "histo-lc25000-lung": lambda picture: "histology",
        "cxr-nih14": lambda picture: "X-ray",
    },
    "body-part": {
        "modality-mednist": lambda picture: _BODY_PART[picture.labels["label"]],
        "modality-mednist on black": lambda picture: _BODY_PART[picture.labels["label"]],
        "vqa-rad": lambda picture: _ORGAN[picture.labels["organ"]],
        "cxr-nih14": lambda picture: "chest",
    },
    "lung-histology": {"histo-lc25000-lung": lambda picture: picture.labels["label_text"]},
}
"""Label set to the kit's sets that have its labels, each with a picture's label; an empty one leaves it out."""
ON_BLACK = " on black"


@dataclass(frozen=True)
class _Labelled:
    logits: np.ndarray
    truth: np.ndarray
    groups: list[str]


def write_calibrations(encoder: "MedSigLIP", data: Path, out: Path) -> list[Path]:
    """Fit and score every label set; one YAML each in OUT, which may be the encoder's folder.

    Raises:
        ValueError: a set of the kit is missing or broken.
    """
    written = []
    for task, label_of in SETS.items():
        path = out / FILE.format(task)
        write_calibration(fit(ZeroShotClassifier.for_task(encoder, task), encoder, data, label_of), path)
        written.append(path)
    return written


def fit(
    classifier: ZeroShotClassifier, encoder: "MedSigLIP", data: Path, label_of: Mapping[str, LabelOf]
) -> Calibration:
    """One label set's temperature, with its figures on `final`."""
    on: dict[Side, dict[str, _Labelled]] = {
        which: {name: _labelled(classifier, encoder, data, name, of, which) for name, of in label_of.items()}
        for which in ("held-out", "final")
    }
    fitted = list(on["held-out"].values())
    calibration = calibrate(
        classifier.label_set,
        classifier.labels,
        np.concatenate([one.logits for one in fitted]),
        np.concatenate([one.truth for one in fitted]),
        [group for one in fitted for group in one.groups],
        encoder=encoder.identity,
        pixels=f"{VOI}+{encoder.preprocessing.policy}",
        site=SITE,
        weights=np.concatenate([np.full(len(one.groups), 1 / len(one.groups)) for one in fitted]),
    )
    return replace(calibration, figures={name: _figures(calibration, one) for name, one in on["final"].items()})


def _labelled(
    classifier: ZeroShotClassifier, encoder: "MedSigLIP", data: Path, name: str, label_of: LabelOf, which: Side
) -> _Labelled:
    pictures = [
        picture
        for picture in read_labelled_pictures(data, name.removesuffix(ON_BLACK))
        if side(picture.group) == which and picture.labels.get("copy", "1") == "1" and label_of(picture)
    ]
    shown: Sequence[Any] = [picture.path for picture in pictures]
    if name.endswith(ON_BLACK):
        shown = [black_background(read_pictures(picture.path)[0].pixels) for picture in pictures]
    truth = np.array([[label == label_of(picture) for label in classifier.labels] for picture in pictures], np.float64)
    return _Labelled(classifier.classify(shown).logits, truth, [picture.group for picture in pictures])


def _figures(calibration: Calibration, one: _Labelled) -> dict[str, Any]:
    """Accuracy, and before and after: log loss, and calibration error of the label that is named."""
    right = (one.truth[np.arange(len(one.truth)), one.logits.argmax(axis=1)] == 1).astype(np.float64)
    maps = {"before": replace(calibration.map, temperature=1.0), "after": calibration.map}
    found: dict[str, Any] = {"accuracy": estimate_json(grouped_bootstrap_ci(right, one.groups))}
    for name, of in maps.items():
        probabilities = of.probabilities(one.logits)
        sure = np.clip(probabilities.max(axis=1), 0, 1)
        found[name] = {
            "log_loss": estimate_json(
                grouped_bootstrap_ci(log_losses(probabilities, one.truth, exclusive=True), one.groups)
            ),
            "calibration_error": estimate_json(calibration_error_estimate(bins_of_equal_mass(sure, right), one.groups)),
            "mean_probability": round(float(sure.mean()), 6),
        }
    return found
