"""Real files: all that pydicom brings, and the kit's dicom-real, against values found without our code."""

import io
from pathlib import Path

import numpy as np
import pydicom.data
import pytest
from pydicom import dcmread

from medsiglip.imaging import ImageError
from medsiglip.imaging.dicom.instance import decode_dicom, decode_values, read_header
from tests.medsiglip.imaging.dicom_reference import check_against_the_reference, frames_of

DATA = Path(pydicom.data.__file__).parent
BUNDLED = DATA / "test_files"
NO_PIXELS = "no pixel data"

BUNDLED_REFUSALS = {
    "ExplVR_BigEndNoMeta.dcm": NO_PIXELS,
    "ExplVR_LitEndNoMeta.dcm": NO_PIXELS,
    "JPEG-lossy.dcm": "JPEG Extended.* needs a plugin; pip install pylibjpeg pylibjpeg-libjpeg",  # GPL
    "JPEG2000-embedded-sequence-delimiter.dcm": "a compressed frame of",  # broken on purpose
    "JPGExtended.dcm": "JPEG Extended.* needs a plugin; pip install pylibjpeg pylibjpeg-libjpeg",
    "MR_truncated.dcm": "truncated: 8130 of 8192 bytes",
    "UN_sequence.dcm": NO_PIXELS,
    "badVR.dcm": "group 0028",  # NumberOfFrames is "1A"
    "empty_charset_LEI.dcm": NO_PIXELS,
    "meta_missing_tsyntax.dcm": "group 0028",  # one byte of pixel data, no Rows
    "nested_priv_SQ.dcm": "group 0028",
    "no_meta.dcm": "without content",
    "no_meta_group_length.dcm": NO_PIXELS,
    "priv_SQ.dcm": NO_PIXELS,
    "reportsi.dcm": NO_PIXELS,
    "reportsi_with_empty_number_tags.dcm": NO_PIXELS,
    "rtplan.dcm": NO_PIXELS,
    "rtplan_truncated.dcm": NO_PIXELS,
    "rtstruct.dcm": NO_PIXELS,
    "test-SR.dcm": NO_PIXELS,
    "waveform_ecg.dcm": NO_PIXELS,
}
BUNDLED_FILES = sorted(path.name for path in BUNDLED.glob("*.dcm"))

# Smallest and largest stored value (colour as RGB) and the sum of all, over all frames, of pydicom 3.0.2's pixel_array.
STORED_VALUES = {
    "693_J2KI.dcm": (-2971, 2836, -2181784),
    "CT_small.dcm": (128, 2191, 14826310),
    "ExplVR_BigEnd.dcm": (0, 255, 2470716),
    "GDCMJ2K_TextGBR.dcm": (0, 255, 59729223),
    "J2K_pixelrep_mismatch.dcm": (-2000, 1896, -172605258),
    "JPEG2000.dcm": (-30, 245, 3527976),
    "JPEGLSNearLossless_08.dcm": (0, 255, 25000),
    "JPEGLSNearLossless_16.dcm": (0, 65535, 6007250),
    "MR_small.dcm": (127, 2145, 2125338),
    "MR_small_RLE.dcm": (127, 2145, 2125338),
    "MR_small_bigendian.dcm": (127, 2145, 2125338),
    "MR_small_expb.dcm": (127, 2145, 2125338),
    "MR_small_implicit.dcm": (127, 2145, 2125338),
    "MR_small_jp2klossless.dcm": (127, 2145, 2125338),
    "MR_small_jpeg_ls_lossless.dcm": (127, 2145, 2125338),
    "MR_small_padded.dcm": (127, 2145, 2125338),
    "SC_jpeg_no_color_transform.dcm": (134, 252, 47966767),
    "SC_jpeg_no_color_transform_2.dcm": (165, 255, 48294002),
    "SC_rgb_dcmtk_+eb+cr.dcm": (0, 255, 3832200),
    "SC_rgb_dcmtk_+eb+cy+n1.dcm": (0, 255, 3826350),
    "SC_rgb_dcmtk_+eb+cy+n2.dcm": (0, 255, 3832000),
    "SC_rgb_dcmtk_+eb+cy+np.dcm": (0, 255, 3826350),
    "SC_rgb_dcmtk_+eb+cy+s2.dcm": (0, 255, 3832000),
    "SC_rgb_dcmtk_+eb+cy+s4.dcm": (0, 255, 3832000),
    "SC_rgb_gdcm_KY.dcm": (0, 255, 3831000),
    "SC_rgb_jls_lossy_line.dcm": (0, 255, 3840000),
    "SC_rgb_jls_lossy_sample.dcm": (0, 255, 3840000),
    "SC_rgb_jpeg.dcm": (134, 252, 47966767),
    "SC_rgb_jpeg_app14_dcmd.dcm": (165, 255, 48294002),
    "SC_rgb_jpeg_dcmd.dcm": (134, 252, 47966767),
    "SC_rgb_jpeg_dcmtk.dcm": (0, 255, 3832000),
    "SC_rgb_jpeg_gdcm.dcm": (0, 255, 3831000),
    "SC_rgb_jpeg_lossy_gdcm.dcm": (0, 255, 3825850),
    "SC_rgb_rle.dcm": (0, 255, 3831000),
    "SC_rgb_rle_16bit.dcm": (0, 65535, 984567000),
    "SC_rgb_rle_16bit_2frame.dcm": (0, 65535, 1966050000),
    "SC_rgb_rle_2frame.dcm": (0, 255, 7650000),
    "SC_rgb_rle_32bit.dcm": (0, 4294967295, 64525567479000),
    "SC_rgb_rle_32bit_2frame.dcm": (0, 4294967295, 128849018850000),
    "SC_rgb_small_odd.dcm": (52, 176, 3477),
    "SC_rgb_small_odd_big_endian.dcm": (52, 176, 3477),
    "SC_rgb_small_odd_jpeg.dcm": (49, 179, 3465),
    "SC_ybr_full_422_uncompressed.dcm": (0, 255, 3832000),
    "examples_jpeg2k.dcm": (0, 255, 31821736),
    "examples_overlay.dcm": (0, 1123, 27833052),
    "examples_palette.dcm": (0, 255, 15024554),
    "examples_rgb_color.dcm": (0, 255, 7895026),
    "examples_ybr_color.dcm": (0, 220, 72512675),
    "image_dfl.dcm": (0, 255, 33322688),
    "liver_1frame.dcm": (0, 1, 36233),
    "liver_expb_1frame.dcm": (0, 1, 36233),
    "rtdose.dcm": (795000, 1254000, 1519910000),
    "rtdose_1frame.dcm": (795000, 1254000, 101378000),
    "rtdose_expb.dcm": (795000, 1254000, 1519910000),
    "rtdose_expb_1frame.dcm": (795000, 1254000, 101378000),
    "rtdose_rle.dcm": (795000, 1254000, 1519910000),
    "rtdose_rle_1frame.dcm": (795000, 1254000, 101378000),
}

NOT_SHOWN_AS_STORED = (  # deep colour and palette indices; test_bundled_file has their colours
    "SC_rgb_rle_16bit.dcm",
    "SC_rgb_rle_16bit_2frame.dcm",
    "SC_rgb_rle_32bit.dcm",
    "SC_rgb_rle_32bit_2frame.dcm",
    "examples_palette.dcm",
)

# The other folders: character sets, palettes, and series and directories of files without a suffix.
OTHER_REFUSALS = {
    **{f"charset_files/{name}.dcm": "no pixel data although Rows and Columns are there"
       for name in ("chrJapMulti", "chrJapMultiExplicitIR6", "chrKoreanMulti")},
    **{f"charset_files/{name}.dcm": NO_PIXELS for name in ("chrSQEncoding", "chrSQEncoding1")},
    **{f"palettes/{path.name}": NO_PIXELS for path in (DATA / "palettes").glob("*.dcm")},
}  # fmt: skip


def other_files():
    """Everything with a DICOM preamble outside the folder test_files itself."""
    for path in sorted(DATA.rglob("*")):
        if path.is_file() and path.parent != BUNDLED and path.read_bytes()[128:132] == b"DICM":
            yield path.relative_to(DATA).as_posix()


OTHER_FILES = list(other_files())


def test_every_bundled_file_is_in_a_list():
    assert sorted({**BUNDLED_REFUSALS, **STORED_VALUES}) == BUNDLED_FILES
    assert not set(BUNDLED_REFUSALS) & set(STORED_VALUES)
    assert set(OTHER_REFUSALS) <= set(OTHER_FILES) and len(OTHER_FILES) >= 100


@pytest.mark.parametrize("name", BUNDLED_REFUSALS)
def test_bundled_file_that_is_refused(name):
    with pytest.raises(ImageError, match=BUNDLED_REFUSALS[name]):
        frames_of(BUNDLED / name)


@pytest.mark.parametrize("name", STORED_VALUES)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_bundled_file(name):
    check_against_the_reference(BUNDLED / name)


@pytest.mark.parametrize("name", [name for name in STORED_VALUES if name not in NOT_SHOWN_AS_STORED])
def test_stored_values_of_a_bundled_file(name):
    data = (BUNDLED / name).read_bytes()
    header = read_header(data, name)
    if header.samples_per_pixel == 3:
        found = np.stack([frame.pixels for frame in decode_dicom(data, "voi", name)]).astype(np.int64)
    else:
        values = np.stack(list(decode_values(data, name))).astype(float)
        found = np.rint((values - header.rescale_intercept) / header.rescale_slope).astype(np.int64)
    low, high, total = STORED_VALUES[name]
    if found.max() >= 2**24:  # through float32, of 24 bits
        assert (found.min(), found.max()) == pytest.approx((low, high), rel=1e-7)
        assert int(found.sum()) == pytest.approx(total, rel=1e-7)
    else:
        assert (found.min(), found.max(), found.sum()) == (low, high, total)


@pytest.mark.parametrize("name", OTHER_FILES)
def test_file_of_another_folder(name):
    path = DATA / name
    refusal = OTHER_REFUSALS.get(name, "")
    if path.name.startswith("DICOMDIR"):
        refusal = "a DICOMDIR is an index"
    elif "TINY_ALPHA" in path.parts:
        refusal = NO_PIXELS
    if not refusal:
        check_against_the_reference(path)
        return
    with pytest.raises(ImageError, match=refusal):
        frames_of(path)


@pytest.mark.parametrize(
    "group",
    [
        [
            "SC_rgb_rle.dcm",
            "SC_rgb_rle_16bit.dcm",
            "SC_rgb_rle_32bit.dcm",
            "SC_rgb_gdcm_KY.dcm",
            "SC_rgb_jpeg_gdcm.dcm",
        ],
        [
            f"MR_small{name}.dcm"
            for name in (
                "",
                "_RLE",
                "_bigendian",
                "_expb",
                "_implicit",
                "_jp2klossless",
                "_jpeg_ls_lossless",
                "_padded",
            )
        ],
        ["rtdose.dcm", "rtdose_expb.dcm", "rtdose_rle.dcm"],
    ],
)
def test_lossless_encodings_of_one_picture_agree(group):
    first, *others = [np.stack([frame.pixels for frame in frames_of(BUNDLED / name)]) for name in group]
    for other in others:
        np.testing.assert_array_equal(other, first)


COLOUR_BARS = [(255, 0, 0), (255, 128, 128), (0, 255, 0), (128, 255, 128), (0, 0, 255), (128, 128, 255),
               (0, 0, 0), (64, 64, 64), (192, 192, 192), (255, 255, 255)]  # fmt: skip


COLOUR_BAR_FILES = [
    name
    for name in BUNDLED_FILES
    if name.startswith(("SC_rgb_dcmtk", "SC_rgb_rle", "SC_rgb_j", "SC_ybr"))
    and name not in ("SC_rgb_jpeg.dcm", "SC_rgb_jpeg_app14_dcmd.dcm", "SC_rgb_jpeg_dcmd.dcm")
]


@pytest.mark.parametrize("name", COLOUR_BAR_FILES)
def test_colour_bars_come_out_in_their_colours(name):
    rows = frames_of(BUNDLED / name)[0].pixels[5::10, 50].astype(int)
    assert np.abs(rows - COLOUR_BARS).max() <= 5


COMPRESSED_FILES = [
    "MR_small_RLE.dcm",
    "MR_small_jp2klossless.dcm",
    "MR_small_jpeg_ls_lossless.dcm",
    "SC_rgb_jpeg_dcmtk.dcm",
    "JPEG2000.dcm",
    "693_J2KI.dcm",
]


@pytest.mark.parametrize("name", COMPRESSED_FILES)
@pytest.mark.parametrize("keep", [0.5, 0.75, 0.95])
def test_truncated_compressed_file_is_never_half_a_picture(name, keep):
    data = (BUNDLED / name).read_bytes()
    dataset = dcmread(io.BytesIO(data))
    start = len(data) - len(dataset.PixelData)
    with pytest.raises(ImageError, match="; "):
        list(decode_dicom(data[: start + int((len(data) - start) * keep)], "voi", ""))
