"""Bytes of a DICOM file to the few attributes that are needed, without ever parsing a patient tag.

Whatever goes wrong inside pydicom or a codec becomes an `ImageError` that quotes no value of the file.
"""

from __future__ import annotations

import logging
import math
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from ..frame import ImageError

if TYPE_CHECKING:
    from pydicom import Dataset

MAX_INFLATED_BYTES = 2**30
"""Largest pixel data of a deflated file that is unfolded."""

SILENT = logging.CRITICAL + 1
"""The level of a logger that says nothing. Changing a level takes as long as reading ten attributes: a worker process
sets pydicom's once."""

_DAMAGED = "damaged or truncated DICOM header; export or copy the file again"
_FIRST_GROUPS = (b"\x02\x00", b"\x08\x00", b"\x00\x08")  # of a file without a preamble, the last big endian
_GUESS_BYTES = 2**16
_MAX_ELEMENTS = 100_000
_MAX_META_ELEMENTS = 1000
_DEFLATED, _EXPLICIT = b"1.2.840.10008.1.2.1.99", b"1.2.840.10008.1.2.1"
_HEADER_BYTES = 2**22  # of a deflated file, enough for everything but pixels

# fmt: off
_IMAGE_PIXEL_KEYWORDS = (
    "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns",
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "ModalityLUTSequence", "RescaleSlope",
    "RescaleIntercept", "RescaleType", "VOILUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction",
    "PresentationLUTShape", "PixelPaddingValue",
    "PixelPaddingRangeLimit", "FloatPixelPaddingValue", "FloatPixelPaddingRangeLimit", "DoubleFloatPixelPaddingValue",
    "DoubleFloatPixelPaddingRangeLimit", "RedPaletteColorLookupTableDescriptor",
    "GreenPaletteColorLookupTableDescriptor", "BluePaletteColorLookupTableDescriptor",
    "RedPaletteColorLookupTableData", "GreenPaletteColorLookupTableData", "BluePaletteColorLookupTableData",
    "SegmentedRedPaletteColorLookupTableData", "SegmentedGreenPaletteColorLookupTableData",
    "SegmentedBluePaletteColorLookupTableData", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
    "ExtendedOffsetTable", "ExtendedOffsetTableLengths", "PixelData", "FloatPixelData", "DoubleFloatPixelData",
)
_TECHNICAL_KEYWORDS = (
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "ImageType", "Modality",
    "BodyPartExamined", "ViewPosition", "ImageLaterality", "Laterality", "AcquisitionNumber", "InstanceNumber",
    "PixelSpacing", "ImagerPixelSpacing", "SliceThickness", "ImagePositionPatient", "ImageOrientationPatient",
    "GantryDetectorTilt", "EchoNumbers", "TemporalPositionIdentifier", "DiffusionBValue", "EchoTime", "InversionTime",
    "TriggerTime", "NominalPercentageOfCardiacPhase", "FlipAngle", "KVP", "FrameReferenceTime", "ConvolutionKernel",
    "DiffusionGradientOrientation", "ComplexImageComponent", "AcquisitionDateTime", "AcquisitionTime", "ContentTime",
)
# fmt: on

_TEXTS = frozenset(["AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "SH", "ST", "TM", "UC", "UI", "UR", "UT"])
"""Value representations that are spelled out."""

_WORDS = {"US": "H", "SS": "h"}

_T = TypeVar("_T")
_END = object()


def parse(data: bytes, file: str, *, stop_before_pixels: bool = False) -> Dataset:
    """Parse the technical attributes of a file.

    Args:
        data: the whole file.
        file: name for messages.
        stop_before_pixels: leave the pixel data out.

    Returns:
        The data set; only the attributes listed in this module are in it, apart from items of sequences.

    Raises:
        ImageError: no DICOM, a damaged header, or a deflated file that unfolds to more than its tags call for.
    """
    meta = _file_meta(data)
    if meta is None:
        raise ImageError(file, _DAMAGED)
    with quiet():
        try:
            if not meta.deflated:
                return _read(data, stop_before_pixels=stop_before_pixels)
            return _read_deflated(data, meta.end, file, stop_before_pixels=stop_before_pixels)
        except (ImageError, MemoryError):
            raise
        except Exception:  # pydicom raises many types, some quoting values
            raise ImageError(file, _DAMAGED) from None


def parses(data: bytes) -> bool:
    """Whether bytes without a preamble (old files lack it) look like DICOM and hold a class or a picture."""
    meta = _file_meta(data)
    if meta is None or data[:2] not in _FIRST_GROUPS:
        return False
    if meta.deflated:
        return True
    with quiet():
        try:
            dataset = _read(data[:_GUESS_BYTES], stop_before_pixels=True)
        except MemoryError:
            raise
        except Exception:  # pydicom raises many types on foreign bytes
            return False
    return "SOPClassUID" in dataset or ("Rows" in dataset and "Columns" in dataset)


def _read(data: bytes, *, stop_before_pixels: bool) -> Dataset:
    """As dcmread, without its patience: it would take minutes over a file of millions of empty elements."""
    from pydicom.filereader import read_partial

    num_elements = 0

    def stop_when(tag: int, _representation: str | None, _length: int) -> bool:
        nonlocal num_elements
        num_elements += 1
        if num_elements > _MAX_ELEMENTS:
            raise ValueError("too many elements")
        # group 0000 is no part of a file but what zeros behind its end look like
        return tag >> 16 == 0 or (stop_before_pixels and tag >> 16 >= 0x7FE0)

    return read_partial(BytesIO(data), stop_when, force=True, specific_tags=list(_technical_tags()))


@cache
def _technical_tags() -> tuple[int, ...]:
    from pydicom.tag import Tag

    return tuple(Tag(keyword) for keyword in (*_IMAGE_PIXEL_KEYWORDS, *_TECHNICAL_KEYWORDS))


# Errors


@contextmanager
def quiet() -> Iterator[None]:
    """Keep pydicom's warnings and log records, which quote values, from going anywhere."""
    logger = logging.getLogger("pydicom")
    level = logger.level
    if level <= logging.CRITICAL:
        logger.setLevel(SILENT)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if level <= logging.CRITICAL:
            logger.setLevel(level)


@contextmanager
def typed_errors(file: str) -> Iterator[None]:
    """Turn what pydicom, numpy or a codec raises on a malformed file into an `ImageError`."""
    try:
        with quiet():
            yield
    except (ImageError, MemoryError):  # whoever set the memory limit knows what to say
        raise
    except DamagedTag as error:
        raise ImageError(file, f"{error}; export the image again") from None
    except Exception:  # a malformed tag: KeyError, ValueError, TypeError, ... with its value in the message
        raise ImageError(file, "damaged or missing technical tags (group 0028); export the image again") from None


def typed_steps(steps: Iterator[_T], file: str) -> Iterator[_T]:
    """Each step under `typed_errors`, which must not stay in force while the consumer has its turn."""
    while True:
        with typed_errors(file):
            item: Any = next(steps, _END)
        if item is _END:
            return
        yield item


# File meta information and deflated files


class _FileMeta(NamedTuple):
    end: int
    """Where the data set begins."""
    deflated: bool


def _file_meta(data: bytes) -> _FileMeta | None:
    """Walk through group 0002; None when what is there can be no DICOM file. Source: PS3.10 7.1."""
    position, deflated = 132 if data[128:132] == b"DICM" else 0, False
    for _ in range(_MAX_META_ELEMENTS):
        if data[position : position + 2] != b"\x02\x00":
            is_command = data[position : position + 2] == b"\0\0" and not deflated
            return None if is_command else _FileMeta(position, deflated)
        element, representation = data[position + 2 : position + 4], data[position + 4 : position + 6]
        is_long = representation in (b"OB", b"OW", b"SQ", b"UN", b"UT", b"UC", b"UR")
        header, digits = (12, data[position + 8 : position + 12]) if is_long else (8, data[position + 6 : position + 8])
        length = int.from_bytes(digits, "little")
        value = data[position + header : position + header + length]
        deflated |= element == b"\x10\x00" and value.strip(b"\0 ") == _DEFLATED
        position += header + length
    return None


def _read_deflated(data: bytes, start: int, file: str, *, stop_before_pixels: bool) -> Dataset:
    """Inflate only as far as the tags call for, since pydicom would inflate a bomb whole. Source: PS3.5 A.5."""
    # of the same length, so that no other length in the meta information changes
    meta = data[:start].replace(_DEFLATED, _EXPLICIT.ljust(len(_DEFLATED), b"\0"))
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = inflater.decompress(data[start:], _HEADER_BYTES)
    dataset = _read(meta + inflated, stop_before_pixels=True)
    if not stop_before_pixels:
        num_bytes = _claimed_bytes(dataset)
        if num_bytes > MAX_INFLATED_BYTES:
            claim = f"a deflated file of {num_bytes} bytes of pixel data, more than the limit of {MAX_INFLATED_BYTES}"
            raise ImageError(file, f"{claim}; save it as Explicit VR Little Endian")
        inflated += inflater.decompress(inflater.unconsumed_tail, 2 * num_bytes + _HEADER_BYTES)
        if inflater.unconsumed_tail and not inflater.eof:
            claim = f"more than {len(inflated)} bytes where the tags call for {num_bytes}"
            raise ImageError(file, f"a deflated file that unfolds to {claim}; save it as Explicit VR Little Endian")
        dataset = _read(meta + inflated, stop_before_pixels=False)
    dataset.file_meta.TransferSyntaxUID = _DEFLATED.decode()
    return dataset


def _claimed_bytes(dataset: Dataset) -> int:
    factors = [number(dataset, keyword) for keyword in ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated")]
    num_bits = math.prod(1 if factor is None else factor for factor in factors)
    return int(min(num_bits * max(number(dataset, "NumberOfFrames") or 1, 1), 2.0**63)) // 8


# Values


class DamagedTag(ValueError):
    """An attribute that is there and cannot be read, named by its tag; its value is never quoted."""

    def __init__(self, keyword: str, what: str = "is no number") -> None:
        super().__init__(f"{tag_name(keyword)} {what}")


def tag_name(keyword: str) -> str:
    """Such as "Rescale Slope (0028,1053)"."""
    from pydicom.datadict import dictionary_description

    tag, _ = _dictionary_entry(keyword)
    return f"{dictionary_description(tag)} ({tag.group:04X},{tag.element:04X})"


def is_given(dataset: Dataset, keyword: str) -> bool:
    """Whether an attribute is there and not empty."""
    raw = dataset.get_item(_dictionary_entry(keyword)[0])
    return raw is not None and raw.value is not None and bool(str(raw.value).strip(" \0") if raw.value else "")


def numbers(dataset: Dataset, keyword: str) -> tuple[float, ...]:
    """The finite numbers an attribute holds; () when it is absent or any of them is none."""
    try:
        parts = _spelled(dataset, keyword)
        if parts is None:
            value = dataset.get(keyword)
            parts = value.split("\\") if isinstance(value, str) else _listed(value, float | int)
        found = tuple(_number(part) for part in parts)
    except (ArithmeticError, LookupError, TypeError, ValueError, NotImplementedError):
        return ()
    return found if all(math.isfinite(number) for number in found) else ()


def _number(part: Any) -> float:
    """A decimal comma, which software in some languages writes, can mean nothing else."""
    try:
        return float(part)
    except ValueError:
        if isinstance(part, str) and part.count(",") == 1 and "." not in part:
            return float(part.replace(",", "."))
        raise


def number(dataset: Dataset, keyword: str) -> float | None:
    """The first finite number an attribute holds, or None."""
    return next(iter(numbers(dataset, keyword)), None)


def checked_number(dataset: Dataset, keyword: str) -> float | None:
    """The first number of an attribute, or None without it.

    Raises:
        DamagedTag: it is there and is no number.
    """
    found = number(dataset, keyword)
    if found is None and is_given(dataset, keyword):
        raise DamagedTag(keyword)
    return found


def text(dataset: Dataset, keyword: str) -> str:
    """The first text an attribute holds, without padding; "" when it is absent or damaged. Never for messages."""
    return next(iter(texts(dataset, keyword)), "")


def texts(dataset: Dataset, keyword: str) -> tuple[str, ...]:
    """All texts an attribute holds; () when it is absent or damaged. Never for messages."""
    try:
        parts = _spelled(dataset, keyword)
        if parts is None:
            parts = _listed(dataset.get(keyword), str | bytes)
        return tuple(str(part).strip().strip("\0") for part in parts)
    except (LookupError, TypeError, ValueError, NotImplementedError):
        return ()


def _listed(value: Any, single: Any) -> list[Any]:
    return [] if value is None else [value] if isinstance(value, single) else list(value)


def _spelled(dataset: Dataset, keyword: str) -> Sequence[str | int] | None:
    """The values of an attribute as the file spells them; None where pydicom has to read them.

    A header has some forty attributes, and pydicom's objects for them take longer than all else together. What the
    file spells is read whatever text type it claims: some write Pixel Spacing as unlimited text.
    """
    from pydicom.dataelem import RawDataElement

    tag, registered = _dictionary_entry(keyword)
    raw = dataset.get_item(tag)
    if raw is None:
        return []
    if not isinstance(raw, RawDataElement) or not isinstance(raw.value, bytes):
        return None
    representation = raw.VR or registered
    if representation == "UN" and registered in _TEXTS:
        representation = registered
    if representation in _WORDS:
        words = f"{'<' if raw.is_little_endian else '>'}{len(raw.value) // 2}{_WORDS[representation]}"
        return None if len(raw.value) % 2 else struct.unpack(words, raw.value)
    if representation not in _TEXTS or not raw.value.isascii():
        return None
    spelled = raw.value.decode("ascii").strip(" \0\r\n\t")
    return spelled.split("\\") if spelled else []


@cache
def _dictionary_entry(keyword: str) -> tuple[Any, str]:
    from pydicom.datadict import dictionary_VR, tag_for_keyword
    from pydicom.tag import BaseTag

    tag = BaseTag(tag_for_keyword(keyword) or 0)
    return tag, dictionary_VR(tag)


def frame_macro(dataset: Dataset, frame: int, keyword: str) -> Dataset:
    """Where a frame keeps a macro's attributes: its own functional group, the shared one, or the data set.

    Source: PS3.3 C.7.6.16.
    """
    per_frame = _items(dataset, "PerFrameFunctionalGroupsSequence")
    shared = _items(dataset, "SharedFunctionalGroupsSequence")
    for groups in [*per_frame[frame : frame + 1], *shared[:1]]:
        if items := _items(groups, keyword):
            return items[0]
    return dataset


def _items(dataset: Dataset, keyword: str) -> Sequence[Dataset]:
    """Those of a sequence; () where it is absent or empty."""
    tag, _ = _dictionary_entry(keyword)
    return (dataset[tag].value or ()) if tag in dataset else ()
