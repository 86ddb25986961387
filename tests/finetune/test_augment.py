"""Augmentation: the same numbers for the same generator, orientation kept where it means something."""

import pytest
import torch

from finetune.augment import Augmentation, augment, plain
from finetune.training import step_generator

FREE, FIXED = torch.ones(32, dtype=torch.bool), torch.zeros(32, dtype=torch.bool)


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    """Dark, but a bright upper left quarter: its place tells the orientation."""
    values = torch.full((32, 3, 72, 72), 20, dtype=torch.uint8)
    values[:, :, :36, :36] = 220
    return values


def brightest_quarter(values: torch.Tensor) -> list[int]:
    quarters = [values[:, :, a : a + 28, b : b + 28].mean((1, 2, 3)) for a in (0, 28) for b in (0, 28)]
    return torch.stack(quarters, 1).argmax(1).tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize("free", [FREE, FIXED])
def test_shape_range_and_reproducibility(pictures: torch.Tensor, free: torch.Tensor) -> None:
    first, again = (augment(pictures, 56, free, step_generator(0, "a", 3)) for _ in range(2))
    assert first.shape == (32, 3, 56, 56) and first.dtype == torch.float32
    assert float(first.min()) >= -1 and float(first.max()) <= 1
    assert torch.equal(first, again)
    assert not torch.equal(first, augment(pictures, 56, free, step_generator(0, "a", 4)))
    assert len({picture.numpy().tobytes() for picture in first}) == 32


def test_left_and_right_stay_where_they_mean_something(pictures: torch.Tensor) -> None:
    assert set(brightest_quarter(augment(pictures, 56, FIXED, step_generator(0, "a", 0)))) == {0}
    assert set(brightest_quarter(augment(pictures, 56, FREE, step_generator(0, "a", 0)))) == {0, 1, 2, 3}


def test_the_input_is_left_alone(pictures: torch.Tensor) -> None:
    before = pictures.clone()
    augment(pictures, 56, FREE, step_generator(0, "a", 0))
    assert torch.equal(pictures, before)


def test_plain_is_the_picture(pictures: torch.Tensor) -> None:
    same = plain(pictures, 72)
    assert torch.equal(same, pictures.float() / 127.5 - 1)
    smaller = plain(pictures, 56)
    assert smaller.shape == (32, 3, 56, 56)
    assert smaller[0, 0, 0, 0] == same[0, 0, 0, 0] and smaller.min() >= -1 and smaller.max() <= 1


def test_colour_moves_the_stain_and_nothing_else(pictures: torch.Tensor) -> None:
    """Each channel of histology by its own line, a gain and an offset; the other pictures stay grey."""
    mixed = torch.arange(32) < 16
    coloured = augment(pictures, 56, mixed, step_generator(0, "a", 0), Augmentation(strength=0.0, colour=1.0))
    plainly = augment(pictures, 56, mixed, step_generator(0, "a", 0), Augmentation(strength=0.0))
    assert torch.equal(coloured[16:], plainly[16:])
    levels = [plainly[:16].amax((2, 3)), plainly[:16].amin((2, 3))]
    moved = [coloured[:16].amax((2, 3)), coloured[:16].amin((2, 3))]
    gain = (moved[0] - moved[1]) / (levels[0] - levels[1])
    inside = (moved[0] < 1) & (moved[1] > -1)  # a clipped one lost its gain
    assert 0.8 <= float(gain[inside].min()) < 0.9 and 1.1 < float(gain[inside].max()) <= 1.2
    assert float((gain.amax(1) - gain.amin(1)).min()) > 0


def test_another_window_changes_the_background_and_keeps_the_order_of_greys(pictures: torch.Tensor) -> None:
    """Dark 20 and bright 220 of 255: the lower end goes up to the dark, or down by half of the range."""
    mixed = torch.arange(32) < 8
    moved = augment(pictures, 56, mixed, step_generator(0, "a", 0), Augmentation(strength=0.0, window=1.0))
    before = augment(pictures, 56, mixed, step_generator(0, "a", 0), Augmentation(strength=0.0))
    assert torch.equal(moved[:8], before[:8])  # histology has its colours instead
    dark, bright = moved[8:, 0].amin((1, 2)), moved[8:, 0].amax((1, 2))
    highest = ((20 / 255 + 0.5) / (0.8 * 220 / 255 + 0.5)) * 2 - 1
    assert 2 <= int((dark < -0.999).sum()) <= 14 and -0.4 < float(dark.max()) <= highest
    assert bool((bright > dark + 0.5).all()) and len(set(dark.tolist())) > 10
    some = augment(pictures, 56, FIXED, step_generator(0, "a", 0), Augmentation(strength=0.0, window=0.3))
    assert 3 <= sum(not torch.equal(new, old) for new, old in zip(some, before, strict=True)) <= 20


def test_another_window_of_a_picture_of_one_grey_is_finite() -> None:
    flat = torch.full((32, 3, 72, 72), 128, dtype=torch.uint8)
    moved = augment(flat, 56, FIXED, step_generator(0, "a", 0), Augmentation(window=1.0))
    assert bool(moved.isfinite().all()) and float(moved.abs().max()) <= 1


def test_a_frame_makes_a_picture_smaller_and_is_of_one_grey() -> None:
    """A white picture: the frame's one grey outside, the picture inside, half its side or more."""
    white = torch.full((64, 3, 72, 72), 255, dtype=torch.uint8)
    mixed = torch.arange(64) < 16
    framed = augment(white, 56, mixed, step_generator(0, "a", 0), Augmentation(strength=0.0, frame=1.0))
    assert bool((framed[:16] > 0.999).all())  # histology is not scanned so
    shares = (framed[16:, 0] > 0.999).float().mean((1, 2))
    assert 0.2 < float(shares.min()) < 0.4 and 0.8 < float(shares.max()) <= 1.0
    outside = framed[16:].amin((1, 2, 3))
    assert 0.3 < float((outside < -0.999).float().mean()) < 0.8 and len(set(outside.tolist())) > 10
    of_the_grey = (framed[16:, 0] < outside[:, None, None] + 1e-4).float().mean((1, 2))
    assert bool((of_the_grey + shares > 0.85).all())  # nothing between but an edge
    some = augment(white, 56, FIXED.repeat(2), step_generator(0, "a", 0), Augmentation(strength=0.0, frame=0.3))
    assert 8 <= int((some < 0.999).flatten(1).any(1).sum()) <= 32
    of_histology = augment(white[:32], 56, FREE, step_generator(0, "a", 0), Augmentation(strength=0.0, frame=1.0))
    assert bool((of_histology > 0.999).all())
