"""What gives a class away: by hand on made-up pictures, and on the kit."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from finetune.recipes.nano import confounds as nano_confounds
from finetune.recipes.nano.confounds import background_alone, black_background
from medsiglip.encoder import MedSigLIP


def framed(border: int, inside: int) -> np.ndarray:
    pixels = np.full((20, 24, 3), border, np.uint8)
    pixels[5:15, 6:18] = inside
    return pixels


def test_padding_becomes_black_and_the_rest_is_stretched() -> None:
    assert (black_background(framed(101, 178)) == framed(0, 128)).all()  # (178 - 101) * 255 / 154 = 127.5
    assert (black_background(framed(101, 255)) == framed(0, 255)).all()
    assert (black_background(framed(101, 60)) == framed(0, 0)).all()
    assert (black_background(framed(0, 178)) == framed(0, 178)).all()


def test_what_is_no_padding_stays() -> None:
    film = np.repeat(np.linspace(0, 255, 20 * 24).astype(np.uint8).reshape(20, 24, 1), 3, axis=2)
    assert (black_background(film) == film).all()
    assert (black_background(framed(230, 10)) == framed(230, 10)).all()  # a bright border leaves no window


@pytest.mark.kit
def test_mednist_is_told_by_the_grey_around_the_body(kit: Path) -> None:
    found = background_alone(kit, "held-out")
    assert found.n == 307 and 0.93 < found.value < 0.98


@pytest.mark.kit
def test_modalities_of_dicom_files_are_asked_in_captions(kit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An encoder that says CT of everything is right about the CT files, 11 of 16."""
    seen: list[int] = []

    class SaysCT:
        def __init__(self, encoder: object, prompts: Mapping[str, Sequence[str]]) -> None:
            self.labels = tuple(prompts)

        def classify(self, pictures: Sequence[np.ndarray]) -> SimpleNamespace:
            seen.append(len(pictures))
            sure = np.tile([float(label == "CT") for label in self.labels], (len(pictures), 1))
            return SimpleNamespace(labels=self.labels, probabilities=sure)

    monkeypatch.setattr(nano_confounds, "ZeroShotClassifier", SaysCT)
    found = nano_confounds.modality_of_dicom_files(cast(MedSigLIP, None), kit)
    assert seen == [16] and found.value == 11 / 16 and found.n_groups == 8
