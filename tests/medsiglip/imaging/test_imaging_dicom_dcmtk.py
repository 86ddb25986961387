"""Greys against dcmtk, an independent reader of DICOM.

Where we round to the nearest of 256 greys, dcmtk 3.6.7 cuts the fraction off, before inversion and after. Its greys
are therefore ours or one less, and of MONOCHROME1 ours or one off; on average half of one. dcmtk shows padding as
a value like others, where ours is black. It does not read JPEG 2000: those files go to it as uncompressed copies.
"""

import re
from pathlib import Path

import numpy as np
import pydicom.data
import pytest
from pydicom import dcmread

from medsiglip.imaging.dicom.instance import decode_dicom, read_header
from tests.medsiglip.imaging.conftest import run_dcmtk
from tests.medsiglip.imaging.dicom_writer import dicom_bytes, lut

KIT = ["RG1_J2KI", "MG1_J2KI", "CXR_SIIM_JPEGbaseline_MONO2", "CXR_SIIM_fakeMONO1", "XA1_J2KI", "US_JPEGLosslessSV1",
       "MR1_J2KI", "CT1_J2KR", "CT1_JPLL", "CT1_RLE", "CT_series3_01", "CT_CQ500_J2KR"]  # fmt: skip
KIT_WITH_WINDOW = ["RG1_J2KI", "MG1_J2KI", "US_JPEGLosslessSV1", "MR1_J2KI", "CT_series3_01", "CT_CQ500_J2KR"]
BUNDLED = ["dicomdirtests/77654033/CR1/6154", "dicomdirtests/77654033/CR2/6247", "dicomdirtests/77654033/CR3/6278",
           "dicomdirtests/98892001/CT2N/6293", "dicomdirtests/98892003/MR1/4919", "MR_small.dcm", "MR_small_RLE.dcm",
           "MR_small_bigendian.dcm", "examples_overlay.dcm"]  # fmt: skip


def readable(path, tmp_path):
    """The file itself, or a copy without JPEG 2000."""
    dataset = dcmread(path)
    if not dataset.file_meta.TransferSyntaxUID.startswith("1.2.840.10008.1.2.4.9"):
        return path
    dataset.decompress(generate_instance_uid=False)
    for keyword in ("PatientName", "PatientID"):
        setattr(dataset, keyword, "")
    copy = tmp_path / "uncompressed.dcm"
    dataset.save_as(copy)
    return copy


def kit_path(kit, name):
    return kit / "dicom-real" / "images" / f"{name}.dcm"


def bundled_path(name):
    return Path(pydicom.data.__file__).parent / "test_files" / name


def check(path, policy, theirs):
    """Ours against theirs, outside of padding; at most one grey apart, and to the side that cutting explains."""
    data = path.read_bytes()
    ours = next(decode_dicom(data, policy, path.name))
    dataset = dcmread(path)
    padding = dataset.get("PixelPaddingValue")
    valid = np.ones(theirs.shape, bool) if padding is None else dataset.pixel_array != padding
    assert valid.mean() > 0.5 and (ours.pixels[~valid] == 0).all()
    off = (ours.pixels.astype(int) - theirs)[valid]
    lowest = -1 if dataset.PhotometricInterpretation == "MONOCHROME1" else 0
    assert lowest <= off.min() and off.max() <= 1
    assert abs(off.mean()) < 0.6 and len(np.unique(theirs)) > 10
    return ours, off


@pytest.mark.kit
@pytest.mark.parametrize("name", KIT_WITH_WINDOW)
def test_the_window_of_a_kit_file(kit, dcmtk, tmp_path, name):
    path = kit_path(kit, name)
    ours, _ = check(path, "voi", dcmtk(readable(path, tmp_path), "+Wi", "1"))
    assert ours.policy == "voi"


@pytest.mark.kit
@pytest.mark.parametrize("name", [name for name in KIT if not name.startswith(("CT", "CXR", "US"))])
def test_the_full_range_of_a_kit_file(kit, dcmtk, tmp_path, name):
    path = kit_path(kit, name)
    check(path, "full-range", dcmtk(readable(path, tmp_path), "+Wm"))


@pytest.mark.kit
@pytest.mark.parametrize("name", [name for name in KIT if name.startswith("CT")])
@pytest.mark.parametrize("channel", [0, 1, 2])
def test_the_windows_of_a_ct_preset(kit, dcmtk, tmp_path, name, channel):
    low, high = [(-1024, 1024), (-135, 215), (0, 80)][channel]
    path = kit_path(kit, name)
    dataset = dcmread(path)
    rgb = next(decode_dicom(path.read_bytes(), "ct-medgemma-1.5", name)).pixels
    # LINEAR runs from center - 0.5 - (width - 1) / 2 over width - 1
    center, width = (low + high) / 2 + 0.5, high - low + 1
    theirs = dcmtk(readable(path, tmp_path), "+Ww", str(center), str(width))
    valid = dataset.pixel_array != dataset.get("PixelPaddingValue", 10**6)
    off = (rgb[..., channel].astype(int) - theirs)[valid]
    assert off.min() >= 0 and off.max() <= 1 and theirs[valid].std() > 10


@pytest.mark.kit
@pytest.mark.parametrize(
    ("name", "apart"),
    [
        ("CXR_SIIM_JPEGbaseline_MONO2", 1),  # baseline JPEG of another decoder
        ("CXR_SIIM_fakeMONO1", 2),  # and inverted with cut fractions
        ("US_JPEGLosslessSV1", 0),
    ],
)
def test_eight_bits_are_shown_as_stored(kit, dcmtk, name, apart):
    path = kit_path(kit, name)
    ours = next(decode_dicom(path.read_bytes(), "full-range", name))
    theirs = dcmtk(path, "-W")
    off = np.abs(ours.pixels.astype(int) - theirs)
    assert ours.policy == "stored" and off.max() <= apart and theirs.std() > 10


@pytest.mark.parametrize("name", BUNDLED)
def test_the_window_of_a_bundled_file(dcmtk, name):
    path = bundled_path(name)
    ours, _ = check(path, "voi", dcmtk(path, "+Wi", "1"))
    assert ours.policy == "voi"


@pytest.mark.parametrize("name", ["examples_overlay.dcm"])
def test_the_second_window_of_a_bundled_file(dcmtk, name):
    path = bundled_path(name)
    ours, _ = check(path, "voi:2", dcmtk(path, "+Wi", "2"))
    assert ours.policy == "voi:2"


@pytest.mark.parametrize("name", [name for name in BUNDLED if "CT" not in name])
def test_the_full_range_of_a_bundled_file(dcmtk, name):
    path = bundled_path(name)
    check(path, "full-range", dcmtk(path, "+Wm"))


# Written here: what no file at hand has


RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)
MADE = {
    "linear, fractions": ({"WindowCenter": 1000.5, "WindowWidth": 777.25}, ["+Wi", "1"]),
    "sigmoid": ({"WindowCenter": 2000, "WindowWidth": 900, "VOILUTFunction": "SIGMOID"}, ["+Wi", "1", "+Wfs"]),
    "rescale before the window": (
        {"RescaleSlope": 0.5, "RescaleIntercept": -300, "WindowCenter": 100, "WindowWidth": 700},
        ["+Wi", "1"],
    ),
    "negative slope": (
        {"RescaleSlope": -1, "RescaleIntercept": 3000, "WindowCenter": 1000, "WindowWidth": 3000},
        ["+Wi", "1"],
    ),
    "VOI LUT": ({"VOILUTSequence": lut(500, [n * n // 1024 for n in range(2048)], 12)}, ["+Wl", "1"]),
    "modality LUT before the window": (
        {"ModalityLUTSequence": lut(500, [n * 2 for n in range(2000)], 12), "WindowCenter": 2000, "WindowWidth": 3000},
        ["+Wi", "1"],
    ),
    "inverted": (
        {"PhotometricInterpretation": "MONOCHROME1", "WindowCenter": 1000, "WindowWidth": 3000},
        ["+Wi", "1"],
    ),
    "high bit": ({"BitsStored": 10, "HighBit": 11, "WindowCenter": 500, "WindowWidth": 900}, ["+Wi", "1"]),
    "signed": (
        {"PixelRepresentation": 1, "WindowCenter": 100, "WindowWidth": 2500},
        ["+Wi", "1"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MADE)
def test_a_made_file(dcmtk, tmp_path, name):
    attributes, options = MADE[name]
    path = tmp_path / "made.dcm"
    attributes = {"BitsStored": 12, "PatientName": "", "PatientID": "", **attributes}
    path.write_bytes(dicom_bytes(RAMP, **attributes))
    theirs = dcmtk(path, *options)
    ours = next(decode_dicom(path.read_bytes(), "voi", ""))
    off = ours.pixels.astype(int) - theirs
    assert ours.policy == "voi" and np.abs(off).max() <= 1 and len(np.unique(theirs)) > 100


@pytest.mark.kit
@pytest.mark.parametrize("name", KIT)
def test_the_header_as_dcmdump_reads_it(kit, dcmtk, name):
    path = kit_path(kit, name)
    keywords = ("Rows", "Columns", "BitsStored", "PixelRepresentation", "RescaleSlope", "RescaleIntercept",
                "PixelPaddingValue", "SliceThickness", "InstanceNumber", "WindowCenter", "PixelSpacing")  # fmt: skip
    wanted = [part for keyword in keywords for part in ("+P", keyword)]
    printed = run_dcmtk("dcmdump", "-q", *wanted, path).decode()
    found = {
        line.split()[-1]: re.sub(r"[\[\]]", "", line.split("#")[0].split(maxsplit=2)[2]).strip()
        for line in printed.splitlines()
        if line.startswith("(") and "(no value" not in line
    }
    header = read_header(path.read_bytes(), name)
    ours = {
        "Rows": header.rows, "Columns": header.columns, "BitsStored": header.bits_stored,
        "PixelRepresentation": header.pixel_representation, "RescaleSlope": header.rescale_slope,
        "RescaleIntercept": header.rescale_intercept, "PixelPaddingValue": header.padding and header.padding.first,
        "SliceThickness": header.tags.slice_thickness_mm, "InstanceNumber": header.instance_number,
        "WindowCenter": header.vois[0].window and header.vois[0].window.center,
        "PixelSpacing": header.tags.spacing_mm,
    }  # fmt: skip
    assert {"Rows", "Columns", "BitsStored"} <= set(found)
    for keyword, text in found.items():
        numbers = tuple(float(part) for part in text.split("\\"))
        if keyword == "PixelSpacing" and min(numbers) <= 0:
            assert ours[keyword] is None  # RG1 has a spacing of 0
            continue
        if keyword == "PixelPaddingValue" and header.pixel_representation and numbers[0] >= 2**15:
            numbers = (numbers[0] - 2**16,)
        assert ours[keyword] == (numbers if keyword == "PixelSpacing" else numbers[0]), keyword
