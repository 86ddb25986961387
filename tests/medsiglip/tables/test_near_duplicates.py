"""Near-duplicates: copies turned, mirrored, scaled and re-encoded are found, lookalikes and blanks are not."""

import csv
import random
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from medsiglip.tables.near_duplicates import (
    ANGLES,
    LEAST_CORRELATION,
    RINGS,
    WITHOUT_LOOKALIKES,
    find_near_duplicates,
    polar_map,
)

Pixels = NDArray[np.uint8]


def texture(seed: int, side_px: int = 256) -> Pixels:
    """Blobs of about 5 px, no two seeds alike."""
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=(side_px, side_px)), 3)
    grey = np.clip(128 + 60 * noise / noise.std(), 0, 255).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


@cache
def texture_map(seed: int) -> NDArray[np.float16]:
    return polar_map(texture(seed))


def changed(pixels: Pixels, degrees: float = 0, zoom: float = 1, mirror: bool = False, quality: int = 0) -> Pixels:
    image = PIL.Image.fromarray(pixels)
    if mirror:
        image = image.transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT)
    image = image.rotate(degrees, PIL.Image.Resampling.BICUBIC)
    cut = image.width * (1 - 1 / zoom) / 2
    image = image.crop((round(cut), round(cut), round(image.width - cut), round(image.height - cut)))
    if quality:
        file = BytesIO()
        image.save(file, "JPEG", quality=quality)
        image = PIL.Image.open(file)
    return np.asarray(image)


COPIES = {
    "turned": changed(texture(0), degrees=31),
    "mirrored": changed(texture(0), mirror=True),
    "zoomed": changed(texture(0), zoom=1.5),
    "all and re-encoded": changed(texture(0), degrees=200, zoom=1.2, mirror=True, quality=60),
    "smaller": np.asarray(PIL.Image.fromarray(texture(0)).resize((120, 120))),
    "darker": (texture(0) // 2 + 10).astype(np.uint8),
}


@pytest.mark.parametrize("how", COPIES)
def test_a_copy_is_found_among_unrelated_pictures(how: str) -> None:
    maps = [texture_map(seed) for seed in range(70)] + [polar_map(COPIES[how])]
    (pair,) = find_near_duplicates(maps, [str(place) for place in range(71)])
    assert (pair.first, pair.second) == (0, 70)
    assert pair.correlation > LEAST_CORRELATION


def test_a_turn_by_whole_angles_only_shifts_the_map() -> None:
    """180 degrees is half of the angles exactly, and turns pixels onto pixels."""
    pixels = texture(1)
    turned = polar_map(pixels[::-1, ::-1])
    np.testing.assert_allclose(turned, np.roll(polar_map(pixels), ANGLES // 2, axis=1), atol=0.2)
    assert turned.shape == (RINGS, ANGLES)


def test_unrelated_pictures_and_blank_ones_are_not_named() -> None:
    blank = np.full((64, 64, 3), 7, np.uint8)
    maps = [texture_map(seed) for seed in range(80)] + [polar_map(blank), polar_map(blank)]
    assert find_near_duplicates(maps, [str(place) for place in range(82)]) == []


def test_one_dark_spot_each_does_not_make_two_pictures_the_same() -> None:
    """Skin: without evened contrast the spots alone correlate by more than the threshold."""
    y, x = np.mgrid[:256, :256]

    def skin(seed: int, angle: float) -> Pixels:
        spot = np.exp(-((y - 128 - 50 * np.sin(angle)) ** 2 + (x - 128 - 50 * np.cos(angle)) ** 2) / 2 / 18**2)
        grain = texture(seed)[:, :, 0].astype(float) - 128
        grey = np.clip(180 + 0.1 * grain - 150 * spot, 0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)

    maps = [texture_map(seed) for seed in range(68)] + [polar_map(skin(1, 1.0)), polar_map(skin(2, 2.0))]
    assert find_near_duplicates(maps, [str(place) for place in range(70)]) == []


def test_a_small_set_has_no_lookalikes_and_asks_for_more() -> None:
    maps = [polar_map(texture(0)), polar_map(texture(1)), polar_map(changed(texture(0), quality=90))]
    (pair,) = find_near_duplicates(maps, ["a", "b", "c"])
    assert (pair.first, pair.second) == (0, 2)
    assert pair.correlation >= WITHOUT_LOOKALIKES
    assert find_near_duplicates(maps[:1], ["a"]) == find_near_duplicates([], []) == []


def test_two_pictures_are_compared_once_and_order_changes_nothing() -> None:
    maps = [texture_map(seed) for seed in range(66)]
    maps += [polar_map(changed(texture(3), degrees=10)), polar_map(changed(texture(3), degrees=77))]
    groups = [str(place) for place in range(len(maps))]
    forward = find_near_duplicates(maps, groups)
    backward = find_near_duplicates(maps[::-1], groups[::-1])
    assert [(pair.first, pair.second) for pair in forward if pair.second < 66] == []
    assert {(pair.first, pair.second) for pair in forward} == {(3, 66), (3, 67), (66, 67)}
    last = len(maps) - 1
    assert {(last - pair.second, last - pair.first) for pair in backward} == {(3, 66), (3, 67), (66, 67)}


@pytest.mark.slow
def test_copies_of_tiles_of_the_kit_are_found_and_none_of_two_tiles(kit: Path) -> None:
    """Every tenth tile; docs/tables.md has the whole."""
    folder = kit / "histo-lc25000-lung"
    with (folder / "labels.csv").open() as file:
        rows = list(csv.DictReader(file))
    tiles = sorted({row["patient_id"] for row in rows})[::10]
    chosen = [row for row in rows if row["patient_id"] in tiles]
    maps = [polar_map(np.asarray(PIL.Image.open(folder / row["file"]).convert("RGB"))) for row in chosen]
    groups = [row["patient_id"] for row in chosen]
    pairs = find_near_duplicates(maps, groups)
    assert [pair for pair in pairs if groups[pair.first] != groups[pair.second]] == []
    assert len(pairs) / (6 * len(tiles)) > 0.75


@pytest.mark.kit
@pytest.mark.slow
def test_small_pictures_that_merely_look_alike_are_not_named(kit: Path) -> None:
    folder = kit / "derm-ham10000"
    first = {row["patient_id"]: row["file"] for row in csv.DictReader((folder / "labels.csv").read_text().splitlines())}
    files = random.Random(0).sample(sorted(first.values()), 250)
    opened = [PIL.Image.open(folder / file).convert("RGB") for file in files]
    pictures = [picture.resize((64, 64), PIL.Image.Resampling.BOX) for picture in opened]
    turned = [picture.transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT).rotate(7) for picture in pictures[:10]]
    maps = [polar_map(np.asarray(picture)) for picture in (*pictures, *turned)]
    groups = [str(place) for place in range(260)]
    found = find_near_duplicates(maps, groups, small=[True] * 260)
    assert {(pair.first, pair.second) for pair in found} == {(place, 250 + place) for place in range(10)}
    assert len(find_near_duplicates(maps, groups)) > 10, "nothing looks alike here: take other pictures"
