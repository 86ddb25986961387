"""The kit's real DICOM files against its table, against each other and against the slow reference."""

import csv

import numpy as np
import pytest
from pydicom import dcmread

from medsiglip.imaging.dicom.instance import decode_dicom, decode_values, read_header
from tests.medsiglip.imaging.dicom_reference import check_against_the_reference, frames_of


@pytest.fixture(scope="session")
def real(kit):
    """Rows of labels.csv, and the folder they are of."""
    folder = kit / "dicom-real"
    with open(folder / "labels.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 20
    return folder, rows


@pytest.mark.kit
def test_kit_stored_ranges_and_tags_are_those_of_its_table(real):
    folder, rows = real
    for row in rows:
        data = (folder / row["file"]).read_bytes()
        frames = list(decode_dicom(data, "voi", row["file"]))
        header = read_header(data, row["file"])
        assert len(frames) == header.num_frames == int(row["frames"])
        for frame in frames:
            tags = frame.tags
            assert frame.pixels.shape[:2] == (int(row["rows"]), int(row["columns"])), row["file"]
            assert (tags.modality, tags.photometric_interpretation) == (row["modality"], row["photometric"])
            assert (tags.bits_stored, tags.transfer_syntax_uid) == (int(row["bits_stored"]), row["transfer_syntax_uid"])
            assert tags.body_part == (row["body_part"] or None)
        assert header.pixel_representation == int(row["pixel_representation"])
        assert header.rescale_slope == float(row["rescale_slope"] or 1)
        assert header.rescale_intercept == float(row["rescale_intercept"] or 0)
        window = (float(row["window_center"]), float(row["window_width"])) if row["window_center"] else None
        assert [voi.window and voi.window[:2] for voi in header.vois] == [window]
        if row["photometric"].startswith("MONOCHROME"):
            (values,) = decode_values(data, row["file"])
            stored = (values.astype(float) - header.rescale_intercept) / header.rescale_slope
            # the table was made with another decoder of baseline JPEG
            tolerance = 1 if "JPEG Baseline" in row["transfer_syntax"] else 0
            expected = (int(row["pixel_min"]), int(row["pixel_max"]))
            assert (stored.min(), stored.max()) == pytest.approx(expected, abs=tolerance), row["file"]


@pytest.mark.kit
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_kit_files_agree_with_the_reference(real):
    folder, rows = real
    for row in rows:
        check_against_the_reference(folder / row["file"])


@pytest.mark.kit
def test_kit_encodings_of_one_slice_agree(real):
    folder, _ = real
    hu = {}
    for code in ("J2KR", "JLSL", "JPLL", "RLE", "J2KI", "JLSN"):
        (hu[code],) = decode_values((folder / "images" / f"CT1_{code}.dcm").read_bytes(), code)
        assert hu[code].dtype == np.int16
    for code in ("JLSL", "JPLL", "RLE"):
        np.testing.assert_array_equal(hu[code], hu["J2KR"])
    off = {code: int(np.abs(hu[code].astype(int) - hu["J2KR"]).max()) for code in ("J2KI", "JLSN")}
    assert off == {"J2KI": 352, "JLSN": 4}


@pytest.mark.kit
@pytest.mark.parametrize("policy", ["voi", "full-range", "percentile", "ct-report"])
def test_kit_lossless_encodings_of_one_slice_are_shown_alike(real, policy):
    folder, _ = real
    paths = [folder / "images" / f"CT1_{code}.dcm" for code in ("J2KR", "JLSL", "JPLL", "RLE")]
    first, *others = [frames_of(path, policy)[0] for path in paths]
    assert first.pixels.std() > 10
    for other in others:
        np.testing.assert_array_equal(other.pixels, first.pixels)


@pytest.mark.kit
def test_kit_monochrome1_is_shown_with_dark_lungs(real):
    film = frames_of(real[0] / "images" / "RG1_J2KI.dcm")[0].pixels
    rows, columns = film.shape
    lung = film[rows // 5 : rows // 3, columns // 5 : columns // 3].mean()
    spine = film[rows // 5 : rows // 3, columns * 47 // 100 : columns * 53 // 100].mean()
    assert lung + 30 < spine


@pytest.mark.kit
@pytest.mark.parametrize("policy", ["voi", "full-range", "percentile"])
def test_kit_monochrome1_twin_is_the_inverse(real, policy):
    two, one = (
        frames_of(real[0] / "images" / f"CXR_SIIM_{name}.dcm", policy)[0]
        for name in ("JPEGbaseline_MONO2", "fakeMONO1")
    )
    np.testing.assert_array_equal(one.pixels, 255 - two.pixels)
    assert one.policy == two.policy
    values = [next(decode_values((real[0] / "images" / f"CXR_SIIM_{name}.dcm").read_bytes(), name))
              for name in ("JPEGbaseline_MONO2", "fakeMONO1")]  # fmt: skip
    np.testing.assert_array_equal(*values)


@pytest.mark.kit
def test_kit_ct_window_by_hand(real):
    path = real[0] / "images" / "CT_series3_01.dcm"
    stored = dcmread(path).pixel_array.astype(float)
    expected = np.floor(np.clip(((stored - 1024 - 39.5) / 399 + 0.5) * 255, 0, 255) + 0.5)
    expected[stored == -2000] = 0
    np.testing.assert_array_equal(frames_of(path)[0].pixels, expected)
