"""DICOM files that lie: sizes, bits, colours, tables, frames, lengths, fragments, and names in codes."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from copy import deepcopy

import numpy as np

from tests.medsiglip.imaging import fuzz_dicom_originals as made
from tests.medsiglip.imaging.fuzz_codestreams import lie_in_codestream
from tests.medsiglip.imaging.fuzz_dicom import (
    PIXEL_DATA,
    UNDEFINED,
    Parts,
    assemble,
    element,
    encapsulated,
    originals,
    put,
    put_text,
    put_words,
)
from tests.medsiglip.imaging.fuzz_numbers import (
    DECIMAL_TEXTS,
    INTEGER_TEXTS,
    UNSIGNED_16,
    UNSIGNED_32,
    UNSIGNED_64,
    near,
)
from tests.personal_data import FUZZ_IDENTITY

_NAME = FUZZ_IDENTITY["PatientName"]
IDENTITY_TEXTS = (_NAME, _NAME.replace("^", " "), FUZZ_IDENTITY["PatientID"])

# fmt: off
_PHOTOMETRICS = (
    "MONOCHROME1", "MONOCHROME2", "RGB", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_420", "YBR_ICT", "YBR_RCT", "ARGB",
    "CMYK", "HSV", "XYB", "PALETTE COLOR", "PALETTE COLOR", "", "RGB\\RGB",
)
_VALUE_REPRESENTATIONS = (
    "AT", "CS", "DS", "FD", "FL", "IS", "OB", "OW", "PN", "SQ", "SS", "UI", "UL", "UN", "US", "ZZ", "\0\0",
)
# fmt: on


def lie(rng: random.Random, format: str) -> tuple[str, bytes]:
    parts = deepcopy(rng.choice(originals(format)))
    kinds = [*_LIES, *_SPECIAL_LIES.get(format, []) * 4]
    if parts.fragments:
        kinds += [_fragment_lie] * 4 + [_codestream_lie] * 6
    done = [rng.choice(kinds)(rng, parts) for _ in range(rng.choice((1, 1, 2, 3)))]
    return ", ".join(done), assemble(parts)


def _size_lie(rng: random.Random, parts: Parts) -> str:
    keyword = rng.choice(list(parts.numbers))
    value = rng.choice((rng.choice(UNSIGNED_16), near(rng, parts.numbers[keyword], 65535)))
    put_words(parts, keyword, "US", value)
    return f"{keyword}={value}"


def _bits_lie(rng: random.Random, parts: Parts) -> str:
    """Bits that agree with each other but not with the data."""
    allocated = rng.choice((1, 8, 16, 24, 32, 64))
    stored = rng.randint(1, allocated)
    for keyword, value in (("BitsAllocated", allocated), ("BitsStored", stored), ("HighBit", stored - 1)):
        put_words(parts, keyword, "US", value)
    return f"bits {allocated}/{stored}"


def _layout_lie(rng: random.Random, parts: Parts) -> str:
    keyword = rng.choice(("PixelRepresentation", "PlanarConfiguration"))
    value = rng.choice((0, 1, 1, 2, 255, 65535))
    put_words(parts, keyword, "US", value)
    return f"{keyword}={value}"


def _photometric_lie(rng: random.Random, parts: Parts) -> str:
    text = rng.choice((*_PHOTOMETRICS, *IDENTITY_TEXTS))
    put_text(parts, "PhotometricInterpretation", "CS", text)
    samples = rng.choice((None, 1, 3, 4))
    if samples is not None:
        put_words(parts, "SamplesPerPixel", "US", samples)
    return f"photometric {_safe(text)}, samples {samples}"


def _frames_lie(rng: random.Random, parts: Parts) -> str:
    text = rng.choice((*INTEGER_TEXTS, *IDENTITY_TEXTS))
    put_text(parts, "NumberOfFrames", "IS", text)
    return f"NumberOfFrames={_safe(text)}"


def _decimal_lie(rng: random.Random, parts: Parts) -> str:
    done = []
    pairs = (("WindowCenter", "WindowWidth"), ("RescaleSlope", "RescaleIntercept"))
    spacing = (("PixelSpacing",), ("ImagePositionPatient",), ("ImageOrientationPatient",), ("SliceThickness",))
    for keyword in rng.choice((*pairs, *pairs, *spacing)):
        values = [rng.choice((*DECIMAL_TEXTS, *IDENTITY_TEXTS)) for _ in range(rng.choice((1, 1, 2, 3, 6, 500)))]
        put_text(parts, keyword, "DS", "\\".join(values))
        done.append(f"{keyword}={_safe(values[0])} x{len(values)}")
    if rng.random() < 0.3:
        function = rng.choice(("LINEAR", "LINEAR_EXACT", "SIGMOID", "", *IDENTITY_TEXTS))
        put_text(parts, "VOILUTFunction", "CS", function)
    return ", ".join(done)


def _padding_lie(rng: random.Random, parts: Parts) -> str:
    vr = rng.choice(("US", "SS", "OB", "LO"))
    for keyword in rng.choice((("PixelPaddingValue",), ("PixelPaddingValue", "PixelPaddingRangeLimit"))):
        put_words(parts, keyword, vr, *rng.choices(UNSIGNED_16, k=rng.choice((0, 1, 1, 2))))
    return f"padding {vr}"


def _table_lie(rng: random.Random, parts: Parts) -> str:
    """A modality or VOI LUT whose descriptor and data disagree."""
    sequence = rng.choice(("ModalityLUTSequence", "VOILUTSequence"))
    tag_bytes, done = _lying_table(rng, parts, "LUTDescriptor", "LUTData")
    item = struct.pack(parts.order + "HHI", 0xFFFE, 0xE000, len(tag_bytes)) + tag_bytes
    put(parts, sequence, "SQ", item * rng.choice((1, 1, 1, 3)) if rng.random() < 0.9 else b"")
    return f"{sequence} {done}"


def _palette_lie(rng: random.Random, parts: Parts) -> str:
    colours = rng.choice((("Red",), ("Green",), ("Blue",), ("Red", "Green", "Blue")))
    done = ""
    for colour in colours:
        keyword = f"{colour}PaletteColorLookupTable"
        encoded, done = _lying_table(rng, parts, f"{keyword}Descriptor", f"{keyword}Data")
        parts.elements[made.tag_of(f"{keyword}Descriptor")] = encoded
        parts.elements.pop(made.tag_of(f"{keyword}Data"), None)
    if rng.random() < 0.3:
        colour = rng.choice(("Red", "Green", "Blue"))
        parts.elements.pop(made.tag_of(f"{colour}PaletteColorLookupTableData"), None)
        segments = struct.pack(parts.order + "9H", *rng.choices((0, 1, 2, 3, 255, 65535), k=9))
        put(parts, f"Segmented{colour}PaletteColorLookupTableData", "OW", segments * rng.choice((1, 50)))
    return f"{colours} {done}"


def _lying_table(rng: random.Random, parts: Parts, descriptor: str, data: str) -> tuple[bytes, str]:
    """Both elements of a lookup table, one after the other."""
    entries = rng.choice((0, 1, 2, 255, 256, 257, 4096, 65535))
    first = rng.choice((0, 1, 255, 32767, 32768, 65535))
    bits = rng.choice((0, 1, 7, 8, 9, 10, 12, 15, 16, 16, 17, 32, 255, 65535))
    numbers = [entries, first, bits, *[0] * 5][: rng.choice((3, 3, 3, 3, 0, 1, 2, 4))]
    true_length = 2 * (entries or 65536)
    length = rng.choice((true_length, true_length, 0, 1, 2, true_length - 1, true_length // 2, true_length + 2))
    vr = rng.choice(("OW", "OW", "US", "SS", "UN", "LO"))
    values = (np.arange(length) % 251).astype(np.uint8).tobytes()
    described = struct.pack(f"{parts.order}{len(numbers)}H", *numbers)
    head = element(parts, made.tag_of(descriptor), rng.choice(("US", "SS")), described)
    done = f"table {entries}/{first}/{bits} with {length} bytes of {vr}"
    return head + element(parts, made.tag_of(data), vr, values), done


def _syntax_lie(rng: random.Random, parts: Parts) -> str:
    text = rng.choice((*made.TRANSFER_SYNTAXES, "", "1.2.3", "not a uid", "1.2.840.10008.1.3.10", *IDENTITY_TEXTS))
    parts.meta[0x00020010] = _meta_text(0x00020010, text)
    return f"transfer syntax {_safe(text)}"


def _vr_lie(rng: random.Random, parts: Parts) -> str:
    """An element of group 0028 or pixel data under a VR that is not its own."""
    tag = rng.choice([tag for tag in parts.elements if tag >> 16 in (0x0028, 0x7FE0)])
    vr = rng.choice(_VALUE_REPRESENTATIONS)
    value = rng.choice((b"", b"\0", b"\1\0", b"\xff" * 8, rng.randbytes(16), FUZZ_IDENTITY["PatientName"].encode()))
    parts.elements[tag] = element(parts, tag, vr, value)
    return f"{tag:08x} as {vr!r}"


def _length_lie(rng: random.Random, parts: Parts) -> str:
    tag = rng.choice(list(parts.elements))
    length = rng.choice((*UNSIGNED_32, UNDEFINED, UNDEFINED))
    vr = rng.choice(("OB", "OW", "SQ", "UN", "UT", "US", "LO"))
    parts.elements[tag] = element(parts, tag, vr, rng.randbytes(rng.choice((0, 8, 64))), length)
    return f"{tag:08x} {vr} of length {length}"


def _missing_lie(rng: random.Random, parts: Parts) -> str:
    tags = [tag for tag in parts.elements if tag >> 16 in (0x0028, 0x7FE0)]
    gone = rng.sample(tags, k=min(len(tags), rng.choice((1, 1, 2, 5))))
    for tag in gone:
        del parts.elements[tag]
    return "without " + " ".join(f"{tag:08x}" for tag in gone)


def _nesting_lie(rng: random.Random, parts: Parts) -> str:
    """Sequences in sequences, each of undefined or of true length."""
    depth, tag = rng.choice((10, 300, 1000)), rng.choice((0x00283000, 0x00283010, 0x52009229, 0x00081115, 0x00091001))
    undefined, value = rng.random() < 0.5, b""
    closed = rng.random() < 0.5
    for _ in range(depth):
        length = UNDEFINED if undefined else len(value)
        end = struct.pack(parts.order + "HHI", 0xFFFE, 0xE00D, 0) if undefined and closed else b""
        item = struct.pack(parts.order + "HHI", 0xFFFE, 0xE000, length) + value + end
        end = struct.pack(parts.order + "HHI", 0xFFFE, 0xE0DD, 0) if undefined and closed else b""
        value = element(parts, tag, "SQ", item, UNDEFINED if undefined else None) + end
    parts.elements[tag] = value
    return f"{tag:08x} nested {depth} deep, {'un' * undefined}defined, {'un' * (not closed)}closed"


def _meta_lie(rng: random.Random, parts: Parts) -> str:
    kind = rng.choice(("no preamble", "no meta", "other magic", "group length", "tail"))
    if kind == "no preamble":
        parts.preamble = b""
    elif kind == "no meta":
        parts.preamble, parts.meta = b"", {}
    elif kind == "other magic":
        parts.preamble = rng.choice((b"II*\0", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0")).ljust(128, b"\0") + b"DICM"
    elif kind == "group length":
        parts.preamble += struct.pack("<HH2sHI", 2, 0, b"UL", 4, rng.choice(UNSIGNED_32))
    else:
        parts.tail = element(parts, 0xFFFCFFFC, "OB", rng.randbytes(rng.choice((1, 64))), rng.choice(UNSIGNED_32))
    return kind


def _functional_groups_lie(rng: random.Random, parts: Parts) -> str:
    """Fewer or more groups than frames, empty ones, or ones that hold nonsense."""
    keyword = rng.choice(("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"))
    groups = rng.choice((0, 1, 2, 3, 5, 2000))
    inner = rng.choice(("FrameVOILUTSequence", "PixelValueTransformationSequence", "PlanePositionSequence", None))
    content = b""
    if inner:
        child = rng.choice(("WindowWidth", "WindowCenter", "RescaleSlope", "RescaleIntercept", "ImagePositionPatient"))
        text = rng.choice(DECIMAL_TEXTS).encode()
        value = element(parts, made.tag_of(child), "DS", text + b" " * (len(text) % 2))
        item = struct.pack(parts.order + "HHI", 0xFFFE, 0xE000, len(value)) + value
        content = element(parts, made.tag_of(inner), "SQ", item * rng.choice((0, 1, 2)))
    item = struct.pack(parts.order + "HHI", 0xFFFE, 0xE000, len(content)) + content
    put(parts, keyword, "SQ", item * groups)
    return f"{keyword} of {groups} with {inner}"


def _identity_lie(rng: random.Random, parts: Parts) -> str:
    """The patient's name where a code, a number or a UID belongs."""
    keyword, vr = rng.choice(
        (
            ("Modality", "CS"),
            ("BodyPartExamined", "CS"),
            ("ViewPosition", "CS"),
            ("ImageLaterality", "CS"),
            ("Laterality", "CS"),
            ("ImageType", "CS"),
            ("SOPClassUID", "UI"),
            ("WindowCenterWidthExplanation", "LO"),
            ("RescaleType", "LO"),
            ("PixelSpacing", "DS"),
            ("AcquisitionNumber", "IS"),
            ("InstanceNumber", "IS"),
        )
    )
    put_text(parts, keyword, vr, rng.choice(IDENTITY_TEXTS))
    return f"identity in {keyword}"


def _fragment_lie(rng: random.Random, parts: Parts) -> str:
    if not any(parts.fragments):
        return "no fragments left"
    kind = rng.choice(("offsets", "lengths", "split", "empty", "doubled", "none", "native", "extended"))
    if kind == "offsets":
        parts.offsets = rng.choices(UNSIGNED_32, k=rng.choice((1, 2, 3, 100)))
    elif kind == "split":
        data = b"".join(parts.fragments)
        cuts = sorted(rng.sample(range(len(data)), k=min(len(data), rng.choice((1, 2, 50)))))
        parts.fragments = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    elif kind == "empty":
        parts.fragments.insert(rng.randrange(len(parts.fragments) + 1), b"")
    elif kind == "doubled":
        parts.fragments *= rng.choice((2, 3, 1000))
    elif kind == "none":
        parts.fragments, parts.offsets = [], [0]
    elif kind == "extended":
        for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
            values = rng.choices(UNSIGNED_64, k=rng.choice((1, 2, 3)))
            put(parts, keyword, "OV", struct.pack(f"<{len(values)}Q", *values))
    else:
        _store_raw(rng, parts, kind)
    return f"fragments: {kind}"


def _store_raw(rng: random.Random, parts: Parts, kind: str) -> None:
    data = encapsulated(parts)
    if kind == "native":  # the stream as if it were pixels
        put(parts, "PixelData", "OB", b"".join(parts.fragments))
    else:
        lengths = [place for place in range(12, len(data) - 8) if data[place : place + 4] == b"\xfe\xff\x00\xe0"]
        changed = bytearray(data)
        struct.pack_into("<I", changed, rng.choice(lengths) + 4, rng.choice(UNSIGNED_32))
        parts.elements[PIXEL_DATA] = bytes(changed)
    parts.fragments, parts.offsets = [], []


def _codestream_lie(rng: random.Random, parts: Parts) -> str:
    if not parts.fragments:
        return "no codestream left"
    number = rng.randrange(len(parts.fragments))
    done, parts.fragments[number] = lie_in_codestream(rng, parts.fragments[number])
    parts.fragments[number] += b"\0" * (len(parts.fragments[number]) % 2)
    if rng.random() < 0.5:  # the data set tells the same lie, so that no comparison of the two catches it
        for keyword, value in done.agreeing.items():
            put_words(parts, keyword, "US", value)
    return done.name


def _meta_text(tag: int, text: str) -> bytes:
    value = text.encode() + b"\0" * (len(text.encode()) % 2)
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, b"UI", len(value)) + value


def _safe(text: str) -> str:
    """For names of inputs, which errors may show: never the identity itself."""
    return "(identity)" if text in IDENTITY_TEXTS else ascii(text[:20])


OF_NUMBERS = (_size_lie, _bits_lie, _layout_lie, _decimal_lie, _padding_lie, _missing_lie, _identity_lie)
_SPECIAL_LIES = {"dicom-palette": [_palette_lie], "dicom-multi-frame": [_frames_lie, _functional_groups_lie]}
_LIES: tuple[Callable[[random.Random, Parts], str], ...] = (
    _size_lie,
    _size_lie,
    _size_lie,
    _bits_lie,
    _layout_lie,
    _photometric_lie,
    _photometric_lie,
    _frames_lie,
    _decimal_lie,
    _decimal_lie,
    _padding_lie,
    _table_lie,
    _table_lie,
    _syntax_lie,
    _vr_lie,
    _vr_lie,
    _length_lie,
    _missing_lie,
    _nesting_lie,
    _meta_lie,
    _functional_groups_lie,
    _identity_lie,
)
