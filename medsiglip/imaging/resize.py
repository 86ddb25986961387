"""Named ways to make a picture square: each reproduces one published preprocessing exactly.

`huggingface` is what MedGemma's and MedSigLIP's published processors do, `huggingface-bicubic` is the default
of transformers' SigLIP class, `report` is the technical report's path: zero-pad to a square, then TensorFlow
bilinear without antialiasing. Source: reference/medgemma.md facts 4 and 5.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .picture import Array, round_to_uint8

RESIZE_POLICIES = ("huggingface", "huggingface-bicubic", "report")


def resize(pixels: Array, size_px: int, policy: str) -> Array:
    """Resize a picture to a square.

    Args:
        pixels: (H, W, 3) uint8 RGB.
        size_px: S, the side of the result in pixels.
        policy: one of `RESIZE_POLICIES`.

    Returns:
        (S, S, 3) uint8.

    Raises:
        ValueError: an unknown policy, a side below 1, or pixels that are not (H, W, 3) uint8.
    """
    _check(pixels, size_px)
    if policy == "huggingface":
        return _resize_pil(pixels, size_px, bicubic=False)
    if policy == "huggingface-bicubic":
        return _resize_pil(pixels, size_px, bicubic=True)
    if policy == "report":
        return round_to_uint8(_resize_bilinear_tensorflow(_pad_to_square(pixels), size_px))
    raise ValueError(f"unknown resize policy {policy!r}; use one of {', '.join(RESIZE_POLICIES)}")


def _check(pixels: Array, size_px: int) -> None:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
        got = f"got {pixels.dtype} of shape {pixels.shape}, expected (H, W, 3) uint8"
        raise ValueError(f"{got}; pass Picture.pixels")
    if size_px < 1:
        raise ValueError(f"size_px is {size_px}, expected at least 1; pass the encoder's image size, such as 448")


def _resize_pil(pixels: Array, size_px: int, *, bicubic: bool) -> Array:
    """Squash to (S, S) with PIL's antialiased filter, as transformers' SiglipImageProcessorPil does."""
    from PIL import Image

    resample = Image.Resampling.BICUBIC if bicubic else Image.Resampling.BILINEAR
    return np.array(Image.fromarray(np.ascontiguousarray(pixels)).resize((size_px, size_px), resample))


def _pad_to_square(pixels: Array) -> Array:
    """Centre the picture on black; with an odd margin the extra row or column is below or to the right."""
    height, width, _ = pixels.shape
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    return np.pad(pixels, ((top, side - height - top), (left, side - width - left), (0, 0)))


def _resize_bilinear_tensorflow(pixels: Array, size_px: int) -> Array:
    """`tf.image.resize(pixels, [S, S], "bilinear", antialias=False)`, float for float.

    Args:
        pixels: (H, W, 3) uint8.
        size_px: S.

    Returns:
        (S, S, 3) float32, 0..255, not rounded.

    Source: TensorFlow core/kernels/image/resize_bilinear_op.cc (compute_lerp, HalfPixelScaler); rows and
    columns are blended in that order and in float32, so the sums round as TensorFlow's do.
    """
    rows = _sample_positions(pixels.shape[0], size_px)
    columns = _sample_positions(pixels.shape[1], size_px)
    upper = _blend_columns(pixels[rows.lower], columns)  # (S, S, 3)
    lower = _blend_columns(pixels[rows.upper], columns)  # (S, S, 3)
    return np.asarray(upper + (lower - upper) * rows.weight[:, None, None])


class _Positions(NamedTuple):
    lower: Array  # (S,) int64, the input index at or before each output pixel's centre
    upper: Array  # (S,) int64, the one after it
    weight: Array  # (S,) float32 in [0, 1), the share of `upper`


def _sample_positions(size_in: int, size_out: int) -> _Positions:
    scale = np.float32(size_in) / np.float32(size_out)
    centre = (np.arange(size_out, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
    floor = np.floor(centre)
    upper = np.minimum(np.ceil(centre).astype(np.int64), size_in - 1)
    lower = np.minimum(np.maximum(floor.astype(np.int64), 0), upper)
    return _Positions(lower, upper, centre - floor)


def _blend_columns(rows: Array, columns: _Positions) -> Array:
    left = rows[:, columns.lower].astype(np.float32)  # (S, S, 3)
    right = rows[:, columns.upper].astype(np.float32)  # (S, S, 3)
    return np.asarray(left + (right - left) * columns.weight[None, :, None])
