"""The technical tags of an instance, and what grouping instances into a series needs. No pixel is touched."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..frame import Finding, Plane, TechnicalTags
from ..units import unit_of
from .lut import (
    IDENTITY,
    LookupTable,
    Rescale,
    Voi,
    Window,
    modality_transform,
    rescale_of,
    usable_window,
    voi_transforms,
    window_function,
)
from .moments import NO_MOMENT, FrameMoment, digest_of, file_moment, frame_moment
from .padding import Padding, read_padding, stored_padding
from .parse import DamagedTag, frame_macro, is_given, number, numbers, tag_name, text, texts
from .tag_findings import is_inverted, tag_findings
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
    padding: Padding | None
    """Pixel Padding Value and Range Limit as stored values, the smaller first."""
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
    moment: FrameMoment = NO_MOMENT
    """Of a file without functional groups of frames."""
    inverted: bool = False
    """Whether small values are bright, see `tag_findings.is_inverted`."""
    has_modality_lut: bool = False
    """Whether a table stands in for the rescale."""
    geometry_fault: str | None = None
    """Which attribute keeps it from being a slice; None where it may be one."""
    findings: tuple[Finding, ...] = ()
    """What its tags are found to say, see `tag_findings`."""

    @property
    def unit(self) -> str:
        """Of its modality values, as far as tags say; see `units.unit_of`."""
        is_identity = not self.has_modality_lut and (self.rescale_slope, self.rescale_intercept) == (1.0, 0.0)
        return unit_of(self.tags.modality, self.rescale_type, is_identity=is_identity)


class FileContent(NamedTuple):
    """What a file is, as far as grouping needs to know."""

    format: str
    """"dicom", "volume" (NIfTI or MetaImage), "raster" or "unknown", by its first bytes."""
    header: InstanceHeader | None
    """Of a DICOM instance that has one that can be read."""
    is_grey_volume: bool = False
    """Whether the file by itself is a volume."""


def instance_header(dataset: Dataset, sha256: str) -> InstanceHeader:
    """Collect the header from a parsed data set; damaged attributes count as absent."""
    num_frames = _integer(dataset, "NumberOfFrames") or 1
    rescale = frame_macro(dataset, 0, "PixelValueTransformationSequence")
    slope, intercept = _rescale(dataset)
    tags = technical_tags(dataset, 0)
    frame_planes = _frame_planes(dataset, num_frames)
    return InstanceHeader(
        sha256=sha256,
        tags=tags,
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
        rescale_slope=slope,
        rescale_intercept=intercept,
        rescale_type=_rescale_type(dataset, rescale),
        padding=_padding(dataset),
        gantry_tilt_deg=number(dataset, "GantryDetectorTilt"),
        frame_planes=frame_planes,
        frame_moments=_frame_moments(dataset, num_frames),
        vois=_vois(dataset, num_frames),
        echo_number=_integer(dataset, "EchoNumbers"),
        temporal_position=_integer(dataset, "TemporalPositionIdentifier"),
        diffusion_b_value=number(dataset, "DiffusionBValue"),
        moment=file_moment(dataset),
        inverted=is_inverted(dataset),
        has_modality_lut="ModalityLUTSequence" in dataset,
        geometry_fault=_geometry_fault(dataset, tags, num_frames, frame_planes),
        findings=tag_findings(dataset),
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
    unit: str
    """See `units.unit_of`."""


def ct_codes(dataset: Dataset) -> CtCodes:
    """Codes of the header, the rescale type that of the first frame."""
    rescale = frame_macro(dataset, 0, "PixelValueTransformationSequence")
    rescale_type = _rescale_type(dataset, rescale)
    is_identity = "ModalityLUTSequence" not in dataset and rescale_of(dataset, 0) == IDENTITY
    unit = unit_of(_modality(dataset), rescale_type, is_identity=is_identity)
    return CtCodes(_modality(dataset), _photometric(dataset), rescale_type, unit)


def _modality(dataset: Dataset) -> str | None:
    return known_code(text(dataset, "Modality"), MODALITIES)


def _photometric(dataset: Dataset) -> str | None:
    return known_code(text(dataset, "PhotometricInterpretation"), PHOTOMETRIC_INTERPRETATIONS)


def _rescale(dataset: Dataset) -> Rescale:
    """That of the first frame; a damaged one is said when pixels are asked for."""
    try:
        return rescale_of(dataset, 0)
    except DamagedTag:
        return IDENTITY


def _rescale_type(dataset: Dataset, rescale: Dataset) -> str | None:
    table = next(iter(dataset.get("ModalityLUTSequence") or []), None)
    code = text(rescale, "RescaleType") if table is None else text(table, "ModalityLUTType")
    return known_code(code, RESCALE_TYPES)


def _bits_stored(dataset: Dataset) -> int | None:
    bits = _integer(dataset, "BitsStored")
    return bits if bits is not None and 1 <= bits <= 64 else None


def _transfer_syntax_uid(dataset: Dataset) -> str | None:
    from pydicom.uid import UID

    uid = UID(text(dataset.file_meta, "TransferSyntaxUID")) if hasattr(dataset, "file_meta") else UID("")
    # name and type come from the standard's register, so that a UID with a patient's number in it cannot pass
    return str(uid) if uid.name != str(uid) and uid.type == "Transfer Syntax" else None


def _padding(dataset: Dataset) -> Padding | None:
    """In the type of the stored values, as `padding.padding_mask` compares it."""
    try:
        padding, bits = read_padding(dataset), _integer(dataset, "BitsAllocated")
        if padding is None or bits not in (8, 16, 32) or not all(map(math.isfinite, padding)):
            return None
        kind = "i" if _integer(dataset, "PixelRepresentation") == 1 else "u"
        return stored_padding(padding, np.dtype(f"{kind}{bits // 8}"))
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, NotImplementedError):
        return None


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
    return tuple(frame_moment(dataset, frame) for frame in range(num_frames))


def _geometry_fault(
    dataset: Dataset, tags: TechnicalTags, num_frames: int, frame_planes: tuple[Plane, ...]
) -> str | None:
    if tags.spacing_mm is not None and (tags.plane if num_frames < 2 else frame_planes):
        return None
    holders = {
        "ImagePositionPatient": "PlanePositionSequence",
        "ImageOrientationPatient": "PlaneOrientationSequence",
        "PixelSpacing": "PixelMeasuresSequence",
    }
    counts = {"ImagePositionPatient": 3, "ImageOrientationPatient": 6, "PixelSpacing": 2}
    for keyword, sequence in holders.items():
        holder = frame_macro(dataset, 0, sequence)
        if len(numbers(holder, keyword)) != counts[keyword]:
            what = f"is not {counts[keyword]} numbers" if is_given(holder, keyword) else "is missing"
            return f"{tag_name(keyword)} {what}"
    if tags.spacing_mm is None:
        return f"{tag_name('PixelSpacing')} is not above 0"
    if tags.plane is None:
        return f"{tag_name('ImageOrientationPatient')} is no pair of directions at right angles"
    return "not every frame has its own position"


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
    """As it is, or a digest of whatever else is there, to be compared: privacy tools write words and hex digits."""
    uid = text(dataset, keyword)
    return uid if re.fullmatch(r"[0-9.]{1,64}", uid) else digest_of((uid,)) or None


def _integer(dataset: Dataset, keyword: str) -> int | None:
    value = number(dataset, keyword)
    return None if value is None or value != int(value) else int(value)
