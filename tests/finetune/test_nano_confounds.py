"""What gives a class away: by hand on made-up pictures, and on the kit."""

from pathlib import Path

import numpy as np
import pytest

from finetune.recipes.nano_confounds import background_alone, black_background


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
