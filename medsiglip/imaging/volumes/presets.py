"""How CT and MR slices become the RGB bytes MedGemma was trained on: named windows, and which slices are shown.

CT has three published recipes of three Hounsfield windows, one a channel; MR is stretched from the volume's
smallest to its largest value. Source: the MedGemma and MedGemma 1.5 reports and Google's serving container.
H is rows, W is columns, S is slices, n the number of slices of a volume.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import cache, lru_cache
from typing import NamedTuple

import numpy as np

from ..frame import Array


class HuWindow(NamedTuple):
    """A range of Hounsfield units that is shown as 0..255; values beyond it are clipped."""

    low_hu: float
    high_hu: float


CtWindows = tuple[HuWindow, HuWindow, HuWindow]
"""The windows of the red, green and blue channel."""

CT_WINDOWS: dict[str, CtWindows] = {
    # MedGemma 1 report, 2.1.2: width/centre 2250/-100, 350/40, 80/40
    "report": (HuWindow(-1225, 1025), HuWindow(-135, 215), HuWindow(0, 80)),
    # MedGemma 1.5 report, 2.3.1, and Google's CT notebook
    "medgemma-1.5": (HuWindow(-1024, 1024), HuWindow(-135, 215), HuWindow(0, 80)),
    # Google's serving container: the green window is 80 wide around 175, the +135 has lost its minus sign
    "google-container": (HuWindow(-1024, 1024), HuWindow(135, 215), HuWindow(0, 80)),
}
"""CT windows by the name of the preset."""

GOOGLE_CONTAINER_WARNING = (
    "the preset google-container copies a fault of Google's serving container (a green window of 135..215 HU, "
    "where training used -135..215); use it only to reproduce that container, and medgemma-1.5 or report otherwise"
)

SLICE_BUDGET = 85
"""Slices MedGemma 1.5 was shown of one volume at most: 85 pictures of 256 tokens stay under 32k. Source: Google's
CT notebook."""

SAMPLINGS = ("even", "google")
"""Ways to choose slices, see `sample_slices`."""


def ct_windows(preset: str) -> CtWindows:
    """Look a CT preset up.

    Args:
        preset: a key of `CT_WINDOWS`; "google-container" warns that it is for parity only.

    Raises:
        ValueError: an unknown preset.
    """
    if preset not in CT_WINDOWS:
        raise ValueError(f"unknown CT preset {preset!r}; use one of {', '.join(CT_WINDOWS)}")
    if preset == "google-container":
        warnings.warn(GOOGLE_CONTAINER_WARNING, UserWarning, stacklevel=3)
    return CT_WINDOWS[preset]


def ct_rgb(values_hu: Array, preset: str) -> Array:
    """Map CT values to three windowed channels.

    Args:
        values_hu: (..., H, W) integer or float, Hounsfield units.
        preset: a key of `CT_WINDOWS`.

    Returns:
        (..., H, W, 3) uint8: rint((clip(hu, low, high) - low) / (high - low) * 255), one window a channel; NaN is 0.

    Raises:
        ValueError: an unknown preset, or values that are no array of at least two dimensions.

    Source: MedGemma technical report (arXiv:2507.05201), section 2.1.2, for "report"; MedGemma 1.5 technical report
    (arXiv:2604.05081), section 2.3.1, and Google-Health/medgemma, notebooks/high_dimensional_ct_hugging_face.ipynb, for
    "medgemma-1.5"; python/data_accessors/local_file_handlers/generic_dicom_handler.py there for "google-container".
    """
    return apply_hu_windows(values_hu, ct_windows(preset))


def apply_hu_windows(values_hu: Array, windows: CtWindows) -> Array:
    """`ct_rgb` with windows in hand; no warning."""
    if values_hu.ndim < 2:
        raise ValueError(f"got values of shape {values_hu.shape}, expected (..., H, W); pass slices or a volume")
    rgb = np.empty((*values_hu.shape, 3), np.uint8)
    for slice_hu, slice_rgb in zip(_slices(values_hu), _slices(rgb, num_axes=3), strict=True):
        _window_slice(slice_hu, windows, slice_rgb)
    return rgb


def min_max_grey(values: Array, low: float, high: float) -> Array:
    """Stretch a slice from its volume's smallest to its largest value, as Google's container does for MR.

    Args:
        values: (..., H, W) integer or float, any unit.
        low: smallest value of the whole volume, which becomes 0.
        high: largest value of the whole volume, which becomes 255. When it is not above `low` the result is all 0
            (Google's container makes such a volume white).

    Returns:
        (..., H, W) uint8: rint((values - low) / (high - low) * 255); NaN is 0, infinities are clipped.

    Source: MedGemma 1.5 technical report (arXiv:2604.05081), section 2.3.1; python/data_accessors of
    Google-Health/medgemma.
    """
    if not high > low:
        return np.zeros(values.shape, np.uint8)
    if values.dtype == np.int16:
        return np.asarray(_grey_table(float(low), float(high)).take(_table_index(values)))
    return _min_max_values(values, low, high)


def sample_slices(num_slices: int, budget: int = SLICE_BUDGET, how: str = "even") -> list[int]:
    """Choose slices so that a volume fits the model's context.

    Args:
        num_slices: n, slices of the volume.
        budget: slices that may be kept; with n at or below it all are.
        how: "even": the slices at the centres of `budget` equal parts of the volume; "google": the indices of
            Google's CT notebook, round(i / budget * (n - 1)) for i = 1..budget, which never take slice 0.

    Returns:
        Ascending indices, min(n, budget) of them.

    Raises:
        ValueError: an unknown way, or a budget below 1.

    Source: Google-Health/medgemma, notebooks/high_dimensional_ct_hugging_face.ipynb, for "google".
    """
    if how not in SAMPLINGS:
        raise ValueError(f"unknown slice sampling {how!r}; use one of {', '.join(SAMPLINGS)}")
    if budget < 1:
        raise ValueError(f"the slice budget is {budget}, expected at least 1; the default is {SLICE_BUDGET}")
    if num_slices <= budget:
        return list(range(num_slices))
    if how == "google":
        return [round(i / budget * (num_slices - 1)) for i in range(1, budget + 1)]
    return [(2 * part + 1) * num_slices // (2 * budget) for part in range(budget)]


def _slices(values: Array, num_axes: int = 2) -> Iterator[Array]:
    """Views of the last `num_axes` axes, so that intermediates stay as small as one slice."""
    for index in np.ndindex(values.shape[:-num_axes]):
        yield values[index]


def _window_slice(values_hu: Array, windows: CtWindows, rgb: Array) -> None:
    """(H, W) HU into (H, W, 3)."""
    if np.issubdtype(values_hu.dtype, np.integer):
        _window_table(windows).take(_table_index(values_hu), axis=0, out=rgb, mode="clip")
    else:
        for channel, window in enumerate(windows):
            rgb[..., channel] = _window_values(values_hu, window)


def _window_values(values_hu: Array, window: HuWindow) -> Array:
    low, high = window
    scaled = (np.clip(values_hu.astype(np.float64), low, high) - low) / (high - low) * 255.0
    return np.asarray(np.rint(np.nan_to_num(scaled)).astype(np.uint8))


def _table_index(values_hu: Array) -> Array:
    """Integers to uint16 rows of `_window_table`; no window reaches beyond int16."""
    if values_hu.dtype != np.int16:
        limits = np.iinfo(np.int16)
        values_hu = np.clip(values_hu, limits.min, limits.max).astype(np.int16)
    return np.ascontiguousarray(values_hu).view(np.uint16)


def _min_max_values(values: Array, low: float, high: float) -> Array:
    scaled = np.clip((values.astype(np.float64) - low) / (high - low) * 255.0, 0.0, 255.0)
    return np.asarray(np.rint(np.nan_to_num(scaled)).astype(np.uint8))


@lru_cache(maxsize=2)
def _grey_table(low: float, high: float) -> Array:
    """(65536,) uint8: the grey of every int16, at its bits read as uint16."""
    return _min_max_values(np.arange(2**16, dtype=np.uint16).view(np.int16), low, high)


@cache
def _window_table(windows: CtWindows) -> Array:
    """(65536, 3) uint8: the channel values of every int16, at its bits read as uint16."""
    values_hu = np.arange(2**16, dtype=np.uint16).view(np.int16)
    return np.stack([_window_values(values_hu, window) for window in windows], axis=-1)
