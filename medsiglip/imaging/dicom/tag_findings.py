"""What of a file's tags a user should know before trusting its greys: contradictions, and how they were read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..frame import Finding
from .lut import LookupTable, declared_bits, modality_transform, voi_transforms
from .parse import frame_macro, is_given, number, numbers, tag_name, text, texts

if TYPE_CHECKING:
    from pydicom import Dataset

_SHAPES = {"IDENTITY": False, "INVERSE": True}  # Presentation LUT Shape (2050,0020): whether it inverts
_UNUSABLE = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, NotImplementedError)


def is_inverted(dataset: Dataset) -> bool:
    """Whether small values are shown bright: as Presentation LUT Shape has it, else of MONOCHROME1.

    Source: PS3.3 C.11.6 and C.8.11.3.1.2; where the two contradict each other, DCMTK reads the shape, too.
    """
    inverted = text(dataset, "PhotometricInterpretation").upper() == "MONOCHROME1"
    return _SHAPES.get(text(dataset, "PresentationLUTShape").upper(), inverted)


def tag_findings(dataset: Dataset) -> tuple[Finding, ...]:
    """Findings of a grey instance; none of colour."""
    photometric = text(dataset, "PhotometricInterpretation").upper()
    if photometric not in ("MONOCHROME1", "MONOCHROME2"):
        return ()
    return (
        *_rescale_findings(dataset),
        *_shape_findings(dataset, photometric),
        *_voi_findings(dataset),
        *_mosaic(dataset),
    )


def _rescale_findings(dataset: Dataset) -> list[Finding]:
    holder = frame_macro(dataset, 0, "PixelValueTransformationSequence")
    if number(holder, "RescaleSlope") != 0:
        return []
    return [Finding("slope-0", f"{tag_name('RescaleSlope')} is 0, which has no meaning; 1 is taken")]


def _shape_findings(dataset: Dataset, photometric: str) -> list[Finding]:
    shape = text(dataset, "PresentationLUTShape").upper()
    if shape not in _SHAPES or _SHAPES[shape] == (photometric == "MONOCHROME1"):
        return []
    text_ = f"Presentation LUT Shape {shape} contradicts {photometric}; the shape is followed"
    return [Finding("presentation-lut-shape", text_)]


def _voi_findings(dataset: Dataset) -> list[Finding]:
    found: list[Finding] = []
    holder = frame_macro(dataset, 0, "FrameVOILUTSequence")
    for keyword in ("WindowCenter", "WindowWidth"):
        if is_given(holder, keyword) and not numbers(holder, keyword):
            found.append(Finding("damaged-window", f"{tag_name(keyword)} is no number; the window is not used"))
    if "VOILUTSequence" not in dataset:
        return found
    try:
        tables = [
            voi for voi in voi_transforms(dataset, 0, modality_transform(dataset, 0)) if isinstance(voi, LookupTable)
        ]
        for table, declared in zip(tables, declared_bits(dataset), strict=False):
            if table.top != 2**declared - 1:
                bits = table.top.bit_length()
                text_ = f"a VOI LUT's descriptor says {declared} bits where its entries have {bits}; {bits} are taken"
                found.append(Finding("voi-lut-bits", text_))
    except _UNUSABLE:  # said when it is used
        pass
    return found


def _mosaic(dataset: Dataset) -> list[Finding]:
    if "MOSAIC" not in (value.upper() for value in texts(dataset, "ImageType")):
        return []
    text_ = (
        "a Siemens mosaic: many slices side by side in one picture, which is shown as it is and is part of no volume"
    )
    return [Finding("mosaic", text_)]
