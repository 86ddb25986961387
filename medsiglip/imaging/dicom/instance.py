"""One DICOM instance to RGB uint8, in the standard's order.

Stored values → modality LUT or rescale → VOI LUT or window → inversion of MONOCHROME1 → 0..255 → RGB. Pixel
padding is black at the end. Only technical tags are ever parsed, so no patient tag can reach a picture, a
message or a log. Source: DICOM PS3.3 C.7.6.3, C.7.6.16, C.11.1, C.11.2; PS3.4 N.2.
F frames, H rows, W columns.
"""

from __future__ import annotations

import re
import warnings
from functools import cache
from io import BytesIO
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .lut import (
    LookupTable,
    Rescale,
    apply_voi,
    look_up,
    lookup_table,
    modality_transform,
    modality_values,
    voi_transform,
)
from .picture import (
    FULL_RANGE,
    STORED,
    VOI,
    Array,
    DecodedFrame,
    ImageError,
    TechnicalTags,
    check_size,
    round_to_uint8,
    stretch_to_uint8,
)

if TYPE_CHECKING:
    from pydicom import Dataset

_KEYWORDS_BESIDE_GROUP_0028 = (
    "SOPClassUID",
    "Modality",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
    "PixelData",
    "FloatPixelData",
    "DoubleFloatPixelData",
)

_PHOTOMETRIC_INTERPRETATIONS = {  # by Samples per Pixel
    1: ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR"),
    3: ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"),
}

_PLUGINS = {  # transfer syntax UID: what decodes it
    "1.2.840.10008.1.2.4.51": "pylibjpeg-libjpeg (GPL licence)",
    "1.2.840.10008.1.2.4.57": "python-gdcm",
    "1.2.840.10008.1.2.4.70": "python-gdcm",
    "1.2.840.10008.1.2.4.80": "python-gdcm",
    "1.2.840.10008.1.2.4.81": "python-gdcm",
    "1.2.840.10008.1.2.4.90": "pylibjpeg pylibjpeg-openjpeg",
    "1.2.840.10008.1.2.4.91": "pylibjpeg pylibjpeg-openjpeg",
    "1.2.840.10008.1.2.4.201": "pylibjpeg pylibjpeg-openjpeg",
    "1.2.840.10008.1.2.4.202": "pylibjpeg pylibjpeg-openjpeg",
    "1.2.840.10008.1.2.4.203": "pylibjpeg pylibjpeg-openjpeg",
}


def has_dicom_preamble(data: bytes) -> bool:
    """Whether "DICM" follows the 128-byte preamble."""
    return data[128:132] == b"DICM"


def parses_as_dicom(data: bytes) -> bool:
    """Whether bytes without a preamble (old files lack it) parse to a data set with a class or pixels."""
    try:
        dataset = _parse(data)
    except Exception:  # pydicom raises many types on foreign bytes
        return False
    return "SOPClassUID" in dataset or ("Rows" in dataset and "PixelData" in dataset)


def decode_dicom(data: bytes, policy: str, file: str) -> list[DecodedFrame]:
    """Decode the bytes of one DICOM instance.

    Args:
        data: the whole file.
        policy: "voi" for the file's own VOI LUT or first window, "full-range" for its own range.
        file: name for messages.

    Returns:
        The frames; policy is what was used: "stored" for colour and for 8-bit grey without VOI, "full-range"
        where "voi" was asked for and the file has none, or one that would leave nothing but white.

    Raises:
        ImageError: not DICOM, truncated, no pixel data, an unsupported transfer syntax, too large.
    """
    with warnings.catch_warnings():  # pydicom's warnings quote values
        warnings.simplefilter("ignore")
        try:
            dataset = _parse(data)
        except Exception:  # pydicom raises many types, some quoting values
            raise ImageError(file, "damaged or truncated DICOM header; export or copy the file again") from None
        try:
            stored = _stored_values(dataset, file)
            return _decode_frames(dataset, stored, policy)
        except ImageError:
            raise
        except Exception:  # a malformed tag: KeyError, ValueError, TypeError, ... with its value in the message
            reason = "damaged or missing technical tags (group 0028); export the image again"
            raise ImageError(file, reason) from None


def _parse(data: bytes) -> Dataset:
    from pydicom import dcmread

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return dcmread(BytesIO(data), force=True, specific_tags=_technical_tags())


@cache
def _technical_tags() -> list[int]:
    """The tags that cross the boundary: the image pixel group 0028 and what holds or locates pixels."""
    from pydicom.datadict import DicomDictionary, tag_for_keyword

    beside = [tag_for_keyword(keyword) for keyword in _KEYWORDS_BESIDE_GROUP_0028]
    return [tag for tag in [*DicomDictionary, *beside] if tag >> 16 == 0x0028 or tag in beside]


def _decode_frames(dataset: Dataset, stored: Array, policy: str) -> list[DecodedFrame]:
    """(F, H, W) or (F, H, W, 3) stored values to RGB."""
    if stored.ndim == 4:
        frames, used = _colour_frames(stored, int(dataset.BitsStored), policy)
    elif dataset.PhotometricInterpretation == "PALETTE COLOR":
        frames, used = [_apply_palette(dataset, frame) for frame in stored], STORED
    else:
        frames, used = _grey_frames(dataset, stored, policy)
    tags = TechnicalTags(modality=_code(dataset.get("Modality", "")))
    return [DecodedFrame(frame, used, tags) for frame in frames]


def _code(value: object) -> str | None:
    """The value if it can be a DICOM code string, so that free text never leaves."""
    text = str(value).strip()
    return text if re.fullmatch(r"[A-Z0-9_ ]{1,16}", text) else None


# Stored values


def _stored_values(dataset: Dataset, file: str) -> Array:
    """Decode the pixel data.

    Returns:
        (F, H, W) grey or palette indices, or (F, H, W, 3) RGB; integer or float.
    """
    _check_pixel_data(dataset, file)
    _check_picture(dataset, file)
    syntax = _transfer_syntax(dataset)
    if not syntax.is_encapsulated:
        _check_native_length(dataset, file)
    decoder = _decoder(syntax, file)
    for plugin in _plugins(decoder):
        try:
            # as_array undoes YBR_FULL itself, the JPEG 2000 codec undoes YBR_ICT and YBR_RCT
            values, _ = decoder.as_array(dataset, decoding_plugin=plugin)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:  # each has its own types, and a panic in the Rust RLE decoder is no Exception
            continue
        return np.asarray(values if _num_frames(dataset) > 1 else values[None])
    raise ImageError(file, _undecodable(syntax))


def _plugins(decoder: Any) -> list[str]:
    """The plugins to try, GDCM only where nothing else decodes: damaged JPEG makes it abort the process."""
    available = list(decoder.available_plugins)
    return [plugin for plugin in available if plugin != "gdcm"] or available or [""]


def _transfer_syntax(dataset: Dataset) -> Any:
    """The Transfer Syntax UID; for files without a meta header, what the parser found to fit."""
    from pydicom import uid

    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit, little = dataset.original_encoding
        guess = uid.ImplicitVRLittleEndian if implicit else uid.ExplicitVRLittleEndian
        dataset.file_meta.TransferSyntaxUID = guess if little else uid.ExplicitVRBigEndian
    return dataset.file_meta.TransferSyntaxUID


def _check_pixel_data(dataset: Dataset, file: str) -> None:
    if any(keyword in dataset for keyword in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        return
    if "Rows" in dataset and "Columns" in dataset:
        raise ImageError(file, "no pixel data although Rows and Columns are there (truncated?); copy the file again")
    if str(dataset.file_meta.get("MediaStorageSOPClassUID", "")) == "1.2.840.10008.1.3.10":
        raise ImageError(file, "a DICOMDIR is an index without pixels; give its folder")
    if not dataset.keys() and not dataset.file_meta.get("MediaStorageSOPClassUID"):
        raise ImageError(file, "a DICOM file without content (truncated?); copy the file again")
    raise ImageError(file, "no pixel data (a structured report?); give an image instance")


def _num_frames(dataset: Dataset) -> int:
    return max(int(dataset.get("NumberOfFrames", 1) or 1), 1)


def _check_picture(dataset: Dataset, file: str) -> None:
    rows, columns, frames = int(dataset.Rows), int(dataset.Columns), _num_frames(dataset)
    samples = int(dataset.get("SamplesPerPixel", 1))
    if rows == 0 or columns == 0:
        raise ImageError(file, f"a picture of {rows} rows x {columns} columns; export the image again")
    photometric = str(dataset.get("PhotometricInterpretation", ""))
    if photometric not in _PHOTOMETRIC_INTERPRETATIONS.get(samples, ()):
        named = f"Photometric Interpretation {_code(photometric) or '(missing or unknown)'}"
        reason = f"{named} with {samples} samples a pixel is not read; export the image as MONOCHROME2 or RGB"
        raise ImageError(file, reason)
    what = f"a picture of {rows} rows x {columns} columns x {samples} samples x {frames} frames"
    check_size(rows * columns * samples * frames, what, file)


def _check_native_length(dataset: Dataset, file: str) -> None:
    from pydicom.pixels.utils import get_expected_length

    if "PixelData" not in dataset:
        return
    found, expected = len(dataset.PixelData), get_expected_length(dataset)
    if found < expected:
        reason = f"truncated: {found} of {expected} bytes of pixel data; copy the file again"
        raise ImageError(file, reason)


def _decoder(syntax: Any, file: str) -> Any:
    from pydicom.pixels import get_decoder

    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        advice = "convert it to Explicit VR Little Endian, for example with gdcmconv --raw"
        raise ImageError(file, f"transfer syntax {_syntax_name(syntax)} is not supported; {advice}") from None
    if not decoder.is_available:
        plugin = _PLUGINS.get(syntax, "pylibjpeg python-gdcm")
        raise ImageError(file, f"transfer syntax {_syntax_name(syntax)} needs a plugin; pip install {plugin}")
    return decoder


def _undecodable(syntax: Any) -> str:
    advice = "copy or export the file again"
    if syntax in _PLUGINS:
        advice += f", or pip install {_PLUGINS[syntax]}"
    what = f"pixel data of transfer syntax {_syntax_name(syntax)}"
    return f"{what} cannot be decoded (damaged or truncated?); {advice}"


def _syntax_name(syntax: Any) -> str:
    text = str(syntax)
    if not re.fullmatch(r"[0-9.]{1,64}", text):
        return "(not a valid UID)"
    return text if syntax.name == text else f"{syntax.name} ({text})"


# Colour


class _Rendered(NamedTuple):
    frames: list[Array]  # (H, W) or (H, W, 3) uint8
    policy: str


def _colour_frames(stored: Array, bits_stored: int, policy: str) -> _Rendered:
    """Eight bits stay; deeper ones are scaled by Bits Stored, or by the file's own range if asked."""
    if bits_stored == 8 and stored.dtype == np.uint8:
        return _Rendered(list(stored), STORED)
    if policy == FULL_RANGE:
        low, high = float(stored.min()), float(stored.max())
        return _Rendered([stretch_to_uint8(frame, low, high) for frame in stored], FULL_RANGE)
    return _Rendered([stretch_to_uint8(frame, 0, 2.0**bits_stored - 1) for frame in stored], STORED)


def _apply_palette(dataset: Dataset, indices: Array) -> Array:
    """Look palette indices up in the red, green and blue tables.

    Args:
        dataset: holds the Palette Color Lookup Table module.
        indices: (H, W) stored values.

    Returns:
        (H, W, 3) uint8.

    Source: PS3.3 C.7.6.3.1.5 and C.7.6.3.1.6.
    """
    if "RedPaletteColorLookupTableData" in dataset:
        tables = [_palette_table(dataset, colour) for colour in ("Red", "Green", "Blue")]
        colours = np.stack([look_up(table, indices) for table in tables], axis=2)
    else:
        from pydicom.pixels import apply_color_lut

        colours = apply_color_lut(indices, dataset)[:, :, :3]
    # Tables of 16-bit entries that hold only 8-bit values exist; scaling those would leave a black picture.
    bits = int(dataset.RedPaletteColorLookupTableDescriptor[2])
    return stretch_to_uint8(colours, 0, 65535 if bits == 16 and colours.max(initial=0) > 255 else 255)


def _palette_table(dataset: Dataset, colour: str) -> LookupTable:
    descriptor = dataset[f"{colour}PaletteColorLookupTableDescriptor"].value
    data = dataset[f"{colour}PaletteColorLookupTableData"].value
    return lookup_table(list(descriptor), data, dataset.original_encoding[1], signed=bool(dataset.PixelRepresentation))


# Grey


def _grey_frames(dataset: Dataset, stored: Array, policy: str) -> _Rendered:
    """(F, H, W) stored values to (H, W) uint8 frames that share one window."""
    modality = [modality_transform(dataset, frame) for frame in range(len(stored))]
    inverted = dataset.PhotometricInterpretation == "MONOCHROME1"
    padding = _padding_mask(dataset, stored)  # (F, H, W)
    voi = voi_transform(dataset, stored, modality[0]) if policy == VOI else None
    if policy == VOI and voi is None and _is_eight_bit(dataset, stored, modality):
        return _Rendered([_finish(frame, mask, inverted) for frame, mask in zip(stored, padding, strict=True)], STORED)

    low, high = _valid_range(stored, modality, padding)
    if voi is not None:
        frames = [
            _finish(round_to_uint8(apply_voi(voi, values)), mask, inverted)
            for values, mask in zip(modality_values(stored, modality), padding, strict=True)
        ]
        if not _all_white(frames, padding):
            return _Rendered(frames, VOI)
    frames = [
        _finish(stretch_to_uint8(values, low, high), mask | (high <= low) | ~np.isfinite(values), inverted)
        for values, mask in zip(modality_values(stored, modality), padding, strict=True)
    ]
    return _Rendered(frames, FULL_RANGE)


def _finish(grey: Array, padding: Array, inverted: bool) -> Array:
    """Invert MONOCHROME1, which follows the VOI transform, then blacken the padding."""
    return np.where(padding, 0, 255 - grey if inverted else grey).astype(np.uint8)


def _is_eight_bit(dataset: Dataset, stored: Array, modality: list[Rescale | LookupTable]) -> bool:
    as_stored = all(transform == Rescale(1.0, 0.0) for transform in modality if isinstance(transform, Rescale))
    unchanged = as_stored and not any(isinstance(transform, LookupTable) for transform in modality)
    return stored.dtype == np.uint8 and int(dataset.BitsStored) == 8 and unchanged


def _all_white(frames: list[Array], padding: Array) -> bool:
    """Whether a window tag that does not fit the data has left nothing but white."""
    return all(bool((frame[~mask] == 255).all()) for frame, mask in zip(frames, padding, strict=True))


def _padding_mask(dataset: Dataset, stored: Array) -> Array:
    """(F, H, W) bool, true where stored values are padding. Source: PS3.3 C.7.5.1.1.2."""
    padding = dataset.get("PixelPaddingValue")
    if padding is None or not np.issubdtype(stored.dtype, np.integer):
        return np.zeros(stored.shape, bool)
    limit = dataset.get("PixelPaddingRangeLimit", padding)
    # Wrapped to the stored type: -2000 is often written as 63536.
    first, last = sorted(int(np.array(int(value)).astype(stored.dtype)) for value in (padding, limit))
    return np.asarray((stored >= first) & (stored <= last))


def _valid_range(stored: Array, modality: list[Rescale | LookupTable], padding: Array) -> tuple[float, float]:
    """Smallest and largest modality value over all frames, without padding and values that are not finite."""
    low, high = np.inf, -np.inf
    for values, mask in zip(modality_values(stored, modality), padding, strict=True):
        valid = values[~mask & np.isfinite(values)]
        if valid.size:
            low, high = min(low, float(valid.min())), max(high, float(valid.max()))
    return low, high
