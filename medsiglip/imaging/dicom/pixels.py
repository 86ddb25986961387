"""The pixel data of one DICOM instance to stored values, one frame at a time, whatever the transfer syntax.

Sizes are checked before memory is taken, in the tags and again in every compressed frame. H rows, W columns.
Source: DICOM PS3.3 C.7.6.3, PS3.5 8 and A.4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from ..frame import MAX_FRAME_VALUES, Array, Finding, ImageError, check_size
from ..video import dicom_video_reason
from .codestream import coded_size, has_colour_transform
from .parse import text
from .tags import PHOTOMETRIC_INTERPRETATIONS, known_code

if TYPE_CHECKING:
    from pydicom import Dataset

_CONVERT = "export the image uncompressed, as Explicit VR Little Endian"

FrameSource = Callable[[], Iterable[Array]]
"""Gives the frames of a file again at each call."""

_PHOTOMETRIC_INTERPRETATIONS = {  # by Samples per Pixel
    1: ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR"),
    3: ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"),
}
_RLE = "1.2.840.10008.1.2.5"
_JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"
_PLUGINS = {  # transfer syntax UID: what decodes it
    _JPEG_EXTENDED: "pylibjpeg pylibjpeg-libjpeg",
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
_JPEG_2000 = tuple(uid for uid in _PLUGINS if uid.startswith(("1.2.840.10008.1.2.4.9", "1.2.840.10008.1.2.4.20")))


def frame_source(dataset: Dataset, file: str) -> FrameSource:
    """Check the pixel data and make it readable.

    A single frame is decoded once and kept; several are decoded anew at every call, so that they never lie in
    memory together.

    Args:
        dataset: a parsed file; Planar Configuration and Transfer Syntax UID are filled in where they are missing.
        file: name for messages.

    Returns:
        A function that gives the frames: (H, W) grey or palette indices, or (H, W, 3) RGB; integer or float, in
        the machine's byte order.

    Raises:
        ImageError: no pixel data, truncated, too large, or in a form that is not decoded here.
    """
    _check_pixel_data(dataset, file)
    _check_is_no_video(dataset, file)
    _check_picture(dataset, file)
    syntax = _transfer_syntax(dataset, file)
    _check_representation(dataset, syntax, file)
    if not syntax.is_encapsulated:
        _check_native_length(dataset, file)
    if "PlanarConfiguration" not in dataset:
        dataset.PlanarConfiguration = 0
    if num_frames(dataset) > 1:
        return lambda: _stored_frames(dataset, syntax, file)
    held = list(_stored_frames(dataset, syntax, file))
    return lambda: held


def num_frames(dataset: Dataset) -> int:
    """Number of Frames, 1 when it is absent, empty or 0."""
    return max(int(dataset.get("NumberOfFrames", 1) or 1), 1)


# Decoding


def _stored_frames(dataset: Dataset, syntax: Any, file: str) -> Iterator[Array]:
    """Each plugin in turn; one that fails in the middle is relieved by the next at that frame."""
    decoder = _decoder(dataset, syntax, file)
    done, wanted = 0, num_frames(dataset)
    for plugin in _plugins(decoder):
        frames = islice(_decoded_frames(dataset, decoder, plugin, file), done, None)
        while done < wanted:
            try:
                frame = next(frames)
            except (KeyboardInterrupt, SystemExit, MemoryError, ImageError):
                raise
            except BaseException:  # each has its own types, and a panic in the Rust RLE decoder is no Exception
                break
            done += 1
            yield frame
        if done == wanted:
            return
    raise ImageError(file, _undecodable(syntax, decoder))


def _decoded_frames(dataset: Dataset, decoder: Any, plugin: str, file: str) -> Iterator[Array]:
    """What one plugin makes of the pixel data.

    pydicom undoes YBR_FULL and the JPEG 2000 codec undoes YBR_ICT and YBR_RCT.
    """
    cells = "PixelData" in dataset and (decoder.is_native or decoder.UID == _RLE)
    options: dict[str, Any] = {
        "decoding_plugin": plugin,
        "allow_excess_frames": False,
        "correct_unused_bits": not cells,
    }
    if decoder.is_encapsulated:
        frames = _encapsulated_frames(dataset, decoder, options, file)
    else:
        # not iter_array: of a multi-frame YBR_FULL_422 file it expands the first frame only (pydicom 3.0.2)
        numbers = range(num_frames(dataset))
        frames = (decoder.as_array(dataset, index=number, view_only=True, **options)[0] for number in numbers)
    for frame in frames:
        native = frame.astype(_stored_type(dataset) or frame.dtype.newbyteorder("="), copy=False)
        yield _used_bits(native, dataset) if cells else native


def _stored_type(dataset: Dataset) -> str | None:
    """The type the tags call for, which a codec may narrow; None for float pixels."""
    kind = "i" if dataset.get("PixelRepresentation") else "u"
    return f"{kind}{max(int(dataset.BitsAllocated) // 8, 1)}" if "PixelData" in dataset else None


def _encapsulated_frames(dataset: Dataset, decoder: Any, options: dict[str, Any], file: str) -> Iterator[Array]:
    from pydicom.encaps import generate_frames

    coded = generate_frames(
        dataset.PixelData, number_of_frames=num_frames(dataset), extended_offsets=_extended_offsets(dataset)
    )
    if photometric := _coded_photometric(dataset):
        options = {**options, "photometric_interpretation": photometric}
    decoded = decoder.iter_array(dataset, **options)
    for codestream in coded:
        if decoder.UID != _RLE:
            _check_coded_size(codestream, dataset, file)  # before the codec takes memory for what it claims
        yield next(decoded)[0]


def colour_findings(dataset: Dataset) -> tuple[Finding, ...]:
    """That the tags and a JPEG 2000 codestream disagree about its colours; the codestream is followed.

    Source: PS3.5 8.2.4; PS3.3 C.7.6.3.1.2: YBR_RCT and YBR_ICT name the codestream's own transformation.
    """
    transformed, photometric = _coded_transform(dataset), str(dataset.PhotometricInterpretation)
    named = photometric in ("YBR_RCT", "YBR_ICT")
    if transformed is None or transformed == named or photometric == "RGB":
        return ()  # an RGB picture with a transform decodes to RGB all the same
    codestream = f"the JPEG 2000 codestream has {'a' if transformed else 'no'} colour transform"
    taken = "its decoded samples are taken for red, green and blue"
    return (Finding("colour-transform", f"Photometric Interpretation {photometric}, but {codestream}; {taken}"),)


def _coded_photometric(dataset: Dataset) -> str:
    """What the decoded samples are where the tag would have them converted a second time; "" for as the tag says."""
    converted = str(dataset.PhotometricInterpretation).startswith("YBR_FULL")
    return "RGB" if converted and _coded_transform(dataset) else ""


def _coded_transform(dataset: Dataset) -> bool | None:
    """Whether the first codestream of a colour picture has a colour transform; None outside JPEG 2000."""
    from pydicom.encaps import generate_frames

    if int(dataset.get("SamplesPerPixel", 1)) != 3 or dataset.file_meta.get("TransferSyntaxUID", "") not in _JPEG_2000:
        return None
    frames = generate_frames(
        dataset.PixelData, number_of_frames=num_frames(dataset), extended_offsets=_extended_offsets(dataset)
    )
    return has_colour_transform(next(frames))


def _extended_offsets(dataset: Dataset) -> tuple[bytes, bytes] | None:
    if "ExtendedOffsetTable" not in dataset or "ExtendedOffsetTableLengths" not in dataset:
        return None
    return dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths


def _used_bits(values: Array, dataset: Dataset) -> Array:
    """The value in each cell: Bits Stored bits below and with High Bit; the others may hold overlays or rubbish.

    Done here since pydicom takes High Bit to be Bits Stored - 1 and always copies. Source: PS3.5 8.1.1.
    """
    allocated, stored = int(dataset.BitsAllocated), int(dataset.BitsStored)
    high_bit = int(dataset.get("HighBit", stored - 1))
    shift = high_bit + 1 - stored if stored <= high_bit < allocated else 0
    if allocated == 1 or (shift == 0 and _fits(values, stored)):
        return values
    left = allocated - stored - shift
    return np.right_shift(np.left_shift(values, left), left + shift)


def _fits(values: Array, bits: int) -> bool:
    signed = values.dtype.kind == "i"
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    return bits == 8 * values.dtype.itemsize or (int(values.min()) >= low and int(values.max()) <= high)


def _decoder(dataset: Dataset, syntax: Any, file: str) -> Any:
    from pydicom.pixels import get_decoder

    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise ImageError(file, f"transfer syntax {_syntax_name(syntax)} is not supported; {_CONVERT}") from None
    twelve_bits = str(syntax) == _JPEG_EXTENDED and int(dataset.BitsStored) > 8
    if not decoder.is_available or (twelve_bits and "pylibjpeg" not in decoder.available_plugins):
        plugin = _PLUGINS.get(syntax, "pylibjpeg python-gdcm")
        licence = " (the latter under the GPL)" if plugin.endswith("libjpeg") else ""
        needs = f"transfer syntax {_syntax_name(syntax)} needs a plugin; pip install {plugin}{licence}"
        raise ImageError(file, needs)
    return decoder


def _plugins(decoder: Any) -> list[str]:
    """The plugins to try, GDCM only where nothing else decodes: damaged JPEG makes it abort the process.

    pydicom's own RLE decoder, which is Python and slow, comes last.
    """
    available = sorted(decoder.available_plugins, key=lambda plugin: (plugin == "pydicom", plugin == "pillow"))
    return [plugin for plugin in available if plugin != "gdcm"] or available or [""]


def _transfer_syntax(dataset: Dataset, file: str) -> Any:
    """The Transfer Syntax UID; for files without a meta header, what the parser found to fit."""
    from pydicom import uid

    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit, little = dataset.original_encoding
        guess = uid.ImplicitVRLittleEndian if implicit else uid.ExplicitVRLittleEndian
        dataset.file_meta.TransferSyntaxUID = guess if little else uid.ExplicitVRBigEndian
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax not in uid.UID_dictionary:
        raise ImageError(file, f"a transfer syntax that is not in the standard's register is not supported; {_CONVERT}")
    return syntax


# Refusals


def _check_pixel_data(dataset: Dataset, file: str) -> None:
    if any(keyword in dataset for keyword in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        return
    if "Rows" in dataset and "Columns" in dataset:
        raise ImageError(file, "no pixel data although Rows and Columns are there (truncated?); copy the file again")
    if str(dataset.file_meta.get("MediaStorageSOPClassUID", "")) == "1.2.840.10008.1.3.10":
        raise ImageError(file, "a DICOMDIR is an index without pixels; give its folder")
    if not dataset.keys():
        raise ImageError(file, "no pixel data: a DICOM file without content (truncated?); copy the file again")
    if _is_of_images(dataset):
        reason = "truncated inside its header (an image without Rows and Columns)"
        raise ImageError(file, f"no pixel data: {reason}; copy the file again")
    raise ImageError(file, "no pixel data (a structured report?); give an image instance")


def _is_of_images(dataset: Dataset) -> bool:
    """Whether the SOP class, in the data set or before it, is one of images."""
    from pydicom.uid import UID

    classes = text(dataset, "SOPClassUID"), text(dataset.file_meta, "MediaStorageSOPClassUID")
    return any("Image Storage" in UID(uid).name for uid in classes)


def _check_is_no_video(dataset: Dataset, file: str) -> None:
    from pydicom.uid import UID

    name = UID(text(dataset.file_meta, "TransferSyntaxUID")).name
    if name.startswith(("MPEG", "HEVC")):
        raise ImageError(file, dicom_video_reason(name))


def _check_picture(dataset: Dataset, file: str) -> None:
    rows, columns, frames = int(dataset.Rows), int(dataset.Columns), num_frames(dataset)
    samples = int(dataset.get("SamplesPerPixel", 1))
    if not (0 <= rows < 2**16 and 0 <= columns < 2**16 and 0 <= samples < 2**16 and frames < 2**31):
        raise ImageError(file, "rows, columns, samples or frames of a number that cannot be; export the image again")
    if rows == 0 or columns == 0:
        raise ImageError(file, f"a picture of {rows} rows x {columns} columns; export the image again")
    photometric = str(dataset.get("PhotometricInterpretation", ""))
    if photometric not in _PHOTOMETRIC_INTERPRETATIONS.get(samples, ()):
        known = known_code(photometric, PHOTOMETRIC_INTERPRETATIONS)
        named = f"Photometric Interpretation {known or '(missing or unknown)'}"
        reason = f"{named} with {samples} samples a pixel is not read; export the image as MONOCHROME2 or RGB"
        raise ImageError(file, reason)
    what = f"a picture of {rows} rows x {columns} columns x {samples} samples"
    check_size(rows * columns * samples, what, file, MAX_FRAME_VALUES)
    check_size(rows * columns * samples * frames, f"{what} x {frames} frames", file)


def _check_representation(dataset: Dataset, syntax: Any, file: str) -> None:
    """Refuse what pydicom would misread or fail at without a word that helps."""
    if "PixelData" not in dataset:
        return
    allocated, stored = int(dataset.BitsAllocated), int(dataset.BitsStored)
    photometric = str(dataset.PhotometricInterpretation)
    if allocated not in (1, 8, 16, 32) or not 1 <= stored <= allocated:
        what = f"{min(stored, 2**16)} bits stored in {min(allocated, 2**16)} bits allocated are not read"
        raise ImageError(file, f"{what}; export the image with 8 or 16 bits allocated")
    if allocated == 1 and syntax.is_encapsulated:
        raise ImageError(file, "one bit a pixel is not read in compressed form; export the image uncompressed")
    if int(dataset.PixelRepresentation) not in (0, 1):
        raise ImageError(file, "Pixel Representation is neither 0 nor 1; export the image again")
    if photometric.startswith("YBR") and stored != 8:
        raise ImageError(file, f"{photometric} of {stored} bits is not read; export the image as RGB")
    if photometric in ("YBR_ICT", "YBR_RCT") and str(syntax) not in _JPEG_2000:
        raise ImageError(file, f"{photometric} outside JPEG 2000 has no meaning; export the image as RGB")


def _check_native_length(dataset: Dataset, file: str) -> None:
    from pydicom.pixels.utils import get_expected_length

    if "PixelData" not in dataset:
        return
    found, expected = len(dataset.PixelData), get_expected_length(dataset)
    if found < expected:
        raise ImageError(file, f"truncated: {found} of {expected} bytes of pixel data; copy the file again")


def _check_coded_size(codestream: bytes, dataset: Dataset, file: str) -> None:
    """Compare what a codestream claims with the tags; GDCM aborts the process over some that disagree."""
    coded = coded_size(codestream)
    if coded is None:
        return
    rows, columns, samples = int(dataset.Rows), int(dataset.Columns), int(dataset.get("SamplesPerPixel", 1))
    if coded[:3] != (rows, columns, samples):
        claimed = " x ".join(str(number) for number in coded[:3])
        expected = f"the tags say {rows} x {columns} x {samples}"
        raise ImageError(file, f"a compressed frame of {claimed} values where {expected}; export the image again")
    allocated = int(dataset.BitsAllocated)
    if coded.bits > allocated:
        what = f"a compressed frame of {coded.bits} bits where the tags allocate {allocated}"
        raise ImageError(file, f"{what}; export the image again")


def _undecodable(syntax: Any, decoder: Any) -> str:
    """A plugin is advised only where it is not among those that have just failed."""
    advice = "copy or export the file again"
    tried = {"python-gdcm" if plugin == "gdcm" else "pylibjpeg" for plugin in decoder.available_plugins}
    if syntax in _PLUGINS and not tried & set(_PLUGINS[syntax].split()):
        advice += f", or pip install {_PLUGINS[syntax]}"
    what = f"pixel data of transfer syntax {_syntax_name(syntax)}"
    return f"{what} cannot be decoded (damaged or truncated?); {advice}"


def _syntax_name(syntax: Any) -> str:
    return f"{syntax.name} ({syntax})"
