"""One DICOM instance: to pictures under a named policy, to modality values, or to its header alone.

Only technical tags are ever parsed, so no patient tag can reach a picture, a message or a log. Frames are decoded
and handed on one by one: a file of 300 frames never lies in memory whole. `parse` reads bytes,
`pixels` decodes stored values, `grey` and `palette` make eight bits of them. H rows, W columns.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from ..frame import FULL_RANGE, STORED, VOI, Array, DecodedFrame, ImageError, stretch_to_uint8
from ..units import STORED as STORED_UNIT
from .grey import Rendered, render_grey
from .header import InstanceHeader, ct_codes, instance_header, technical_tags
from .lut import LookupTable, ModalityTransform, modality_transform, modality_values
from .palette import apply_palette, read_palette
from .parse import parse, parses, typed_errors, typed_steps
from .pixels import FrameSource, colour_findings, frame_source
from .policies import CT_POLICIES, REPORT, check_policy
from .tag_findings import tag_findings
from .tone import tone_frames

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = [
    "InstanceHeader",
    "decode_dicom",
    "decode_values",
    "has_dicom_preamble",
    "parses_as_dicom",
    "read_header",
]


def has_dicom_preamble(data: bytes) -> bool:
    """Whether "DICM" follows the 128-byte preamble."""
    return data[128:132] == b"DICM"


def parses_as_dicom(data: bytes) -> bool:
    """Whether bytes without a preamble (old files lack it) parse to a data set with a class or pixels."""
    return parses(data)


def decode_dicom(data: bytes, policy: str, file: str) -> Iterator[DecodedFrame]:
    """Decode the bytes of one DICOM instance, frame by frame.

    Args:
        data: the whole file.
        policy: for grey pictures,
            "voi": the file's first VOI LUT or window (a frame's own in enhanced multi-frame files); "voi:2": its
            second one;
            "full-range": the smallest valid value of the file becomes 0, the largest 255, as Google's serving
            container does it with radiographs and exactly to the same greys, but for these: pixel padding is left
            out of the range and black; a range of less than 255 modality units is not cut to whole units;
            rescaled values that the stored type cannot hold do not wrap around; less than 8 bits stored are
            stretched like more; a file of one value is black (there it is white). Unsigned 8-bit values stay as
            they are;
            "percentile": the 0.5th percentile of the file's valid values becomes 0, the 99.5th 255;
            "ct-report", "ct-medgemma-1.5", "ct-google-container": CT in three windows, see `presets.CT_WINDOWS`;
            "report": CT in Hounsfield units as "ct-report", all else as "voi".
            Colour pictures have their own eight bits under all but the CT policies; deeper ones are scaled by Bits
            Stored, or by the file's range under "full-range".
        file: name for messages.

    Returns:
        The frames; grey ones (H, W), colour (H, W, 3). `policy` is what was used: "stored" for colour and for
        8-bit grey without VOI; "full-range" where "voi" was asked for and the file has none, or one that leaves
        nothing but white, and where the percentiles coincide.

    Raises:
        ImageError: while iterating: not DICOM, truncated, no pixel data, an unsupported transfer syntax, too
            large, or a policy that does not suit the file.
        ValueError: while iterating: an unknown policy.

    Source: DICOM PS3.3 C.11 for "voi"; python/data_accessors of Google-Health/medgemma for "full-range"; `presets`
    for the CT policies.
    """
    check_policy(policy)
    dataset = parse(data, file)
    with typed_errors(file):
        frames = frame_source(dataset, file)
        findings = (*tag_findings(dataset), *colour_findings(dataset))
    rendered = typed_steps(_render(dataset, frames, policy, file), file)
    for number, frame in enumerate(rendered):
        with typed_errors(file):
            tags = technical_tags(dataset, number)
        yield DecodedFrame(frame.pixels, frame.policy, tags, (*findings, *frame.findings))


def read_header(data: bytes, file: str) -> InstanceHeader:
    """Read what grouping a series needs; no pixel is touched.

    Args:
        data: the whole file.
        file: name for messages.

    Raises:
        ImageError: not DICOM, or a damaged header.
    """
    dataset = parse(data, file, stop_before_pixels=True)
    with typed_errors(file):
        header = instance_header(dataset, hashlib.sha256(data).hexdigest())
        if header.sop_class_uid is None and "Rows" not in dataset:
            raise ImageError(file, "no DICOM instance (neither a class nor a picture); give DICOM files")
        return header


def decode_values(data: bytes, file: str) -> Iterator[Array]:
    """Decode modality values, frame by frame: for CT, Hounsfield units.

    Args:
        data: the whole file.
        file: name for messages.

    Returns:
        (H, W) each: int16 where slope and intercept are whole numbers and the values fit, else float32.
        MONOCHROME1 is not inverted, padding is kept (and rescaled like all values).

    Raises:
        ImageError: as `decode_dicom`, and for colour.
    """
    dataset = parse(data, file)
    with typed_errors(file):
        frames = frame_source(dataset, file)
        if dataset.PhotometricInterpretation not in ("MONOCHROME1", "MONOCHROME2"):
            raise ImageError(file, "a colour picture has no modality values; open it as a picture")
    return typed_steps(_values(dataset, frames), file)


# Rendering


def _render(dataset: Dataset, frames: FrameSource, policy: str, file: str) -> Iterator[Rendered]:
    photometric = str(dataset.PhotometricInterpretation)
    if policy == REPORT:
        policy = CT_POLICIES[0] if _is_ct(dataset) else VOI
    if policy in CT_POLICIES:
        _check_ct(dataset, policy, file)
    if int(dataset.get("SamplesPerPixel", 1)) == 3:
        yield from _colour_frames(frames, int(dataset.BitsStored), policy)
    elif photometric == "PALETTE COLOR":
        palette = read_palette(dataset)

        def tone(indices: Array) -> Array:
            return apply_palette(palette, indices)

        for frame in tone_frames(frames(), lambda _: tone):
            yield Rendered(frame.pixels, STORED)
    else:
        yield from render_grey(dataset, frames, policy, file)


def _is_ct(dataset: Dataset) -> bool:
    codes = ct_codes(dataset)
    return codes.unit != STORED_UNIT and codes.photometric_interpretation in ("MONOCHROME1", "MONOCHROME2")


def _check_ct(dataset: Dataset, policy: str, file: str) -> None:
    modality, photometric, rescale_type, _ = ct_codes(dataset)
    if not _is_ct(dataset):
        what = f"{modality or 'of an unknown modality'}, {photometric or ''}, {rescale_type or 'no unit'}"
        raise ImageError(file, f"the policy {policy} is for CT in Hounsfield units, this is {what}; use {VOI}")


def _colour_frames(frames: FrameSource, bits_stored: int, policy: str) -> Iterator[Rendered]:
    """Eight bits stay; deeper ones are scaled by Bits Stored, or by the file's own range if asked."""
    low, high, used = 0.0, 2.0**bits_stored - 1, STORED
    if policy == FULL_RANGE and bits_stored > 8:
        ends = [(float(stored.min()), float(stored.max())) for stored in frames()]
        low, high, used = min(end[0] for end in ends), max(end[1] for end in ends), FULL_RANGE
    for stored in frames():
        as_is = bits_stored == 8 and stored.dtype == np.uint8
        yield Rendered(stored if as_is else _stretched_rows(stored, low, high), used)


def _stretched_rows(stored: Array, low: float, high: float) -> Array:
    pixels = np.empty(stored.shape, np.uint8)
    for row, values in enumerate(stored):
        pixels[row] = stretch_to_uint8(values, low, high)
    return pixels


# Modality values


def _values(dataset: Dataset, frames: FrameSource) -> Iterator[Array]:
    for number, stored in enumerate(frames()):
        yield _modality_frame(stored, modality_transform(dataset, number))


def _modality_frame(stored: Array, modality: ModalityTransform) -> Array:
    ends = modality_values(np.array([stored.min(), stored.max()]), modality)
    if isinstance(modality, LookupTable):
        ends, whole = modality.entries, True
    else:
        whole = all(float(part).is_integer() for part in modality) and stored.dtype.kind in "iu"
    fits = whole and ends.min() >= -(2**15) and ends.max() < 2**15
    values = np.empty(stored.shape, np.int16 if fits else np.float32)
    for row, row_values in enumerate(stored):  # in rows, to spare a frame of 64-bit floats
        values[row] = modality_values(row_values, modality)
    return values
