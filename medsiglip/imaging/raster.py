"""PNG, JPEG, TIFF, BMP, WebP, GIF (and PPM, JPEG 2000) to RGB uint8.

Eight-bit values stay as they are. Deeper ones (16-bit, 32-bit, float) are stretched from the file's own
smallest to largest value: PIL's own conversion clips them at 255, which turns a 12-bit film 94 % white.
Transparent pixels are laid over black, so the cut-out border of a radiograph is black whatever colour hides
under it. EXIF orientation is applied. A multi-page TIFF gives one frame a page; animations give their first.
"""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .frame import (
    FULL_RANGE,
    STORED,
    Array,
    DecodedFrame,
    ImageError,
    as_rgb,
    check_size,
    round_to_uint8,
    stretch_to_uint8,
)

if TYPE_CHECKING:
    import PIL.Image
    import PIL.ImageFile
    import tifffile

# Only formats a picture may be in: PIL would also start Ghostscript for an EPS file.
_PIL_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "PPM", "JPEG2000")
_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_PNG_COLOUR_MODES_16_BIT = {2: "RGB", 4: "LA", 6: "RGBA"}  # the PNG colour types PIL cuts to eight bits

_MINISWHITE, _MINISBLACK, _RGB = 0, 1, 2  # TIFF PhotometricInterpretation
_REDUCED_OR_MASK = 0b101  # TIFF NewSubfileType: a thumbnail or a transparency mask, not a page
_SIGNED = 2  # TIFF SampleFormat
_MAX_PAGES = 4096
_UNASSOCIATED_ALPHA = 2  # TIFF ExtraSamples: colours not yet multiplied by alpha


class _Deep(NamedTuple):
    """Values of more than eight bits, before the file's range is known."""

    values: Array  # (H, W) or (H, W, 3), any integer or float dtype
    alpha: Array | None  # (H, W) float64 in 0..1
    inverted: bool  # the largest value is black (MINISWHITE)


def is_raster(data: bytes) -> bool:
    """Whether the bytes begin like one of the formats read here."""
    from PIL import UnidentifiedImageError

    if data[:4] in _TIFF_MAGIC:
        return True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _open_pil(data)
    except UnidentifiedImageError:
        return False
    except Exception:  # a plugin knew the first bytes and choked on the rest
        return True
    return True


def decode_raster(data: bytes, file: str) -> list[DecodedFrame]:
    """Decode the bytes of one file that is not DICOM.

    Args:
        data: the whole file.
        file: name for messages.

    Returns:
        The frames; policy "stored" for eight-bit files, "full-range" for deeper ones.

    Raises:
        ImageError: truncated, damaged, too large, or a variant that is not read.
    """
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if data[:4] in _TIFF_MAGIC:
                return _decode_tiff(data, file)
            image = _open_pil(data)
            if data.startswith(_PNG_MAGIC) and data[24] == 16 and data[25] in _PNG_COLOUR_MODES_16_BIT:
                _check_image_size(image, file)
                return _stretch_together([_deep_png(data, _PNG_COLOUR_MODES_16_BIT[data[25]])])
            return [_decode_pil(image, file)]
        except (ImageError, MemoryError):  # the worker process says how much memory was too little
            raise
        except Image.DecompressionBombError as error:
            raise ImageError(file, f"{error}; split it into smaller files or save a smaller copy") from None
        except Exception:  # PIL and tifffile raise many types, with raw bytes in their messages
            reason = "truncated, damaged or an unusual variant; copy the file again or save it as plain PNG"
            raise ImageError(file, reason) from None


def decode_pil_image(image: PIL.Image.Image, file: str) -> DecodedFrame:
    """Decode the current frame of a PIL image; same rules and errors as `decode_raster`."""
    try:
        return _decode_pil(image, file)
    except ImageError:
        raise
    except Exception:
        reason = f"PIL cannot decode this image of mode {image.mode}; save it as plain PNG"
        raise ImageError(file, reason) from None


def _open_pil(data: bytes) -> PIL.ImageFile.ImageFile:
    from PIL import Image

    return Image.open(BytesIO(data), formats=_PIL_FORMATS)


def _decode_pil(image: PIL.Image.Image, file: str) -> DecodedFrame:
    _check_image_size(image, file)
    upright = _upright(image)
    if _is_deep(upright):
        return _stretch_together([_Deep(np.asarray(upright), None, inverted=False)])[0]
    return DecodedFrame(_pixels_of_pil(upright), STORED)


def _check_image_size(image: PIL.Image.Image, file: str) -> None:
    num_samples = len(image.getbands())
    what = f"a picture of {image.height} rows x {image.width} columns x {num_samples} samples"
    check_size(image.height * image.width * num_samples, what, file)


def _upright(image: PIL.Image.Image) -> PIL.Image.Image:
    from PIL import ImageOps

    with _half_pictures_refused():
        image.load()
    return ImageOps.exif_transpose(image)


@contextmanager
def _half_pictures_refused() -> Iterator[None]:
    """PIL's switch for truncated files is global, and training scripts like to turn it on."""
    from PIL import ImageFile

    before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def _is_deep(image: PIL.Image.Image) -> bool:
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def _pixels_of_pil(image: PIL.Image.Image) -> Array:
    """(H, W) or (H, W, 3) uint8 of an image of at most eight bits; palettes looked up, transparency over black."""
    if not image.has_transparency_data:
        return np.array(image if image.mode == "L" else image.convert("RGB"))
    rgba = np.array(image.convert("RGBA"))
    return round_to_uint8(rgba[:, :, :3] * (rgba[:, :, 3:] / 255.0))


def _stretch_together(pages: list[_Deep]) -> list[DecodedFrame]:
    """One range for all channels and pages, so that colours and slices keep their balance."""
    visible = [page.values if page.alpha is None else page.values[page.alpha > 0] for page in pages]
    finite = [values[np.isfinite(values)] for values in visible]
    low = min((float(values.min()) for values in finite if values.size), default=0.0)
    high = max((float(values.max()) for values in finite if values.size), default=0.0)
    return [DecodedFrame(_stretch_page(page, low, high), FULL_RANGE) for page in pages]


def _stretch_page(page: _Deep, low: float, high: float) -> Array:
    eight_bit = stretch_to_uint8(page.values, low, high)
    if page.inverted and high > low:
        eight_bit = np.where(np.isfinite(page.values), 255 - eight_bit, 0).astype(np.uint8)
    if page.alpha is None:
        return eight_bit
    return round_to_uint8(as_rgb(eight_bit) * page.alpha[:, :, None])


def _deep_png(data: bytes, mode: str) -> _Deep:
    """A 16-bit PNG with colour or alpha, of which PIL alone keeps only the high bytes."""
    samples = _sixteen_bit_samples(data, 0, mode, big_endian=True)
    if mode == "RGB":
        return _Deep(samples, None, inverted=False)
    colour = samples[:, :, 0] if mode == "LA" else samples[:, :, :3]
    return _Deep(colour, samples[:, :, -1] / 65535.0, inverted=False)


def _sixteen_bit_samples(data: bytes, page: int, mode: str, *, big_endian: bool) -> Array:
    """All sixteen bits of a page that PIL decodes to eight: high bytes and low bytes, read in two passes.

    PIL unpacks a 16-bit sample by picking one of its two bytes; the raw mode of the tile names which.
    """
    high, low = (";16B", ";16L") if big_endian else (";16L", ";16B")
    if mode == "LA":  # no raw mode picks grey and alpha: read the four bytes of a pixel as they are
        four = _unpack(data, page, "RGBA").astype(np.uint16)
        return four[:, :, 0::2] * 256 + four[:, :, 1::2]
    return _unpack(data, page, mode + high).astype(np.uint16) * 256 + _unpack(data, page, mode + low)


def _unpack(data: bytes, page: int, raw_mode: str) -> Array:
    image = _open_pil(data)
    image.seek(page)
    image.tile = [
        tile._replace(args=raw_mode if isinstance(tile.args, str) else (raw_mode, *tile.args[1:]))
        for tile in image.tile
        if tile.args is not None
    ]
    return np.array(_upright(image))


def _decode_tiff(data: bytes, file: str) -> list[DecodedFrame]:
    """Pages of at most eight bits through PIL, deeper ones through tifffile."""
    import tifffile

    with tifffile.TiffFile(BytesIO(data)) as tiff:
        pages = {i: page for i, page in enumerate(_pages_of_tiff(tiff, file)) if _is_picture(page)}
        if not pages:
            raise ImageError(file, "a TIFF without pages; save it again as TIFF or PNG")
        num_values = sum(page.size for page in pages.values())
        check_size(num_values, f"a TIFF of {len(pages)} page(s)", file)
        if not any(_is_deep_page(page) for page in pages.values()):
            return [DecodedFrame(_shallow_page(data, i, file), STORED) for i in pages]
        return _stretch_together([_deep_page(data, i, page, file) for i, page in pages.items()])


def _pages_of_tiff(tiff: tifffile.TiffFile, file: str) -> Iterator[tifffile.TiffPage]:
    """The pages in order; a damaged chain may lead back to a page before, or on for minutes."""
    places: set[int] = set()
    for page in tiff.pages:
        if page.offset in places:
            raise ImageError(file, "a TIFF whose pages lead in a circle (damaged?); copy the file again")
        if len(places) == _MAX_PAGES:
            raise ImageError(file, f"a TIFF of more than {_MAX_PAGES} pages, or a damaged one; split it")
        places.add(page.offset)
        yield page


def _is_picture(page: tifffile.TiffPage) -> bool:
    return not int(page.subfiletype) & _REDUCED_OR_MASK


def _is_deep_page(page: tifffile.TiffPage) -> bool:
    """More than eight bits, or signed ones, which PIL takes for unsigned."""
    bits = page.bitspersample
    return bool(max(bits if isinstance(bits, tuple) else (bits,)) > 8) or _is_signed(page)


def _is_signed(page: tifffile.TiffPage) -> bool:
    return int(page.sampleformat) == _SIGNED


def _shallow_page(data: bytes, page: int, file: str) -> Array:
    image = _open_pil(data)
    image.seek(page)
    _check_image_size(image, file)
    return _pixels_of_pil(_upright(image))


def _deep_page(data: bytes, index: int, page: tifffile.TiffPage, file: str) -> _Deep:
    photometric = int(page.photometric)
    if photometric not in (_MINISWHITE, _MINISBLACK, _RGB) or page.imagedepth > 1:
        reason = "a TIFF of more than 8 bits that is neither grey nor RGB; save it as grey or RGB TIFF or PNG"
        raise ImageError(file, reason)
    samples = _deep_samples(data, index, page)  # (H, W, S)
    num_colours = 3 if photometric == _RGB else 1
    values = samples[:, :, :3] if num_colours == 3 else samples[:, :, 0]
    alpha = samples[:, :, num_colours] if _has_unassociated_alpha(page) else None
    return _Deep(values, None if alpha is None else _unit_alpha(alpha), photometric == _MINISWHITE)


def _has_unassociated_alpha(page: tifffile.TiffPage) -> bool:
    return bool(page.extrasamples) and int(page.extrasamples[0]) == _UNASSOCIATED_ALPHA


def _unit_alpha(alpha: Array) -> Array:
    full = float(np.iinfo(alpha.dtype).max) if np.issubdtype(alpha.dtype, np.integer) else 1.0
    return np.clip(alpha / full, 0.0, 1.0)


def _deep_samples(data: bytes, index: int, page: tifffile.TiffPage) -> Array:
    """(H, W, S) in the page's own dtype, upright."""
    if not _tifffile_decodes(page):  # LZW above all, which tifffile leaves to the imagecodecs package
        samples = _deep_samples_pil(data, index)
        unsigned = _is_signed(page) and samples.dtype.kind == "u"
        return samples.view(f"i{samples.dtype.itemsize}") if unsigned else samples
    if len(page.dataoffsets) != math.prod(page.chunked) or not all(page.databytecounts):
        raise ValueError("strips or tiles are missing")  # tifffile would fill them with zeros
    values = page.asarray()
    if values.ndim == 2:
        values = values[:, :, None]
    elif page.axes.startswith("S"):  # planar
        values = np.moveaxis(values, 0, 2)
    orientation = page.tags.get("Orientation")
    return _orient(values, 1 if orientation is None else int(orientation.value))


def _tifffile_decodes(page: tifffile.TiffPage) -> bool:
    import tifffile

    try:
        tifffile.TIFF.DECOMPRESSORS[page.compression]
        tifffile.TIFF.UNPREDICTORS[page.predictor]
    except (KeyError, ValueError, ImportError):
        return False
    return True


def _deep_samples_pil(data: bytes, index: int) -> Array:
    image = _open_pil(data)
    image.seek(index)
    if _is_deep(image) or image.mode == "L":  # eight bits that are signed
        return np.array(_upright(image))[:, :, None]
    # libtiff hands samples over in the machine's byte order, whatever the file's.
    return _sixteen_bit_samples(data, index, image.mode, big_endian=sys.byteorder == "big")


def _orient(values: Array, orientation: int) -> Array:
    """Turn (H, W, S) upright. Source: TIFF 6.0, Orientation (274), values 1..8."""
    if orientation in (5, 6, 7, 8):
        values = values.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    return values
