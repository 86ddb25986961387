"""Named ways to make a picture square: each reproduces one published preprocessing exactly.

- `huggingface`: what MedGemma's and MedSigLIP's published processors do: squashed to the square by PIL's
  antialiased bilinear filter. `huggingface-bicubic`: the same with the bicubic default of transformers' SigLIP class.
- `report`: the technical report's path: zero-padded to a square, then TensorFlow bilinear without antialiasing, and
  cut (not rounded) to whole values, as Big Vision and MedSigLIP's model card do.
- `container`: Google's MedGemma serving container: zero-padded, a JPEG of quality 95 with halved colour resolution,
  then the `huggingface` resize of the decoded JPEG. Its INTER_AREA shrink before that is off by default, and not here.
- `container-medsiglip`: Google's MedSigLIP serving container: zero-padded, then the `huggingface-bicubic` resize.

Source: preprocessor_config.json of google/medgemma-4b-it and transformers' SiglipImageProcessor; for "report",
notebooks/quick_start_with_hugging_face.ipynb of Google-Health/medsiglip and pp/ops_image.py of big_vision; for the
containers, python/serving of Google-Health/medgemma and of Google-Health/medsiglip.
"""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np

from .frame import Array, as_rgb, is_grey_plane

RESIZE_POLICIES = ("huggingface", "huggingface-bicubic", "report", "container", "container-medsiglip")
"""The names that `resize` takes."""

_SQUASHING = ("huggingface", "huggingface-bicubic")
_JPEG_QUALITY = 95
_MAX_PADDED_PX = 2**27  # a strip may be small and its square huge; PIL refuses somewhat more


def resize(pixels: Array, size_px: int, policy: str) -> Array:
    """Resize a picture to a square.

    Args:
        pixels: (H, W, 3) uint8 RGB; of one plane seen three times, only one is worked on, with the same result.
        size_px: S, the side of the result in pixels.
        policy: one of `RESIZE_POLICIES`.

    Returns:
        (S, S, 3) uint8; one plane seen three times if `pixels` is.

    Raises:
        ValueError: an unknown policy, a side below 1, pixels that are not (H, W, 3) uint8, or a strip so long that
            padding it to a square would take too much memory.
    """
    _check(pixels, size_px)
    planes = pixels[:, :, 0] if is_grey_plane(pixels) else pixels  # (H, W) or (H, W, 3)
    if policy == "huggingface":
        resized = _resize_pil(planes, size_px, bicubic=False)
    elif policy == "huggingface-bicubic":
        resized = _resize_pil(planes, size_px, bicubic=True)
    elif policy == "report":
        resized = _resize_padded_tensorflow(planes, size_px).astype(np.uint8)
    elif policy == "container":
        resized = _resize_pil(_through_jpeg(_pad_to_square(planes)), size_px, bicubic=False)
    elif policy == "container-medsiglip":
        resized = _resize_pil(_pad_to_square(planes), size_px, bicubic=True)
    else:
        raise ValueError(f"unknown resize policy {policy!r}; use one of {', '.join(RESIZE_POLICIES)}")
    return as_rgb(resized)


class Shown(NamedTuple):
    """The part of a picture's plane that a square shows, in the picture's own pixels; beyond the picture is black."""

    top_px: float
    """Above 0 rows: negative where there is padding."""
    left_px: float
    height_px: float
    width_px: float


def shown(height_px: int, width_px: int, policy: str) -> Shown:
    """What the square of `resize` shows, so that a place in it can be found again in the picture.

    Args:
        height_px: rows of the picture.
        width_px: its columns.
        policy: one of `RESIZE_POLICIES`.

    Raises:
        ValueError: an unknown policy.
    """
    if policy not in RESIZE_POLICIES:
        raise ValueError(f"unknown resize policy {policy!r}; use one of {', '.join(RESIZE_POLICIES)}")
    if policy in _SQUASHING:
        return Shown(0, 0, height_px, width_px)
    square = _square_around(height_px, width_px)
    return Shown(-square.top, -square.left, square.side, square.side)


def _check(pixels: Array, size_px: int) -> None:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
        got = f"got {pixels.dtype} of shape {pixels.shape}, expected (H, W, 3) uint8"
        raise ValueError(f"{got}; pass Picture.pixels")
    if size_px < 1:
        raise ValueError(f"size_px is {size_px}, expected at least 1; pass the encoder's image size, such as 448")


def _resize_pil(planes: Array, size_px: int, *, bicubic: bool) -> Array:
    """Squash to (S, S) with PIL's antialiased filter, as transformers' SiglipImageProcessorPil does."""
    from PIL import Image

    resample = Image.Resampling.BICUBIC if bicubic else Image.Resampling.BILINEAR
    return np.array(Image.fromarray(np.ascontiguousarray(planes)).resize((size_px, size_px), resample))


def _pad_to_square(planes: Array) -> Array:
    """Centre the picture on black; with an odd margin the extra row or column is below or to the right."""
    side, top, left = _square_around(*planes.shape[:2])
    if side * side > _MAX_PADDED_PX:
        height, width = planes.shape[:2]
        advice = "crop it, or use huggingface or report, which need no padded copy"
        raise ValueError(f"{height} x {width} pixels padded to a square of {side} are too many; {advice}")
    margins = [(top, side - planes.shape[0] - top), (left, side - planes.shape[1] - left), (0, 0)]
    return np.pad(planes, margins[: planes.ndim])


class _Square(NamedTuple):
    side: int
    top: int  # rows of padding above the picture
    left: int  # columns of padding left of it


def _square_around(height: int, width: int) -> _Square:
    side = max(height, width)
    return _Square(side, (side - height) // 2, (side - width) // 2)


def _through_jpeg(planes: Array) -> Array:
    """What is left after JPEG; OpenCV's encoder, which the container calls, and PIL's agree bit for bit."""
    from PIL import Image

    file = io.BytesIO()
    # A grey JPEG decodes to the very values of a colour JPEG of the same grey: both quantise luma alike.
    Image.fromarray(np.ascontiguousarray(planes)).save(file, "JPEG", quality=_JPEG_QUALITY, subsampling="4:2:0")
    return np.array(Image.open(file))


def _resize_padded_tensorflow(planes: Array, size_px: int) -> Array:
    """`tf.image.resize(square, [S, S], "bilinear", antialias=False)` of the zero-padded square, float for float.

    Args:
        planes: (H, W) or (H, W, 3) uint8.
        size_px: S.

    Returns:
        (S, S) or (S, S, 3) float32, 0..255, not rounded.

    Source: TensorFlow core/kernels/image/resize_bilinear_op.cc (compute_lerp, HalfPixelScaler); rows and
    columns are blended in that order and in float32, so the sums round as TensorFlow's do.
    """
    square = _square_around(*planes.shape[:2])
    at = _sample_positions(square.side, size_px)
    upper = _blend_columns(_rows(planes, at.lower - square.top), at, square.left)
    lower = _blend_columns(_rows(planes, at.upper - square.top), at, square.left)
    return np.asarray(upper + (lower - upper) * _along(at.weight, 0, planes.ndim))


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


def _blend_columns(rows: Array, at: _Positions, left_margin: int) -> Array:
    left = _columns(rows, at.lower - left_margin)
    right = _columns(rows, at.upper - left_margin)
    return np.asarray(left + (right - left) * _along(at.weight, 1, rows.ndim))


def _rows(planes: Array, numbers: Array) -> Array:
    """(S, W[, 3]) uint8: rows by number, black where there is none."""
    inside = (numbers >= 0) & (numbers < planes.shape[0])
    rows = planes[np.where(inside, numbers, 0)]
    rows[~inside] = 0
    return rows


def _columns(rows: Array, numbers: Array) -> Array:
    """(S, S[, 3]) float32: columns by number, black where there is none."""
    inside = (numbers >= 0) & (numbers < rows.shape[1])
    columns = rows[:, np.where(inside, numbers, 0)].astype(np.float32)
    columns[:, ~inside] = 0
    return columns


def _along(weight: Array, axis: int, num_axes: int) -> Array:
    """(S,) weights in the shape that multiplies `axis` of an array with `num_axes`."""
    return weight.reshape([-1 if i == axis else 1 for i in range(num_axes)])
