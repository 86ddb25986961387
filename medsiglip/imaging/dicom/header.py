"""The technical tags of an instance, and what grouping instances into a series needs. No pixel is touched."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..frame import Plane, TechnicalTags
from .lut import (
    LookupTable,
    Voi,
    Window,
    modality_transform,
    usable_window,
    voi_transforms,
    window_function,
)
from .parse import frame_macro, number, numbers, text, texts
from .tags import (
    BODY_PARTS,
    IMAGE_TYPES,
    LATERALITIES,
    MODALITIES,
    PHOTOMETRIC_INTERPRETATIONS,
    RESCALE_TYPES,
    VIEW_POSITIONS,
    known_code,
)

if TYPE_CHECKING:
    from pydicom import Dataset

_MAX_DIRECTION_ERROR = 1e-2  # of length and of orthogonality


class FrameMoment(NamedTuple):
    """What tells frames at one position of an enhanced instance apart; None where the file does not say."""

    acquisition_number: float | None
    """Frame Acquisition Number (0020,9156)."""
    temporal_position: float | None
    """Temporal Position Index (0020,9128), else Temporal Position Time Offset (0020,930D) in s."""
    echo_time_ms: float | None
    """Effective Echo Time (0018,9082)."""
    diffusion_b_value: float | None
    """Diffusion b-value (0018,9087) in s/mm2."""
    frame_type: tuple[str, ...]
    """Frame Type (0008,9007); "" for a value that is on no list."""


@dataclass(frozen=True)
class InstanceHeader:
    """What grouping and sorting a series needs to know of one instance.

    UIDs stay inside the process: they are compared, never shown.
    """

    sha256: str
    """Hex digest of the file's bytes."""
    tags: TechnicalTags
    """Of the first frame."""
    sop_class_uid: str | None
    """SOP Class UID (0008,0016)."""
    series_uid: str | None
    """Series Instance UID (0020,000E)."""
    instance_uid: str | None
    """SOP Instance UID (0008,0018)."""
    frame_of_reference_uid: str | None
    """Frame of Reference UID (0020,0052)."""
    acquisition_number: int | None
    """Acquisition Number (0020,0012)."""
    instance_number: int | None
    """Instance Number (0020,0013)."""
    image_type: tuple[str, ...]
    """Image Type (0008,0008); "" for a value that is on no list."""
    rows: int
    """0 when the instance is no picture."""
    columns: int
    """0 when the instance is no picture."""
    num_frames: int
    """Number of Frames (0028,0008), 1 without it."""
    samples_per_pixel: int
    """Samples per Pixel (0028,0002)."""
    bits_stored: int
    """Bits Stored (0028,0101)."""
    pixel_representation: int
    """0 unsigned, 1 signed."""
    rescale_slope: float
    """Of the first frame; 1 without one."""
    rescale_intercept: float
    """Of the first frame; 0 without one."""
    rescale_type: str | None
    """Rescale Type (0028,1054) of the first frame, such as "HU"."""
    padding_value: int | None
    """Pixel Padding Value (0028,0120) as a stored value: -2000 where signed pixels have it written as 63536."""
    gantry_tilt_deg: float | None
    """Gantry/Detector Tilt (0018,1120)."""
    frame_planes: tuple[Plane, ...]
    """One a frame for multi-frame instances whose frames all have one, else ()."""
    frame_moments: tuple[FrameMoment, ...]
    """One a frame for multi-frame instances with functional groups, else ()."""
    vois: tuple[Voi, ...]
    """What the policy "voi" shows frames by, the first that can be used: one for all frames, or one a frame."""
    echo_number: int | None
    """Echo Number(s) (0018,0086), the first."""
    temporal_position: int | None
    """Temporal Position Identifier (0020,0100)."""
    diffusion_b_value: float | None
    """Diffusion b-value (0018,9087) in s/mm2."""


class FileContent(NamedTuple):
    """What a file is, as far as grouping needs to know."""

    format: str
    """"dicom", "nifti", "raster" or "unknown", by its first bytes."""
    header: InstanceHeader | None
    """Of a DICOM instance that has one that can be read."""


def instance_header(dataset: Dataset, sha256: str) -> InstanceHeader:
    """Collect the header from a parsed data set; damaged attributes count as absent."""
    num_frames = _integer(dataset, "NumberOfFrames") or 1
    rescale = frame_macro(dataset, 0, "PixelValueTransformationSequence")
    slope, intercept = number(rescale, "RescaleSlope"), number(rescale, "RescaleIntercept")
    return InstanceHeader(
        sha256=sha256,
        tags=technical_tags(dataset, 0),
        sop_class_uid=_uid(dataset, "SOPClassUID"),
        series_uid=_uid(dataset, "SeriesInstanceUID"),
        instance_uid=_uid(dataset, "SOPInstanceUID"),
        frame_of_reference_uid=_uid(dataset, "FrameOfReferenceUID"),
        acquisition_number=_integer(dataset, "AcquisitionNumber"),
        instance_number=_integer(dataset, "InstanceNumber"),
        image_type=tuple(known_code(value, IMAGE_TYPES) or "" for value in texts(dataset, "ImageType")),
        rows=_integer(dataset, "Rows") or 0,
        columns=_integer(dataset, "Columns") or 0,
        num_frames=max(num_frames, 1),
        samples_per_pixel=_integer(dataset, "SamplesPerPixel") or 1,
        bits_stored=_integer(dataset, "BitsStored") or 0,
        pixel_representation=int(_integer(dataset, "PixelRepresentation") == 1),
        rescale_slope=1.0 if slope is None else slope,
        rescale_intercept=0.0 if intercept is None else intercept,
        rescale_type=_rescale_type(rescale),
        padding_value=_padding_value(dataset),
        gantry_tilt_deg=number(dataset, "GantryDetectorTilt"),
        frame_planes=_frame_planes(dataset, num_frames),
        frame_moments=_frame_moments(dataset, num_frames),
        vois=_vois(dataset, num_frames),
        echo_number=_integer(dataset, "EchoNumbers"),
        temporal_position=_integer(dataset, "TemporalPositionIdentifier"),
        diffusion_b_value=number(dataset, "DiffusionBValue"),
    )


def technical_tags(dataset: Dataset, frame: int) -> TechnicalTags:
    """The technical tags of one frame; damaged ones, and codes that are on no list, are None.

    Args:
        dataset: a parsed file.
        frame: counted from 0, for the functional groups of enhanced multi-frame instances.
    """
    measures = frame_macro(dataset, frame, "PixelMeasuresSequence")
    thickness_mm = number(measures, "SliceThickness")
    laterality = known_code(text(dataset, "ImageLaterality"), LATERALITIES)
    return TechnicalTags(
        modality=_modality(dataset),
        body_part=known_code(text(dataset, "BodyPartExamined"), BODY_PARTS),
        view_position=known_code(text(dataset, "ViewPosition"), VIEW_POSITIONS),
        laterality=laterality or known_code(text(dataset, "Laterality"), LATERALITIES),
        photometric_interpretation=_photometric(dataset),
        bits_stored=_bits_stored(dataset),
        transfer_syntax_uid=_transfer_syntax_uid(dataset),
        spacing_mm=_spacing_mm(measures, "PixelSpacing") or _spacing_mm(dataset, "ImagerPixelSpacing"),
        slice_thickness_mm=thickness_mm if thickness_mm is not None and thickness_mm > 0 else None,
        plane=_plane(dataset, frame),
    )


class CtCodes(NamedTuple):
    """What says whether an instance holds Hounsfield units; None for what is absent or on no list."""

    modality: str | None
    photometric_interpretation: str | None
    rescale_type: str | None


def ct_codes(dataset: Dataset) -> CtCodes:
    """Three codes of the header, the rescale type that of the first frame."""
    rescale = frame_macro(dataset, 0, "PixelValueTransformationSequence")
    return CtCodes(_modality(dataset), _photometric(dataset), _rescale_type(rescale))


def _modality(dataset: Dataset) -> str | None:
    return known_code(text(dataset, "Modality"), MODALITIES)


def _photometric(dataset: Dataset) -> str | None:
    return known_code(text(dataset, "PhotometricInterpretation"), PHOTOMETRIC_INTERPRETATIONS)


def _rescale_type(rescale: Dataset) -> str | None:
    return known_code(text(rescale, "RescaleType"), RESCALE_TYPES)


def _bits_stored(dataset: Dataset) -> int | None:
    bits = _integer(dataset, "BitsStored")
    return bits if bits is not None and 1 <= bits <= 64 else None


def _transfer_syntax_uid(dataset: Dataset) -> str | None:
    from pydicom.uid import UID

    uid = UID(text(dataset.file_meta, "TransferSyntaxUID")) if hasattr(dataset, "file_meta") else UID("")
    # name and type come from the standard's register, so that a UID with a patient's number in it cannot pass
    return str(uid) if uid.name != str(uid) and uid.type == "Transfer Syntax" else None


def _padding_value(dataset: Dataset) -> int | None:
    padding, bits = _integer(dataset, "PixelPaddingValue"), _integer(dataset, "BitsAllocated")
    if padding is None or bits not in (8, 16, 32):
        return padding
    kind = "i" if _integer(dataset, "PixelRepresentation") == 1 else "u"
    return int(np.array(padding).astype(f"{kind}{bits // 8}"))


def _spacing_mm(dataset: Dataset, keyword: str) -> tuple[float, float] | None:
    spacing = numbers(dataset, keyword)
    return (spacing[0], spacing[1]) if len(spacing) == 2 and min(spacing) > 0 else None


def _vois(dataset: Dataset, num_frames: int) -> tuple[Voi, ...]:
    """A frame without a transform takes the first frame's, as in `grey`."""
    if table := _voi_table(dataset):
        return (Voi(table=table),)
    first = Voi(_window(dataset, 0))
    if not _has_frame_groups(dataset, num_frames):  # as many groups as frames: a header may claim any number of these
        return (first,)
    every = tuple(Voi(_window(dataset, frame) or first.window) for frame in range(num_frames))
    return every if any(voi != first for voi in every) else (first,)


def _voi_table(dataset: Dataset) -> LookupTable | None:
    if "VOILUTSequence" not in dataset:
        return None
    try:
        listed = voi_transforms(dataset, 0, modality_transform(dataset, 0))
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, NotImplementedError):
        return None
    return next((voi for voi in listed if isinstance(voi, LookupTable)), None)


def _window(dataset: Dataset, frame: int) -> Window | None:
    holder = frame_macro(dataset, frame, "FrameVOILUTSequence")
    function = window_function(text(holder, "VOILUTFunction"))
    pairs = zip(numbers(holder, "WindowCenter"), numbers(holder, "WindowWidth"), strict=False)
    windows = (usable_window(center, width, function) for center, width in pairs)
    return next((window for window in windows if window is not None), None)


def _frame_planes(dataset: Dataset, num_frames: int) -> tuple[Plane, ...]:
    if not _has_frame_groups(dataset, num_frames):
        return ()
    planes = [_plane(dataset, frame) for frame in range(num_frames)]
    return tuple(plane for plane in planes if plane is not None) if all(planes) else ()


def _has_frame_groups(dataset: Dataset, num_frames: int) -> bool:
    if num_frames < 2 or "PerFrameFunctionalGroupsSequence" not in dataset:
        return False
    return len(dataset.PerFrameFunctionalGroupsSequence or []) == num_frames


def _frame_moments(dataset: Dataset, num_frames: int) -> tuple[FrameMoment, ...]:
    if not _has_frame_groups(dataset, num_frames):
        return ()
    return tuple(_frame_moment(dataset, frame) for frame in range(num_frames))


def _frame_moment(dataset: Dataset, frame: int) -> FrameMoment:
    """Source: PS3.3 C.7.6.16.2.2, C.8.13.5."""
    content = frame_macro(dataset, frame, "FrameContentSequence")
    position = number(content, "TemporalPositionIndex")
    if position is None:
        temporal = frame_macro(dataset, frame, "TemporalPositionSequence")
        position = number(temporal, "TemporalPositionTimeOffset")
    types = (frame_macro(dataset, frame, f"{kind}FrameTypeSequence") for kind in ("MRImage", "CTImage", "PET"))
    frame_type = next((found for item in types if (found := texts(item, "FrameType"))), ())
    return FrameMoment(
        number(content, "FrameAcquisitionNumber"),
        position,
        number(frame_macro(dataset, frame, "MREchoSequence"), "EffectiveEchoTime"),
        number(frame_macro(dataset, frame, "MRDiffusionSequence"), "DiffusionBValue"),
        tuple(known_code(value, IMAGE_TYPES) or "" for value in frame_type),
    )


def _plane(dataset: Dataset, frame: int) -> Plane | None:
    """Position and unit directions; None unless they are orthonormal. Source: PS3.3 C.7.6.2.1.1."""
    position = numbers(frame_macro(dataset, frame, "PlanePositionSequence"), "ImagePositionPatient")
    orientation = numbers(frame_macro(dataset, frame, "PlaneOrientationSequence"), "ImageOrientationPatient")
    if len(position) != 3 or len(orientation) != 6:
        return None
    directions = np.array(orientation).reshape(2, 3)
    lengths = np.linalg.norm(directions, axis=1)
    if np.abs(lengths - 1).max() > _MAX_DIRECTION_ERROR:
        return None
    row, column = directions / lengths[:, None]
    return None if abs(row @ column) > _MAX_DIRECTION_ERROR else Plane(_triple(position), _triple(row), _triple(column))


def _triple(values: tuple[float, ...] | np.ndarray[tuple[int], np.dtype[np.float64]]) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])


def _uid(dataset: Dataset, keyword: str) -> str | None:
    uid = text(dataset, keyword)
    return uid if re.fullmatch(r"[0-9.]{1,64}", uid) else None


def _integer(dataset: Dataset, keyword: str) -> int | None:
    value = number(dataset, keyword)
    return None if value is None or value != int(value) else int(value)
