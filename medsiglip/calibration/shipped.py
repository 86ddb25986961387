"""Calibrations that ship beside a checkpoint: `calibration.NAME.yaml` in its folder, NAME being a label set's."""

from pathlib import Path

from medsiglip.calibration.calibration import Calibration, read_calibration
from medsiglip.zero_shot import ZeroShotClassifier

FILE = "calibration.{}.yaml"


def shipped_calibration(folder: Path, classifier: ZeroShotClassifier, pixels: str) -> Calibration | None:
    """The calibration beside the encoder's weights for these very labels and prompts; None where there is none.

    One of other weights, prompts or pixels is passed over.

    Args:
        folder: the encoder's.
        classifier: what it is for.
        pixels: pixel and resize policy.
    """
    path = folder / FILE.format(classifier.label_set.name)
    if not path.is_file():
        return None
    calibration = read_calibration(path)
    try:
        calibration.check(classifier, pixels)
    except ValueError:
        return None
    return calibration
