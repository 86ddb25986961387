import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageFile

from medsiglip.imaging import ImageError, Picture, open_images, raster
from medsiglip.imaging import frame as frame_module

RAMP8 = np.arange(256, dtype=np.uint8).reshape(16, 16)
RAMP12 = np.arange(4096, dtype=np.uint16).reshape(64, 64)
RAMP12_AS_8 = np.floor(RAMP12 * 255.0 / 4095 + 0.5).astype(np.uint8)


def saved(image, suffix, **options):
    buffer = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(buffer, suffix, **options)
    return buffer.getvalue()


def tiff(values, **options):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, **options)
    return buffer.getvalue()


def png16(values, colour_type):
    """A 16-bit PNG of (H, W, S) values, every row with another filter (PIL cannot write these)."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, samples = values.shape
    raw = values.astype(">u2").reshape(height, -1).view(np.uint8)
    above = np.vstack([np.zeros_like(raw[:1]), raw[:-1]])
    left = np.hstack([np.zeros((height, 2 * samples), np.uint8), raw[:, : -2 * samples]])
    filtered = [raw, raw - left, raw - above]
    rows = b"".join(bytes([y % 3]) + filtered[y % 3][y].tobytes() for y in range(height))
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def one(data):
    (picture,) = open_images(data)
    return picture


def assert_grey(picture, expected, policy):
    for channel in range(3):
        np.testing.assert_array_equal(picture.pixels[:, :, channel], expected)
    assert picture.policy == policy


# Eight bits stay


@pytest.mark.parametrize("suffix", ["PNG", "TIFF", "BMP", "GIF"])
def test_grey_ramp(suffix):
    assert_grey(one(saved(RAMP8, suffix)), RAMP8, "stored")


@pytest.mark.parametrize("options", [{"format": "PNG"}, {"format": "WEBP", "lossless": True}, {"format": "TIFF"}])
def test_rgb(options):
    rgb = np.stack([RAMP8, RAMP8.T, 255 - RAMP8], axis=2)
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, **options)
    np.testing.assert_array_equal(one(buffer.getvalue()).pixels, rgb)


def test_jpeg_grey_and_cmyk():
    flat = np.full((16, 16), 77, np.uint8)
    assert_grey(one(saved(flat, "JPEG", quality=100)), flat, "stored")
    cmyk = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # red
    red = one(saved(cmyk, "JPEG", quality=100)).pixels[8, 8].astype(int)
    assert red[0] > 230 and red[1] < 40 and red[2] < 40


def test_one_bit():
    assert_grey(one(saved(Image.fromarray(RAMP8 > 127), "PNG")), np.where(RAMP8 > 127, 255, 0), "stored")


def test_palette():
    image = Image.fromarray(RAMP8).copy()
    image.putpalette([value for i in range(256) for value in (255 - i, i, 7)])
    expected = np.stack([255 - RAMP8, RAMP8, np.full_like(RAMP8, 7)], axis=2)
    np.testing.assert_array_equal(one(saved(image, "PNG")).pixels, expected)


def test_transparent_palette_entry_is_black():
    image = Image.fromarray(np.array([[0, 1]], np.uint8)).copy()
    image.putpalette([200, 100, 50, 255, 255, 255])
    assert one(saved(image, "PNG", transparency=1)).pixels.tolist() == [[[200, 100, 50], [0, 0, 0]]]


def test_rgba_over_black():
    rgba = np.array([[[200, 100, 50, 255], [255, 255, 255, 0], [200, 100, 50, 128]]], np.uint8)
    # 128 / 255 of 200, 100, 50: 100.39, 50.20, 25.10
    expected = [[[200, 100, 50], [0, 0, 0], [100, 50, 25]]]
    assert one(saved(rgba, "PNG")).pixels.tolist() == expected


def test_grey_with_alpha_over_black():
    image = Image.merge("LA", [Image.fromarray(np.array([[200, 255]], np.uint8))] * 2)
    image.putalpha(Image.fromarray(np.array([[255, 0]], np.uint8)))
    assert_grey(one(saved(image, "PNG")), [[200, 0]], "stored")


def test_exif_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate 90 degrees clockwise to view
    values = np.array([[10, 20, 30], [40, 50, 60]], np.uint8)
    assert_grey(one(saved(values, "PNG", exif=exif)), [[40, 10], [50, 20], [60, 30]], "stored")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_tiff_orientation_is_the_same_in_8_and_16_bit(orientation, compression):
    values = np.array([[0, 51, 102], [153, 204, 255]], np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    shallow = one(saved(values, "TIFF", tiffinfo=exif, compression=compression))
    deep = one(saved(values.astype(np.uint16) * 16, "TIFF", tiffinfo=exif, compression=compression))
    np.testing.assert_array_equal(deep.pixels, shallow.pixels)
    assert orientation == 1 or shallow.pixels[:, :, 0].tolist() != values.tolist()


def test_animation_gives_its_first_frame():
    frames = [Image.fromarray(np.full((4, 4), value, np.uint8)) for value in (10, 200)]
    assert_grey(one(saved(frames[0], "GIF", save_all=True, append_images=frames[1:])), np.full((4, 4), 10), "stored")


# More than eight bits


def test_twelve_bits_in_a_sixteen_bit_png():
    picture = one(saved(RAMP12, "PNG"))
    assert_grey(picture, RAMP12_AS_8, "full-range")
    assert (picture.pixels == 255).mean() < 0.01  # PIL's own conversion: 0.938


def test_sixteen_bit_rgb_png_keeps_the_low_byte_and_the_colour_balance():
    values = np.stack([RAMP12, RAMP12 // 2, 4095 - RAMP12], axis=2)
    expected = np.floor(values * 255.0 / 4095 + 0.5).astype(np.uint8)
    picture = one(png16(values, 2))
    np.testing.assert_array_equal(picture.pixels, expected)
    assert picture.policy == "full-range"


def test_sixteen_bit_png_with_alpha():
    values = np.array([[[0, 65535], [100, 65535], [200, 65535], [65535, 0]]], np.uint16)  # grey, alpha
    assert_grey(one(png16(values, 4)), [[0, 128, 255, 0]], "full-range")
    rgba = np.concatenate([np.repeat(values[:, :, :1], 3, axis=2), values[:, :, 1:]], axis=2)
    assert_grey(one(png16(rgba, 6)), [[0, 128, 255, 0]], "full-range")


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"byteorder": ">"}])
@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.uint32, np.int32, np.float32, np.float64])
def test_deep_grey_tiff(options, dtype):
    assert_grey(one(tiff(RAMP12.astype(dtype), **options)), RAMP12_AS_8, "full-range")


def test_signed_values_keep_their_order():
    assert_grey(one(tiff(np.array([[-100, 0, 100]], np.int16))), [[0, 128, 255]], "full-range")


@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", "tiff_adobe_deflate"])
def test_compressed_deep_grey_tiff(compression):
    assert_grey(one(saved(RAMP12, "TIFF", compression=compression)), RAMP12_AS_8, "full-range")


@pytest.mark.parametrize("options", [{}, {"planarconfig": "separate"}, {"byteorder": ">"}])
def test_sixteen_bit_rgb_tiff(options):
    values = np.stack([RAMP12, RAMP12 // 2, 4095 - RAMP12], axis=2)
    expected = np.floor(values * 255.0 / 4095 + 0.5).astype(np.uint8)
    data = np.moveaxis(values, 2, 0) if "planarconfig" in options else values
    np.testing.assert_array_equal(one(tiff(data, photometric="rgb", **options)).pixels, expected)


def lzw_literal(data):
    """LZW with a clear code before every 100 literals, so that all codes have nine bits (TIFF 6.0, 13)."""
    codes = []
    for start in range(0, len(data), 100):
        codes += [256, *data[start : start + 100]]
    bits = "".join(f"{code:09b}" for code in [*codes, 257])
    return int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8), "big")


def test_sixteen_bit_rgb_tiff_with_lzw():
    values = np.random.default_rng(0).integers(0, 4096, (8, 8, 3)).astype(np.uint16)
    values[0, 0], values[0, 1] = 0, 4095
    encoded = lzw_literal(values.astype("<u2").tobytes())
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, photometric="rgb")
    buffer.seek(0)
    with tifffile.TiffFile(buffer) as written:
        page = written.pages[0]
        offsets = {tag.name: tag.valueoffset for tag in page.tags.values()}
    data = bytearray(buffer.getvalue())
    struct.pack_into("<H", data, offsets["Compression"], 5)
    struct.pack_into("<I", data, offsets["StripOffsets"], len(data))
    struct.pack_into("<I", data, offsets["StripByteCounts"], len(encoded))
    expected = np.floor(values * 255.0 / 4095 + 0.5).astype(np.uint8)
    np.testing.assert_array_equal(one(bytes(data) + encoded).pixels, expected)


def test_sixteen_bit_rgb_tiff_with_alpha():
    values = np.array([[[0, 100, 200, 65535], [65535, 65535, 65535, 0]]], np.uint16)
    picture = one(tiff(values, photometric="rgb", extrasamples=["unassalpha"]))
    assert picture.pixels.tolist() == [[[0, 128, 255], [0, 0, 0]]]


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_miniswhite_is_not_inverted(compression, byteorder):
    options = {"photometric": "miniswhite", "compression": compression, "byteorder": byteorder}
    assert_grey(one(tiff(RAMP8, **options)), 255 - RAMP8, "stored")
    assert_grey(one(tiff(RAMP12, **options)), 255 - RAMP12_AS_8, "full-range")


def test_multi_page_tiff_gives_frames_with_one_range():
    pages = np.array([[[0, 100]], [[100, 200]]], np.uint16)
    pictures = list(open_images(tiff(pages, photometric="minisblack")))
    assert [picture.pixels[0, :, 0].tolist() for picture in pictures] == [[0, 128], [128, 255]]
    assert [picture.frame for picture in pictures] == [0, 1]
    eight = list(open_images(tiff(np.stack([RAMP8, RAMP8.T]), photometric="minisblack")))
    assert_grey(eight[1], RAMP8.T, "stored")


def test_nan_and_infinity_are_black():
    values = np.array([[0.0, 0.25, 1.0, np.nan, np.inf, -np.inf]], np.float32)
    assert_grey(one(tiff(values)), [[0, 64, 255, 0, 0, 0]], "full-range")
    miniswhite = one(tiff(values, photometric="miniswhite"))
    assert_grey(miniswhite, [[255, 191, 0, 0, 0, 0]], "full-range")


@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
def test_constant_deep_picture_is_black(photometric):
    assert one(tiff(np.full((3, 3), 900, np.uint16), photometric=photometric)).pixels.max() == 0


@pytest.mark.filterwarnings("error")
def test_stretch_of_a_constant_divides_by_nothing():
    assert frame_module.stretch_to_uint8(np.full((2, 2), 9), 9, 9).tolist() == [[0, 0], [0, 0]]
    assert frame_module.stretch_to_uint8(np.array([8, 9, 10, 11]), 8, 10).tolist() == [0, 128, 255, 255]


# In memory


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_from_pil_never_clips(dtype):
    assert_grey(Picture.from_pil(Image.fromarray(RAMP12.astype(dtype))), RAMP12_AS_8, "full-range")


def test_from_pil_colour():
    assert Picture.from_pil(Image.new("RGB", (2, 1), (1, 2, 3))).pixels.tolist() == [[[1, 2, 3], [1, 2, 3]]]


# Refusals


@pytest.mark.parametrize("suffix", ["PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP"])
@pytest.mark.parametrize("keep", [0.5, 0.9])
def test_truncated_eight_bit(suffix, keep):
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    data = saved(noise, suffix)
    with pytest.raises(ImageError, match="picture in memory: .*; "):
        one(data[: int(len(data) * keep)])


@pytest.mark.parametrize("keep", [0.5, 0.9])
def test_truncated_sixteen_bit(keep):
    noise = np.random.default_rng(0).integers(0, 65536, (64, 64, 3)).astype(np.uint16)
    grey = noise[:, :, 0]
    lzw, deflate = (
        saved(grey, "TIFF", compression="tiff_lzw"),
        tiff(noise, photometric="rgb", compression="zlib"),
    )
    for data in (png16(noise, 2), saved(grey, "PNG"), tiff(noise, photometric="rgb"), lzw, deflate):
        with pytest.raises(ImageError, match="; "):
            one(data[: int(len(data) * keep)])


def test_tiff_with_missing_strips_is_refused():  # tifffile fills them with zeros
    data = bytearray(tiff(RAMP12))
    with tifffile.TiffFile(io.BytesIO(data)) as written:
        length = written.pages[0].tags["ImageLength"].valueoffset
        strip = written.pages[0].tags["RowsPerStrip"].valueoffset
    struct.pack_into("<I", data, length, 6400)
    struct.pack_into("<I", data, strip, 64)
    with pytest.raises(ImageError, match="damaged"):
        one(bytes(data))


def test_too_many_pages_are_refused(monkeypatch):  # a damaged page chain can run for minutes
    monkeypatch.setattr(raster, "_MAX_PAGES", 2)
    with pytest.raises(ImageError, match="a TIFF of more than 2 pages, or a damaged one; split it"):
        raster.decode_raster(tiff(np.zeros((3, 4, 4), np.uint8), photometric="minisblack"), "")


def test_pages_in_a_circle_are_refused():
    data = bytearray(tiff(np.zeros((2, 4, 4), np.uint8), photometric="minisblack"))
    (first,) = struct.unpack_from("<I", data, 4)
    with tifffile.TiffFile(io.BytesIO(data)) as written:
        last = written.pages[1].offset
    (num_tags,) = struct.unpack_from("<H", data, last)
    struct.pack_into("<I", data, last + 2 + 12 * num_tags, first)
    with pytest.raises(ImageError, match="a TIFF whose pages lead in a circle"):
        raster.decode_raster(bytes(data), "")


def test_half_pictures_are_refused_even_where_pil_is_told_to_allow_them(monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    data = saved(noise, "JPEG")
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(ImageError, match="truncated"):
        one(data[: len(data) // 2])
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


def test_our_limit_names_the_size(monkeypatch):
    monkeypatch.setattr(frame_module, "MAX_VALUES", 700)
    with pytest.raises(ImageError, match="16 rows x 16 columns x 3 samples is 768 values, more than the limit of 700"):
        raster.decode_raster(saved(np.zeros((16, 16, 3), np.uint8), "PNG"), "")
    with pytest.raises(ImageError, match="4096 values, more than the limit of 700"):
        raster.decode_raster(tiff(RAMP12), "")


def test_pil_decompression_bomb(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ImageError, match="256 pixels.*; split it"):
        raster.decode_raster(saved(RAMP8, "PNG"), "")


def test_formats_that_could_run_programs_are_not_opened():
    with pytest.raises(ImageError, match="not a picture in a format read here"):
        one(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n" + b"showpage\n" * 50)


@pytest.mark.parametrize("suffix", ["TIFF", "WEBP", "BMP", "JPEG"])
def test_formats_are_known_in_a_fresh_process(suffix, tmp_path):  # PIL loads its plugins late
    path = tmp_path / "picture"
    path.write_bytes(saved(np.full((8, 8, 3), 100, np.uint8), suffix))
    code = "import sys, medsiglip.imaging as i; sys.exit(len(i.read_pictures(sys.argv[1])) - 1)"
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)
