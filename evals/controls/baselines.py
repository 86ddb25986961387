"""What raw pixels alone reach: 24 x 24 pixels into a logistic regression. A model has to beat this.

Colour is kept where the set has any: on lung histology grey pixels alone would be a far weaker opponent
(accuracy 0.60 instead of 0.73 on the held-out tiles).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from data_cards.readers.pictures import LabelledPicture, read_labelled_pictures
from data_cards.split import Side, side
from evals.tasks.zero_shot import TASKS, label_of
from medsiglip.metrics.statistics import Estimate, grouped_bootstrap_ci, paired_difference
from medsiglip.probe import logistic_regression

SIDE_PX = 24
Change = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
"""What is done to (H, W, 3) pixels before they are reduced."""


@dataclass(frozen=True)
class BaselinePrediction:
    """The baseline's answer to one picture of the predicted side."""

    item_id: str
    """As in the zero-shot task of the same name, so that the two can be paired."""
    group: str
    label: str
    predicted: str
    probabilities: dict[str, float]


def raw_pixel_baseline(
    data_dir: str | Path, task: str, on: Side = "held-out", change: Change | None = None
) -> list[BaselinePrediction]:
    """Train on the train side of a zero-shot task's set and predict another side.

    Args:
        data_dir: A folder with the set's folder, or that folder.
        task: A name of zero_shot.TASKS.
        on: The side that is predicted.
        change: What is done to every picture, trained on or predicted.

    Returns:
        One prediction a picture; of LC25000 one copy of each tile (all copies are trained on).

    Raises:
        ValueError: The task is unknown, the set is missing or broken, or a picture cannot be read.

    Source: the cards' reference figures (StandardScaler, LogisticRegression of scikit-learn), here in float64 and
    fitted to the end: in float32 with scikit-learn's own tolerance a picture or two turn with the number of threads.
    One thread is several times faster here than two.
    """
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    train, held_out = _divide(data_dir, task, on)
    model = make_pipeline(StandardScaler(), logistic_regression(1.0))
    pixels, new_pixels = (small_pixels((p.path for p in some), change) for some in (train, held_out))
    channels = 3 if has_colour(pixels) else 1
    with threadpool_limits(1):
        model.fit(pixel_rows(pixels, channels), [str(label_of(task, p)) for p in train])
    table = model.predict_proba(pixel_rows(new_pixels, channels))
    return [_prediction(task, p, model.classes_, row) for p, row in zip(held_out, table, strict=True)]


def accuracy_of(predictions: Sequence[BaselinePrediction]) -> Estimate:
    """Return the accuracy with its interval over groups."""
    return grouped_bootstrap_ci([_is_right(p) for p in predictions], [p.group for p in predictions])


def model_minus_baseline(correct: dict[str, float], predictions: Sequence[BaselinePrediction]) -> Estimate:
    """Return the paired difference in accuracy, model minus baseline.

    Args:
        correct: Item id to 1 (the model was right) or 0, from a zero-shot task.
        predictions: The baseline's.

    Raises:
        ValueError: They share no item.
    """
    both = [p for p in predictions if p.item_id in correct]
    if not both:
        raise ValueError("got no item in common; expected a zero-shot task and the baseline of the same name")
    return paired_difference([correct[p.item_id] for p in both], [_is_right(p) for p in both], [p.group for p in both])


def small_pixels(paths: Iterable[Path], change: Change | None = None) -> NDArray[np.float32]:
    """Read pictures as (N, 24, 24, 3) float32, 0 to 255, reduced by area averaging; changed before, if wanted.

    Raises:
        ValueError: A file cannot be read as a picture.
    """
    from PIL import Image

    from medsiglip.imaging import read_pictures

    small = []
    for path in paths:
        pixels = read_pictures(path)[0].pixels
        picture = Image.fromarray(change(pixels) if change else pixels)
        reduced = picture.resize((SIDE_PX, SIDE_PX), Image.Resampling.BOX)
        small.append(np.asarray(reduced, dtype=np.float32))
    return np.stack(small)


def has_colour(pixels: NDArray[np.float32]) -> bool:
    """Say whether the channels of (N, H, W, 3) differ anywhere."""
    return bool((pixels != pixels[..., :1]).any())


def pixel_rows(pixels: NDArray[np.float32], channels: int) -> NDArray[np.float64]:
    """Return (N, H * W * channels) float64."""
    return pixels[..., :channels].reshape(len(pixels), -1).astype(np.float64)


def _divide(data_dir: str | Path, task: str, on: Side) -> tuple[list[LabelledPicture], list[LabelledPicture]]:
    if task not in TASKS:
        raise ValueError(f"got task {task!r}; expected one of {', '.join(TASKS)}")
    pictures = read_labelled_pictures(data_dir, TASKS[task].card)
    labelled = [picture for picture in pictures if label_of(task, picture) is not None]
    train = [picture for picture in labelled if side(picture.group) == "train"]
    held_out = [picture for picture in labelled if side(picture.group) == on]
    return train, [picture for picture in held_out if picture.labels.get("copy", "1") == "1"]


def _prediction(
    task: str, picture: LabelledPicture, classes: Sequence[str], row: NDArray[np.float64]
) -> BaselinePrediction:
    named = {str(name): float(p) for name, p in zip(classes, row, strict=True)}
    label = str(label_of(task, picture))
    return BaselinePrediction(picture.picture_id, picture.group, label, max(named, key=named.__getitem__), named)


def _is_right(prediction: BaselinePrediction) -> float:
    return float(prediction.predicted == prediction.label)
