"""What tells images at one position apart: echo, time, b-value, phase, reconstruction and the order of their making."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, NamedTuple

from .parse import frame_macro, number, numbers, text, texts
from .tags import IMAGE_TYPES, known_code

if TYPE_CHECKING:
    from pydicom import Dataset


class FrameMoment(NamedTuple):
    """What tells images at one position apart, of a file or of a frame; None where the file does not say."""

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
    inversion_time_ms: float | None = None
    """Inversion Time (0018,0082), or Inversion Times (0018,9079)."""
    phase: float | None = None
    """Trigger Time (0018,1060) or delay in ms, else Nominal Percentage of Cardiac Phase (0020,9241)."""
    flip_angle_deg: float | None = None
    """Flip Angle (0018,1314)."""
    tube_voltage_kv: float | None = None
    """KVP (0018,0060)."""
    frame_time_ms: float | None = None
    """Frame Reference Time (0054,1300)."""
    gradient: tuple[float, ...] = ()
    """Diffusion Gradient Orientation (0018,9089)."""
    component: str = ""
    """Complex Image Component (0008,9208)."""
    image_type_digest: str = ""
    """Of all values of Image Type, those on no list too: compared, never shown."""
    reconstruction_digest: str = ""
    """Of Convolution Kernel (0018,1210): compared, never shown."""
    acquired_s: float | None = None
    """Acquisition Date and Time in s since a day long ago; only differences mean something. Never shown."""
    content_s: float | None = None
    """Content Time (0008,0033) in s since midnight. Never shown."""


NO_MOMENT = FrameMoment(None, None, None, None, ())


def frame_moment(dataset: Dataset, frame: int) -> FrameMoment:
    """Of one frame of a file with functional groups. Source: PS3.3 C.7.6.16.2.2, C.8.13.5."""
    content = frame_macro(dataset, frame, "FrameContentSequence")
    position = number(content, "TemporalPositionIndex")
    if position is None:
        temporal = frame_macro(dataset, frame, "TemporalPositionSequence")
        position = number(temporal, "TemporalPositionTimeOffset")
    types = [frame_macro(dataset, frame, f"{kind}FrameTypeSequence") for kind in ("MRImage", "CTImage", "PET")]
    frame_type = next((found for item in types if (found := texts(item, "FrameType"))), ())
    components = (text(item, "ComplexImageComponent") for item in types)
    cardiac = frame_macro(dataset, frame, "CardiacSynchronizationSequence")
    diffusion = frame_macro(dataset, frame, "MRDiffusionSequence")
    timing = frame_macro(dataset, frame, "MRTimingAndRelatedParametersSequence")
    directions = frame_macro(diffusion, 0, "DiffusionGradientDirectionSequence")
    return FrameMoment(
        number(content, "FrameAcquisitionNumber"),
        position,
        number(frame_macro(dataset, frame, "MREchoSequence"), "EffectiveEchoTime"),
        number(diffusion, "DiffusionBValue"),
        tuple(known_code(value, IMAGE_TYPES) or "" for value in frame_type),
        inversion_time_ms=number(frame_macro(dataset, frame, "MRModifierSequence"), "InversionTimes"),
        phase=_first_number(cardiac, "NominalCardiacTriggerDelayTime", "NominalPercentageOfCardiacPhase"),
        flip_angle_deg=number(timing, "FlipAngle"),
        tube_voltage_kv=number(frame_macro(dataset, frame, "CTXRayDetailsSequence"), "KVP"),
        gradient=numbers(directions, "DiffusionGradientOrientation"),
        component=next((code for code in components if code), ""),
        image_type_digest=digest_of(frame_type),
        reconstruction_digest=digest_of(
            texts(frame_macro(dataset, frame, "CTReconstructionSequence"), "ConvolutionKernel")
        ),
        acquired_s=_seconds(text(content, "FrameAcquisitionDateTime")),
    )


def file_moment(dataset: Dataset) -> FrameMoment:
    """Of a file without functional groups; what `InstanceHeader` has by itself is left out."""
    acquired = _seconds(text(dataset, "AcquisitionDateTime"))
    return FrameMoment(
        None,
        None,
        number(dataset, "EchoTime"),
        None,
        (),
        inversion_time_ms=number(dataset, "InversionTime"),
        phase=_first_number(dataset, "TriggerTime", "NominalPercentageOfCardiacPhase"),
        flip_angle_deg=number(dataset, "FlipAngle"),
        tube_voltage_kv=number(dataset, "KVP"),
        frame_time_ms=number(dataset, "FrameReferenceTime"),
        gradient=numbers(dataset, "DiffusionGradientOrientation"),
        component=digest_of(texts(dataset, "ComplexImageComponent")),
        image_type_digest=digest_of(texts(dataset, "ImageType")),
        reconstruction_digest=digest_of(texts(dataset, "ConvolutionKernel")),
        acquired_s=_seconds(text(dataset, "AcquisitionTime")) if acquired is None else acquired,
        content_s=_seconds(text(dataset, "ContentTime")),
    )


def _first_number(dataset: Dataset, *keywords: str) -> float | None:
    return next((found for keyword in keywords if (found := number(dataset, keyword)) is not None), None)


def digest_of(values: tuple[str, ...]) -> str:
    """Free text in a form that can only be compared; "" for none."""
    return hashlib.sha256("\\".join(values).upper().encode()).hexdigest()[:16] if any(values) else ""


def _seconds(value: str) -> float | None:
    """A DICOM date and time, or a time, in seconds; the offset from UTC, which a series shares, is left out."""
    found = re.match(r"(?:(\d{4})(\d\d)(\d\d))?(\d\d)(\d\d)(\d\d(?:\.\d{1,6})?)(?:[+-]\d{4})?$", value.replace(":", ""))
    if found is None:
        return None
    year, month, day, hours, minutes, seconds = (float(part or 0) for part in found.groups())
    return (((year * 12 + month) * 31 + day) * 24 + hours) * 3600 + minutes * 60 + seconds
