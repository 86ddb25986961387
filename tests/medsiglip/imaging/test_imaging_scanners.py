"""What scanners and the software behind them write: the right values by hand, and what is said of the rest."""

import io
import struct
import warnings

import numpy as np
import pytest
import tifffile
from PIL import Image
from pydicom import Dataset, Sequence, dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless

from medsiglip.imaging import ImageError, Volume, open_images
from medsiglip.imaging.dicom.instance import decode_dicom, read_header
from medsiglip.imaging.units import HU, HU_UNPROVEN
from tests.medsiglip.imaging.dicom_writer import changed, dicom_bytes
from tests.medsiglip.imaging.made_series import ct_file

GREYS = np.array([[0, 1000, 2000, 4095]], np.uint16)
TWELVE_BITS = {"BitsStored": 12, "HighBit": 11, "Modality": "XA"}


def shown(data, policy="voi"):
    (frame,) = decode_dicom(data, policy, "film.dcm")
    return frame


def kinds(item):
    return [finding.kind for finding in item.findings]


def of_vr(data, keyword, vr, value):
    """The same file with an attribute of another value representation, as some software writes it."""
    tag = dcmread(io.BytesIO(data))[keyword].tag
    at = data.index(struct.pack("<HH", tag.group, tag.element))
    length = struct.unpack("<H", data[at + 6 : at + 8])[0]
    value = value.encode() + b" " * (len(value) % 2)
    long = vr in ("UT", "UN", "UC", "OB")
    header = vr.encode() + (b"\0\0" + struct.pack("<I", len(value)) if long else struct.pack("<H", len(value)))
    return data[: at + 4] + header + value + data[at + 8 + length :]


def slices(number=5, stored=None, **tags):
    """CT slices in memory, 2 mm apart; 40 HU unless tags say otherwise."""
    values = np.full((4, 4), 1064, np.int16) if stored is None else stored
    return [ct_file(values, (0, 0, 2.0 * place), InstanceNumber=place + 1, **tags) for place in range(number)]


def opened(files, **options):
    problems = []
    items = list(open_images(files, on_problem=problems.append, **options))
    return items, [problem.reason for problem in problems]


def only_volume(files, **options):
    (volume,), problems = opened(files, **options)
    assert isinstance(volume, Volume) and not problems
    return volume


# Greys


@pytest.mark.parametrize(("declared", "found"), [(12, []), (16, ["voi-lut-bits"]), (10, ["voi-lut-bits"])])
def test_a_voi_lut_has_the_depth_of_its_entries(declared, found):
    """An identity of 4096 entries is entry / 4095 * 255, whatever the descriptor says."""
    lut = Dataset()
    lut.LUTDescriptor = [4096, 0, declared]
    lut.add_new("LUTData", "US", list(range(4096)))
    frame = shown(dicom_bytes(GREYS, VOILUTSequence=Sequence([lut]), **TWELVE_BITS))
    assert frame.pixels[0].tolist() == [0, 62, 125, 255]
    assert kinds(frame) == found


def test_a_voi_lut_that_uses_its_range_is_taken_at_its_word():
    lut = Dataset()
    lut.LUTDescriptor = [4096, 0, 16]
    lut.add_new("LUTData", "US", [entry * 10 for entry in range(4096)])
    frame = shown(dicom_bytes(GREYS, VOILUTSequence=Sequence([lut]), **TWELVE_BITS))
    assert frame.pixels[0].tolist() == [0, 39, 78, 159] and kinds(frame) == []


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("shape", ["IDENTITY", "INVERSE"])
def test_presentation_lut_shape_as_dcmtk_has_it(photometric, shape, dcmtk, tmp_path):
    tags = {"PhotometricInterpretation": photometric, "PresentationLUTShape": shape, **TWELVE_BITS}
    data = dicom_bytes(GREYS, WindowCenter=2048, WindowWidth=4096, **tags)
    (tmp_path / "film.dcm").write_bytes(data)
    frame = shown(data)
    theirs = dcmtk(tmp_path / "film.dcm", "+op", "+Wi", "1")
    assert np.abs(frame.pixels.astype(int) - theirs).max() <= 1
    by_hand = [0, 62, 125, 255]
    assert frame.pixels[0].tolist() == (by_hand if shape == "IDENTITY" else [255 - grey for grey in by_hand])
    contradicts = (shape == "INVERSE") != (photometric == "MONOCHROME1")
    assert kinds(frame) == (["presentation-lut-shape"] if contradicts else [])


def test_presentation_lut_shape_is_read_alike_in_a_volume():
    values = np.tile(np.array([-1024, 0, 1024, 2048], np.int16), (4, 1))
    files = slices(3, values, PresentationLUTShape="INVERSE", RescaleIntercept=0, Modality="MR")
    volume = only_volume(files)
    assert next(volume.pictures("min-max")).pixels[0, :, 0].tolist() == [255, 170, 85, 0]
    assert "presentation-lut-shape" in kinds(volume)
    assert shown(changed(files[0], lambda d: [delattr(d, k) for k in ("WindowCenter", "WindowWidth")])).pixels[
        0
    ].tolist() == [255, 170, 85, 0]


def test_a_range_of_padding_is_black_alike_in_a_file_and_a_volume():
    values = np.tile(np.array([-2000, -1500, 0, 100], np.int16), (4, 1))
    tags = {"PixelPaddingValue": -2000, "PixelPaddingRangeLimit": -1500, "Modality": "MR", "RescaleIntercept": 0}
    files = slices(3, values, **tags)
    assert next(only_volume(files).pictures("min-max")).pixels[0, :, 0].tolist() == [0, 0, 0, 255]
    assert shown(files[0], "full-range").pixels[0].tolist() == [0, 0, 0, 255]


# Hounsfield units


def test_a_ct_without_a_rescale_is_not_called_hu():
    values = np.full((4, 4), 24, np.int16)
    values[1:3, 1:3] = 1024
    missing = {"RescaleSlope": None, "RescaleIntercept": None, "RescaleType": None}
    files = [changed(file, lambda d: [delattr(d, keyword) for keyword in missing]) for file in slices(3, values)]
    volume = only_volume(files)
    assert volume.unit == HU_UNPROVEN and kinds(volume) == ["hu-unproven"]
    with pytest.warns(UserWarning, match="do not show that they are Hounsfield units"):
        assert volume.values_hu.min() == 24
    assert [picture.policy for picture in volume.pictures()] == ["min-max"] * 3
    assert volume.as_hu().unit == HU and not volume.as_hu().findings
    assert kinds(shown(files[0])) == ["hu-unproven"] and kinds(shown(files[0], "ct-report")) == ["hu-unproven"]


def test_values_of_air_show_that_an_identity_is_hu():
    values = np.full((4, 4), 40, np.int16)
    values[0] = -1000
    files = slices(3, values, RescaleIntercept=0, RescaleType=None)
    volume = only_volume(files)
    assert volume.unit == HU and not volume.findings and volume.values_hu.min() == -1000
    assert kinds(shown(files[0])) == []
    padded = slices(3, values, RescaleIntercept=0, PixelPaddingValue=-1000)  # padding shows nothing
    assert only_volume(padded).unit == HU_UNPROVEN and kinds(shown(padded[0])) == ["hu-unproven"]


def test_a_slope_of_nought_is_one_and_is_said():
    volume = only_volume(slices(3, RescaleSlope=0))
    assert volume.unit == HU and volume.values_hu[0, 0, 0] == 40 and kinds(volume) == ["slope-0"]
    assert kinds(shown(slices(1, RescaleSlope=0)[0])) == ["slope-0"]


# Numbers and identifiers


@pytest.mark.parametrize(
    ("keyword", "text"),
    [
        ("RescaleIntercept", "-1024,0"),
        ("WindowCenter", "40,0"),
        ("PixelSpacing", "0,5\\0,5"),
        ("ImagePositionPatient", None),
    ],
)
@pytest.mark.parametrize("vr", ["DS", "UT", "LO", "UN"])
def test_decimal_commas_and_other_types_of_text_are_read(keyword, text, vr):
    files = slices()
    odd = [of_vr(file, keyword, vr, text or f"0,0\\0,0\\{2 * place},0") for place, file in enumerate(files)]
    expected, volume = only_volume(files), only_volume(odd)
    np.testing.assert_array_equal(volume.values_hu, expected.values_hu)
    np.testing.assert_array_equal(volume.affine_lps_mm, expected.affine_lps_mm)
    assert volume.displays == expected.displays and volume.findings == expected.findings == ()
    np.testing.assert_array_equal(shown(odd[0]).pixels, shown(files[0]).pixels)


def test_what_is_no_number_is_named_by_its_tag():
    files = [of_vr(file, "RescaleIntercept", "DS", "minus 1024") for file in slices(3)]
    _, problems = opened(files)
    assert problems and problems[0].startswith("Rescale Intercept (0028,1052) is no number; export the image again")
    pictures, _ = opened([of_vr(file, "PixelSpacing", "DS", "wide") for file in slices(3)])
    assert len(pictures) == 3
    reason = "3 files of one series are single pictures, not a volume: Pixel Spacing (0028,0030) is not 2 numbers"
    assert [finding.text for finding in pictures[0].findings] == [reason]


@pytest.mark.parametrize("uids", [("anonymized", "anonymized"), ("2bfbb7fd2e8b", "x"), ("1.2.3\0", "1.2.4 ")])
def test_uids_of_any_spelling_group_a_series(uids):
    volume = only_volume(slices(uids=uids))
    assert len(volume.voxels) == 5 and not volume.findings
    items, problems = opened([*slices(uids=uids), *slices(uids=("another", uids[1]))])
    assert [type(item) for item in items] == [Volume, Volume] and not problems


def test_one_instance_uid_for_all_slices_names_none_of_them():
    volume = only_volume(slices(SOPInstanceUID="1.2.3.4"))
    assert len(volume.voxels) == 5 and not volume.findings
    assert len(only_volume(slices(SOPInstanceUID="anonymized")).voxels) == 5


def test_without_a_series_uid_the_folder_is_the_series(tmp_path):
    for place, data in enumerate(slices()):
        (tmp_path / f"{place}.dcm").write_bytes(changed(data, lambda d: delattr(d, "SeriesInstanceUID")))
    volume = only_volume(str(tmp_path))
    assert len(volume.voxels) == 5 and kinds(volume) == ["no-series-uid"]


def test_a_mosaic_is_named_and_no_slice():
    types = ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]
    pictures, problems = opened(slices(3, ImageType=types, Modality="MR", RescaleIntercept=0))
    assert len(pictures) == 3 and not problems
    assert {kind for picture in pictures for kind in kinds(picture)} == {"mosaic"}


# One acquisition, and another by choice


def echoes(**of_second):
    """Two echoes of five slices; values say which."""
    files = []
    for echo in (1, 2):
        for place in range(5):
            values = np.full((4, 4), echo * 100 + place, np.int16)
            tags = {
                "InstanceNumber": place + 1,
                "EchoTime": 5,
                "EchoNumbers": 1,
                "RescaleIntercept": 0,
                "Modality": "MR",
            }
            tags |= {key: value(echo, place) for key, value in of_second.items()}
            files.append(ct_file(values, (0, 0, 2.0 * place), **tags))
    return files


def echoes_in(volume):
    return sorted({int(value) // 100 for value in volume.voxels[:, 0, 0]})


def test_an_echo_is_chosen_by_number_time_or_rank():
    numbered = echoes(EchoNumbers=lambda echo, place: echo)
    first = only_volume(numbered)
    assert echoes_in(first) == [1] and kinds(first) == ["other-acquisition"]
    assert "choose one by --select echo=1 or echo=2" in first.findings[0].text
    second = only_volume(numbered, select={"echo": 2})
    assert echoes_in(second) == [2] and kinds(second) == ["not-selected"]
    timed = echoes(EchoTime=lambda echo, place: 5.5 * echo)  # GE numbers all echoes 1
    assert "choose one by --select echo_time=5.5 or echo_time=11" in only_volume(timed).findings[0].text
    assert echoes_in(only_volume(timed, select={"echo_time": 11})) == [2]
    assert echoes_in(only_volume(timed, select={"echo": "2"})) == [2]


def test_parts_that_only_their_order_tells_apart_are_chosen_by_number():
    ordered = echoes(SOPInstanceUID=lambda echo, place: f"1.2.840.9.{echo * 10 + place}")
    volume = only_volume(ordered)
    assert echoes_in(volume) == [1] and "--select part=1 to part=2" in volume.findings[0].text
    assert echoes_in(only_volume(ordered, select={"part": 2})) == [2]


def test_a_value_that_is_not_there_is_refused_with_those_that_are():
    items, problems = opened(echoes(EchoNumbers=lambda echo, place: echo), select={"echo": 3})
    assert not items and problems == ["--select echo=3: there are echo=1, echo=2"]


def test_a_choice_between_nothing_is_an_error():
    items, problems = opened(slices(), select={"echo": 2})
    assert len(items) == 1 and problems == ["nothing here differs in it, so nothing was chosen; leave it out"]


def test_an_unknown_key_names_those_there_are():
    with pytest.raises(ValueError, match="--select eco=2: name one as KEY=VALUE, such as echo=2; the keys are echo, "):
        open_images([], select={"eco": 2})


def test_what_nothing_tells_apart_is_refused_and_never_mixed():
    random = np.random.default_rng(1)
    files = echoes(SOPInstanceUID=lambda echo, place: f"2.25.{random.integers(2**62)}")
    items, problems = opened(files)
    assert not items
    assert problems == [
        "5 of 5 positions hold several images that nothing in the files tells apart; "
        "give the files of one acquisition alone"
    ]
    assert echoes_in(only_volume(files[:5])) == [1]  # the advice works


def test_the_header_holds_no_time_or_word_that_could_name_a_patient():
    header = read_header(
        ct_file(np.zeros((4, 4), np.int16), (0, 0, 0), ConvolutionKernel="QUIMBY", ImageType="QUIMBY"), ""
    )
    assert "QUIMBY" not in repr(header)


def test_no_warning_reaches_the_reader_of_a_plain_series():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(only_volume(slices()).pictures("report"))


def test_an_error_of_one_series_leaves_the_others():
    with pytest.raises(ImageError, match="nothing in the files tells apart"):
        list(open_images([*echoes()[:4], *echoes()[4:]]))


# Colour and signs


def jpeg_2000(rgb, transformed, photometric):
    """A DICOM instance whose codestream has, or has not, a colour transform, under a tag that may say otherwise."""
    code = io.BytesIO()
    Image.fromarray(rgb).save(code, "JPEG2000", irreversible=False, mct=int(transformed), no_jp2=True)
    tags = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0, "Modality": "US"}
    dataset = dcmread(io.BytesIO(dicom_bytes(rgb, **tags)))
    dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
    dataset.PhotometricInterpretation = photometric
    dataset.PixelData = encapsulate([code.getvalue()])
    dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("transformed", "photometric", "found"),
    [
        (True, "YBR_RCT", []),
        (True, "RGB", []),
        (False, "RGB", []),
        (True, "YBR_FULL", ["colour-transform"]),
        (False, "YBR_RCT", ["colour-transform"]),
        (False, "YBR_ICT", ["colour-transform"]),
    ],
)
def test_a_jpeg_2000_codestream_decides_its_colours(transformed, photometric, found):
    rgb = np.full((16, 16, 3), (200, 40, 90), np.uint8)
    frame = shown(jpeg_2000(rgb, transformed, photometric))
    np.testing.assert_array_equal(frame.pixels, rgb)
    assert kinds(frame) == found


def test_ybr_that_no_codestream_undoes_is_converted():
    rgb = np.full((16, 16, 3), (200, 40, 90), np.uint8)
    ybr = np.asarray(Image.fromarray(rgb).convert("YCbCr"))
    frame = shown(jpeg_2000(ybr, False, "YBR_FULL"))
    assert np.abs(frame.pixels.astype(int) - rgb).max() <= 3 and kinds(frame) == []


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_signed_samples_of_a_tiff_keep_their_sign(dtype, compression):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.array([[-100, 0, 50, 100]], dtype), compression=compression)
    (picture,) = open_images(buffer.getvalue())
    assert picture.pixels[0, :, 0].tolist() == [0, 128, 191, 255]  # (v + 100) / 200 * 255
