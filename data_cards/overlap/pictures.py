"""Pictures that are copies: re-encoded, resized, cropped a little, brightened, windowed otherwise, mirrored, exported.

A picture becomes a 64 x 64 map of its fine structure: band-passed, its contrast evened out, so that brightness, windows
and encodings leave it alike. Two maps are correlated over small shifts, mirrored or not, whole or without a border of
5 % (a crop); an inverted picture correlates by -1. Only the most alike by a coarser map are compared so.

Letters: N, M pictures, S the side of a map.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SIDE, COARSE_SIDE = 64, 16
MOST_SHIFT = 5
CROPS = (0.0, 0.05)
"""Borders left out, as shares of a side."""
CANDIDATES, LOOKALIKES = 4, slice(8, 16)
"""Ranks by the coarse likeness: those that may be the copy, and those that say what mere lookalikes have."""
LEAST_CORRELATION, LEAST_EXCESS = 0.6, 0.5
"""A copy correlates by so much, and on Fisher's scale by so much more than the median of the lookalikes. docs/tables.md
says what this finds and what it takes for a copy."""
SMALL_PX, LEAST_EXCESS_OF_SMALL = 128, 1.2
"""Pictures with a shorter side show too little to be told from the next slice or patient by less."""
WITHOUT_LOOKALIKES = 0.9
"""The least correlation against a set too small to have any."""

Map = NDArray[np.float32]


class Alike(NamedTuple):
    """A picture of the table and one of an evaluation set, by their places."""

    mine: int
    theirs: int
    correlation: float


class Maps(NamedTuple):
    """One picture at each of CROPS."""

    fine: Map
    """(crops, S, S), each of zero mean and length 1."""
    coarse: Map
    """(crops, 256), likewise."""
    is_small: bool


def read_grey(path: Path) -> NDArray[np.float32]:
    """Return (H, W) grey values of a PNG, JPEG, TIFF or DICOM file; of several frames the middle one.

    Raises:
        ValueError: The file cannot be read as a picture.
    """
    try:
        with path.open("rb") as file:
            is_dicom = file.read(132)[128:] == b"DICM"
        return _read_dicom(path) if is_dicom else _read_raster(path)
    except Exception as fault:  # decoders raise what they like
        raise ValueError(f"{path.name}: cannot be read as a picture ({type(fault).__name__})") from fault


def maps_of(grey: NDArray[np.float32]) -> Maps:
    """Return the maps of a picture."""
    fine, coarse = [], []
    for border in CROPS:
        rows, columns = (round(border * side) for side in grey.shape)
        part = grey[rows : grey.shape[0] - rows, columns : grey.shape[1] - columns]
        band = _even(_resized(part, SIDE), 1.0, 6.0)
        fine.append(_unit(band))
        coarse.append(_unit(_resized(_even(_resized(part, SIDE), 2.0, 10.0), COARSE_SIDE)).ravel())
    return Maps(np.stack(fine), np.stack(coarse), min(grey.shape) < SMALL_PX)


def find_copies(mine: Sequence[Maps], theirs: Sequence[Maps]) -> list[Alike]:
    """Return the pictures of `mine` that are copies of one of `theirs`, each with the one it is most alike."""
    if not mine or not theirs:
        return []
    likeness = _coarse_likeness(mine, theirs)
    found = []
    for place, one in enumerate(mine):
        ranked = np.argsort(-likeness[place], kind="stable")[: LOOKALIKES.stop]
        values = [correlation(one, theirs[int(other)]) for other in ranked]
        best = int(np.argmax(values[:CANDIDATES]))
        nearest = theirs[int(ranked[best])]
        if values[best] >= _least(values[LOOKALIKES], one.is_small or nearest.is_small):
            found.append(Alike(place, int(ranked[best]), values[best]))
    return found


def _least(of_lookalikes: Sequence[float], is_small: bool) -> float:
    """The correlation that a copy must have."""
    if not of_lookalikes:
        return WITHOUT_LOOKALIKES
    excess = LEAST_EXCESS_OF_SMALL if is_small else LEAST_EXCESS
    usual = float(np.arctanh(min(float(np.median(of_lookalikes)), 0.999)))
    return max(LEAST_CORRELATION, float(np.tanh(usual + excess)))


def correlation(one: Maps, other: Maps) -> float:
    """Return the largest absolute correlation over small shifts, crops and mirroring; 0 to 1."""
    best = 0.0
    for first in (one.fine, one.fine[:, :, ::-1]):
        spectra = np.fft.rfft2(first)[:, None] * np.fft.rfft2(other.fine).conj()[None]
        shifted = np.abs(np.fft.irfft2(spectra, s=(SIDE, SIDE)))
        near = np.r_[0 : MOST_SHIFT + 1, -MOST_SHIFT:0]
        best = max(best, float(shifted[:, :, near][:, :, :, near].max()))
    return min(best, 1.0)


def _coarse_likeness(mine: Sequence[Maps], theirs: Sequence[Maps]) -> NDArray[np.float32]:
    """(N, M) the largest absolute product over crops and mirroring."""
    others = np.stack([maps.coarse for maps in theirs])  # (M, crops, 256)
    found = np.zeros((len(mine), len(theirs)), np.float32)
    for crop in range(len(CROPS)):
        own = np.stack([maps.coarse[crop] for maps in mine])
        mirrored = own.reshape(-1, COARSE_SIDE, COARSE_SIDE)[:, :, ::-1].reshape(own.shape)
        for vectors in (own, mirrored):
            for theirs_at in range(len(CROPS)):
                np.maximum(found, np.abs(vectors @ others[:, theirs_at].T), out=found)
    return found


def _read_raster(path: Path) -> NDArray[np.float32]:
    import PIL.Image

    with PIL.Image.open(path) as picture:
        frames = getattr(picture, "n_frames", 1)
        picture.seek(frames // 2)
        wide = picture.mode.startswith(("I", "F"))
        return np.asarray(picture if wide else picture.convert("L"), dtype=np.float32)


def _read_dicom(path: Path) -> NDArray[np.float32]:
    import pydicom

    values = pydicom.dcmread(path).pixel_array
    if values.ndim == 4 or (values.ndim == 3 and values.shape[-1] not in (3, 4)):
        values = values[len(values) // 2]
    return np.asarray(values if values.ndim == 2 else values[..., :3].mean(axis=-1), dtype=np.float32)


def _resized(values: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    import PIL.Image

    picture = PIL.Image.fromarray(np.ascontiguousarray(values, dtype=np.float32), mode="F")
    return np.asarray(picture.resize((side, side), PIL.Image.Resampling.BILINEAR), dtype=np.float32)


def _even(values: NDArray[np.float32], fine: float, coarse: float) -> NDArray[np.float32]:
    """Keep what lies between two widths, with its contrast evened out; what is flat stays near zero."""
    from scipy.ndimage import gaussian_filter

    spread = float(np.std(values)) or 1.0
    scaled = (values - values.mean()) / spread
    band = gaussian_filter(scaled, fine) - gaussian_filter(scaled, coarse)
    power = gaussian_filter(band**2, coarse)
    even: NDArray[np.float32] = band / (np.sqrt(np.maximum(power, 0.0)) + 0.05)
    return even


def _unit(values: NDArray[np.float32]) -> NDArray[np.float32]:
    centred = values - values.mean()
    unit: NDArray[np.float32] = (centred / (float(np.linalg.norm(centred)) or 1.0)).astype(np.float32)
    return unit
