from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evals.controls.baselines import (
    BaselinePrediction,
    accuracy_of,
    has_colour,
    model_minus_baseline,
    raw_pixel_baseline,
    small_pixels,
)


def test_pixels_are_area_averages(tmp_path: Path) -> None:
    pixels = np.zeros((48, 48), np.uint8)
    pixels[::2] = 200
    Image.fromarray(pixels).save(tmp_path / "a.png")
    small = small_pixels([tmp_path / "a.png"])
    assert small.shape == (1, 24, 24, 3) and (small == 100).all() and not has_colour(small)
    Image.new("RGB", (30, 30), (200, 10, 10)).save(tmp_path / "b.png")
    assert has_colour(small_pixels([tmp_path / "b.png"]))


def test_unreadable_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="a.png"):
        small_pixels([tmp_path / "a.png"])


def test_model_minus_baseline_pairs_by_item() -> None:
    predictions = [BaselinePrediction(f"i{n}", f"g{n}", "a", "a" if n < 4 else "b", {}) for n in range(8)]
    assert accuracy_of(predictions).value == 0.5
    difference = model_minus_baseline({f"i{n}": 1.0 for n in range(2, 8)}, predictions)
    assert difference.n == 6 and difference.value == pytest.approx(4 / 6)
    with pytest.raises(ValueError, match="no item in common"):
        model_minus_baseline({"x": 1.0}, predictions)


@pytest.mark.kit
def test_chest_films_by_raw_pixels(kit: Path) -> None:
    predictions = raw_pixel_baseline(kit, "zero-shot-nih-pneumonia")
    assert {p.label for p in predictions} == {"pneumonia", "no finding"}
    assert 0.55 < accuracy_of(predictions).value < 0.75


@pytest.mark.kit
@pytest.mark.slow
def test_lung_histology_by_raw_pixels(kit: Path) -> None:
    predictions = raw_pixel_baseline(kit, "zero-shot-lung-histology")
    assert len({p.group for p in predictions}) == len(predictions)
    assert 0.68 < accuracy_of(predictions).value < 0.8
