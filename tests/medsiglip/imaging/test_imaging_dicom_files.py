"""Real files: the ones pydicom brings, and the kit's dicom-real."""

import csv
import io
import os
from pathlib import Path

import numpy as np
import pydicom.data
import pytest

from medsiglip.imaging import ImageError, open_images, read_pictures

BUNDLED = Path(pydicom.data.__file__).parent / "test_files"
NO_PIXELS = "no pixel data"

BUNDLED_REFUSALS = {
    "ExplVR_BigEndNoMeta.dcm": NO_PIXELS,
    "ExplVR_LitEndNoMeta.dcm": NO_PIXELS,
    "JPEG-lossy.dcm": "JPEG Extended.*pylibjpeg-libjpeg",  # needs the GPL plugin
    "JPEG2000-embedded-sequence-delimiter.dcm": "JPEG 2000",  # broken on purpose
    "JPGExtended.dcm": "JPEG Extended.*pylibjpeg-libjpeg",
    "MR_truncated.dcm": "truncated: 8130 of 8192 bytes",
    "UN_sequence.dcm": NO_PIXELS,
    "badVR.dcm": "group 0028",  # NumberOfFrames is "1A"
    "empty_charset_LEI.dcm": NO_PIXELS,
    "meta_missing_tsyntax.dcm": "group 0028",  # one byte of pixel data, no Rows
    "nested_priv_SQ.dcm": "group 0028",
    "no_meta.dcm": "not a picture",
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


def test_the_list_of_refusals_is_of_files_that_exist():
    assert set(BUNDLED_REFUSALS) <= set(BUNDLED_FILES) and len(BUNDLED_FILES) >= 78


@pytest.mark.parametrize("name", BUNDLED_FILES)
def test_bundled_file(name):
    if name in BUNDLED_REFUSALS:
        with pytest.raises(ImageError, match=BUNDLED_REFUSALS[name]):
            read_pictures(BUNDLED / name)
        return
    for picture in read_pictures(BUNDLED / name):
        assert picture.pixels.dtype == np.uint8 and picture.pixels.shape[2] == 3
        assert (picture.pixels == 255).all(axis=2).mean() < 0.5
        assert picture.pixels.max() > picture.pixels.min()


def test_every_file_of_the_bundled_dicomdir_decodes():
    folder = BUNDLED / "dicomdirtests"
    pictures = [
        read_pictures(path)[0]
        for number in ("77654033", "98892001", "98892003")
        for path in sorted((folder / number).rglob("*"))
        if path.is_file()
    ]
    assert len(pictures) == 31
    assert all(picture.pixels.min() < 255 for picture in pictures)


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
    first, *others = [[picture.pixels for picture in read_pictures(BUNDLED / name)] for name in group]
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
    rows = read_pictures(BUNDLED / name)[0].pixels[5::10, 50].astype(int)
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
    dataset = pydicom.dcmread(io.BytesIO(data))
    start = len(data) - len(dataset.PixelData)
    with pytest.raises(ImageError, match="; "):
        list(open_images(data[: start + int((len(data) - start) * keep)]))


def kit_folder() -> Path:
    data = os.environ.get("MEDGEMMA_DATA") or Path(__file__).resolve().parents[3].parent / "shared" / "data"
    folder = Path(data) / "dicom-real"
    if not (folder / "labels.csv").is_file():
        reason = f"the kit's dicom-real is not at {folder}; set MEDGEMMA_DATA"
        (pytest.fail if os.environ.get("MEDGEMMA_REQUIRE") == "1" else pytest.skip)(reason)
    return folder


@pytest.mark.kit
def test_kit_all_files_decode():
    folder = kit_folder()
    with open(folder / "labels.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 20
    for row in rows:
        pictures = read_pictures(folder / row["file"])
        assert len(pictures) == int(row["frames"])
        for picture in pictures:
            assert picture.pixels.shape == (int(row["rows"]), int(row["columns"]), 3)
            assert picture.modality == row["modality"]
            assert (picture.pixels == 255).mean() < 0.1
            assert picture.pixels.std() > 10


@pytest.mark.kit
def test_kit_lossless_encodings_of_one_slice_agree():
    folder = kit_folder() / "images"
    first, *others = [read_pictures(folder / f"CT1_{c}.dcm")[0].pixels for c in ("J2KR", "JLSL", "JPLL", "RLE")]
    for other in others:
        np.testing.assert_array_equal(other, first)


@pytest.mark.kit
def test_kit_monochrome1_is_shown_with_dark_lungs():
    film = read_pictures(kit_folder() / "images" / "RG1_J2KI.dcm")[0].pixels[:, :, 0]
    rows, columns = film.shape
    lung = film[rows // 5 : rows // 3, columns // 5 : columns // 3].mean()
    spine = film[rows // 5 : rows // 3, columns * 47 // 100 : columns * 53 // 100].mean()
    assert lung + 30 < spine


@pytest.mark.kit
def test_kit_monochrome1_twin_is_the_inverse():
    folder = kit_folder() / "images"
    two = read_pictures(folder / "CXR_SIIM_JPEGbaseline_MONO2.dcm")[0].pixels
    one = read_pictures(folder / "CXR_SIIM_fakeMONO1.dcm")[0].pixels
    np.testing.assert_array_equal(one, 255 - two)


@pytest.mark.kit
def test_kit_ct_window_by_hand():
    path = kit_folder() / "images" / "CT_series3_01.dcm"
    stored = pydicom.dcmread(path).pixel_array.astype(float)
    expected = np.floor(np.clip(((stored - 1024 - 39.5) / 399 + 0.5) * 255, 0, 255) + 0.5)
    expected[stored == -2000] = 0
    np.testing.assert_array_equal(read_pictures(path)[0].pixels[:, :, 0], expected)
