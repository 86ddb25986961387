"""Only codes of the closed lists and sane numbers leave a file; expected values are typed in here."""

import dataclasses
import io
import re
from pathlib import Path

import numpy as np
import pydicom
import pydicom.data
import pytest
from pydicom import Dataset, Sequence, dcmread

from medsiglip.imaging import ImageError
from medsiglip.imaging.dicom.instance import decode_dicom, read_header
from medsiglip.imaging.dicom.lut import Voi, Window
from medsiglip.imaging.dicom.parse import numbers, parse, texts
from medsiglip.imaging.dicom.tags import BODY_PARTS, IMAGE_TYPES, LATERALITIES, MODALITIES, VIEW_POSITIONS, known_code
from medsiglip.imaging.frame import Plane, TechnicalTags
from tests.medsiglip.imaging.dicom_writer import changed, dicom_bytes, group

PIXELS = np.zeros((2, 3), np.int16)
AXIAL = [1, 0, 0, 0, 1, 0]
FULL = {
    "Modality": "CR",
    "BodyPartExamined": "CHEST",
    "ViewPosition": "PA",
    "Laterality": "L",
    "ImageLaterality": "R",
    "BitsStored": 12,
    "PixelSpacing": [0.25, 0.5],
    "SliceThickness": 1.25,
    "ImagePositionPatient": [-10.5, 20, 30],
    "ImageOrientationPatient": [0, 1, 0, 0, 0, -1],
}


def tags(**attributes):
    (frame,) = decode_dicom(dicom_bytes(PIXELS, **attributes), "voi", "")
    return frame.tags


def replaced(**texts):
    """Tags of a file whose attribute texts are overwritten, past pydicom's own checks; keyword=(old, new)."""
    data = dicom_bytes(PIXELS, **{keyword: old for keyword, (old, _) in texts.items()})
    for old, new in texts.values():
        assert len(old) == len(new) and data.count(old.encode()) == 1, old
        data = data.replace(old.encode(), new.encode())
    (frame,) = decode_dicom(data, "voi", "")
    return frame.tags


def test_all_tags():
    assert tags(**FULL) == TechnicalTags(
        modality="CR",
        body_part="CHEST",
        view_position="PA",
        laterality="R",
        photometric_interpretation="MONOCHROME2",
        bits_stored=12,
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        spacing_mm=(0.25, 0.5),
        slice_thickness_mm=1.25,
        plane=Plane((-10.5, 20.0, 30.0), (0.0, 1.0, 0.0), (0.0, 0.0, -1.0)),
    )


def test_no_tags():
    bare = TechnicalTags(
        photometric_interpretation="MONOCHROME2", bits_stored=16, transfer_syntax_uid="1.2.840.10008.1.2.1"
    )
    assert tags(Modality=None) == bare


def test_a_name_typed_as_modality_does_not_cross():
    assert tags(Modality="DOE JOHN").modality is None
    assert replaced(Modality=("SUPERCODE", "Doe^Jane ")).modality is None


@pytest.mark.parametrize("keyword", ["BodyPartExamined", "ViewPosition", "Laterality", "ImageLaterality"])
@pytest.mark.parametrize("value", ["DOE JOHN", "19570101", "X1", "CHEST DOE"])
def test_free_text_in_a_code_does_not_cross(keyword, value):
    found = tags(**{keyword: value})
    assert value not in dataclasses.astuple(found)
    assert (found.body_part, found.view_position, found.laterality) == (None, None, None)


def test_nothing_of_a_file_full_of_names_crosses():
    data = dicom_bytes(
        PIXELS, PatientBirthDate="19570123", AccessionNumber="ACC31337", SeriesDescription="Zebedee", StudyID="Quimby",
        ImageType=["ORIGINAL", "QUIMBY"], BodyPartExamined="QUIMBY", ProtocolName="Zebedee",
    )  # fmt: skip
    (frame,) = decode_dicom(data, "voi", "")
    header = dataclasses.asdict(read_header(data, ""))
    for secret in ("zebedee", "quimby", "31337", "19570123"):
        assert secret in str(dcmread(io.BytesIO(data))).lower()
        assert secret not in repr(frame.tags).lower() and secret not in repr(header).lower()


def test_known_code():
    assert known_code(" ct\0", MODALITIES) == "CT"
    assert known_code(["CT", "MR"], MODALITIES) == "CT"
    assert [known_code(value, MODALITIES) for value in ("", None, [], b"CT", "CTX", 7)] == [None] * 6


def test_the_lists_hold_codes_only():
    assert {"CR", "CT", "DX", "MG", "MR", "PT", "US", "XA", "RF", "NM", "SM", "SEG", "RG"} <= MODALITIES
    assert {"CHEST", "BREAST", "HEAD", "ABDOMEN", "HAND", "KNEE", "SKULL", "LSPINE", "PANCREAS"} <= BODY_PARTS
    assert {"AP", "PA", "LL", "CC", "MLO"} <= VIEW_POSITIONS and {"R", "L", "U", "B"} == LATERALITIES
    for codes in (MODALITIES, BODY_PARTS, VIEW_POSITIONS, IMAGE_TYPES):
        assert all(code == code.strip().upper() and 1 <= len(code) <= 20 for code in codes)


def test_regions_that_pydicoms_dictionaries_name_in_one_word_are_known():
    from pydicom.sr.codedict import codes

    regions = {name for cid in ("cid4009", "cid4030", "cid4031") for name in dir(getattr(codes, cid))}
    words = {name.upper() for name in regions if re.fullmatch("[A-Z][a-z]+", name)}
    assert words - BODY_PARTS == set() and len(words) == 65


def test_laterality_of_the_series_where_the_image_has_none():
    assert tags(Laterality="L").laterality == "L"
    assert tags(Laterality="L", ImageLaterality="").laterality == "L"


def test_imager_spacing_where_there_is_no_other():
    assert tags(ImagerPixelSpacing=[0.1, 0.2]).spacing_mm == (0.1, 0.2)
    assert tags(ImagerPixelSpacing=[0.1, 0.2], PixelSpacing=[0.3, 0.4]).spacing_mm == (0.3, 0.4)


@pytest.mark.parametrize("spacing", [[0.5], [0.5, 0.5, 0.5], [0, 0.5], [-0.5, 0.5]])
def test_spacing_that_cannot_be(spacing):
    assert tags(PixelSpacing=spacing).spacing_mm is None


@pytest.mark.parametrize("text", ["nan       ", "inf       ", "1e999     ", "Doe^Jane  ", "1,2,5     ", "1.0,25    "])
def test_numbers_that_are_none(text):
    old = "1.87654321"
    assert replaced(SliceThickness=(old, text)).slice_thickness_mm is None
    assert replaced(PixelSpacing=(old, text)).spacing_mm is None


def test_a_thickness_of_0_is_none():
    assert tags(SliceThickness=0).slice_thickness_mm is None


def test_directions_are_made_unit_vectors():
    plane = tags(ImagePositionPatient=[0, 0, 0], ImageOrientationPatient=[1.005, 0, 0, 0, 0.6, 0.8]).plane
    assert plane == Plane((0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.6, 0.8))


@pytest.mark.parametrize(
    "orientation",
    [
        [1.02, 0, 0, 0, 1, 0],
        [1, 0, 0, 0.02, 1, 0],
        [1, 0, 0, 1, 0, 0],
        [0] * 6,
        AXIAL[:5],
        [*AXIAL, 0],
        [1, 0, 0, 0, 0.98, 0],
    ],
)
def test_directions_that_are_not_orthonormal(orientation):
    assert tags(ImagePositionPatient=[0, 0, 0], ImageOrientationPatient=orientation).plane is None


def test_a_plane_needs_a_position():
    assert tags(ImageOrientationPatient=AXIAL).plane is None
    assert tags(ImageOrientationPatient=AXIAL, ImagePositionPatient=[0, 0]).plane is None


@pytest.mark.parametrize("bits", [0, 65])
def test_bits_that_cannot_be(bits):
    data = dicom_bytes(PIXELS, BitsStored=bits, HighBit=15)
    assert read_header(data, "").tags.bits_stored is None


# Enhanced multi-frame


def enhanced():
    measures = {"PixelSpacing": [0.7, 0.8], "SliceThickness": 2.5}
    shared = group(PixelMeasuresSequence=measures, PlaneOrientationSequence={"ImageOrientationPatient": AXIAL})
    positions = [[0, 0, 5], [0, 0, 7.5], [0, 0, 10]]
    per_frame = [group(PlanePositionSequence={"ImagePositionPatient": position}) for position in positions]
    per_frame[2] = group(
        PlanePositionSequence={"ImagePositionPatient": positions[2]},
        PlaneOrientationSequence={"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]},
        PixelValueTransformationSequence={"RescaleSlope": 2, "RescaleIntercept": -5, "RescaleType": "HU"},
    )
    return dicom_bytes(
        np.zeros((3, 2, 2), np.uint16),
        NumberOfFrames=3,
        SharedFunctionalGroupsSequence=Sequence([shared]),
        PerFrameFunctionalGroupsSequence=Sequence(per_frame),
    )


def test_planes_of_an_enhanced_file():
    frames = [frame.tags for frame in decode_dicom(enhanced(), "voi", "")]
    axial, coronal = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0)), ((1.0, 0.0, 0.0), (0.0, 0.0, -1.0))
    expected = (Plane((0.0, 0.0, 5.0), *axial), Plane((0.0, 0.0, 7.5), *axial), Plane((0.0, 0.0, 10.0), *coronal))
    assert tuple(tags.plane for tags in frames) == expected
    assert {(tags.spacing_mm, tags.slice_thickness_mm) for tags in frames} == {((0.7, 0.8), 2.5)}
    header = read_header(enhanced(), "")
    assert header.frame_planes == expected and header.num_frames == 3 and header.tags.plane == expected[0]


def test_no_planes_where_one_frame_has_none():
    def remove(dataset):
        del dataset.PerFrameFunctionalGroupsSequence[1].PlanePositionSequence

    assert read_header(changed(enhanced(), remove), "").frame_planes == ()


def test_no_planes_where_groups_and_frames_differ():
    def add_frame(dataset):
        dataset.NumberOfFrames = 2
        dataset.SharedFunctionalGroupsSequence[0].PlanePositionSequence = dataset.PerFrameFunctionalGroupsSequence[
            0
        ].PlanePositionSequence

    header = read_header(changed(enhanced(), add_frame), "")
    assert header.frame_planes == () and header.tags.plane is not None


# Headers


def test_header():
    data = dicom_bytes(
        PIXELS, SOPInstanceUID="1.2.3", SeriesInstanceUID="1.2.4", FrameOfReferenceUID="1.2.5", AcquisitionNumber=6,
        InstanceNumber=7, ImageType=["DERIVED", "PRIMARY", "LOCALIZER"], BitsStored=12, RescaleSlope=1.5,
        RescaleIntercept=-1024, RescaleType="HU", PixelPaddingValue=-2000, GantryDetectorTilt=-15.5,
        WindowCenter=[40, 400], WindowWidth=[80, 2000], EchoNumbers=2, TemporalPositionIdentifier=3,
        DiffusionBValue=800.0,
    )  # fmt: skip
    header = read_header(data, "")
    left_out = ("tags", "sha256", "moment")
    found = {key: value for key, value in dataclasses.asdict(header).items() if key not in left_out}
    assert found == {
        "sop_class_uid": "1.2.840.10008.5.1.4.1.1.7", "series_uid": "1.2.4", "instance_uid": "1.2.3",
        "frame_of_reference_uid": "1.2.5", "acquisition_number": 6, "instance_number": 7,
        "image_type": ("DERIVED", "PRIMARY", "LOCALIZER"), "rows": 2, "columns": 3, "num_frames": 1,
        "samples_per_pixel": 1, "bits_stored": 12, "pixel_representation": 1, "rescale_slope": 1.5,
        "rescale_intercept": -1024.0, "rescale_type": "HU", "padding": (-2000, -2000), "gantry_tilt_deg": -15.5,
        "frame_planes": (), "frame_moments": (), "vois": (Voi(Window(40.0, 80.0, "LINEAR")),), "echo_number": 2,
        "temporal_position": 3, "diffusion_b_value": 800.0, "inverted": False, "has_modality_lut": False,
        "geometry_fault": "Image Position (Patient) (0020,0032) is missing", "findings": (),
    }  # fmt: skip


def test_header_of_a_bare_file():
    header = read_header(dicom_bytes(PIXELS, Modality=None), "")
    assert (header.rescale_slope, header.rescale_intercept, header.rescale_type) == (1.0, 0.0, None)
    nothing = ("series_uid", "frame_of_reference_uid", "acquisition_number", "instance_number", "padding",
               "gantry_tilt_deg", "echo_number", "temporal_position", "diffusion_b_value")  # fmt: skip
    assert [getattr(header, name) for name in nothing] == [None] * len(nothing)
    assert (header.image_type, header.frame_planes, header.vois) == ((), (), (Voi(),))


@pytest.mark.parametrize("claimed", ["2147483648", "99999999999999999999"])
def test_a_claim_of_frames_without_groups_for_them_is_not_followed(claimed):
    def claim(dataset):
        dataset.NumberOfFrames = claimed

    header = read_header(changed(enhanced(), claim), "")  # within the test's patience, not in hours
    assert (header.num_frames, header.frame_moments, header.frame_planes) == (int(float(claimed)), (), ())
    assert header.vois == (Voi(),)


def test_header_reads_no_pixels(monkeypatch):
    data = dicom_bytes(PIXELS)
    assert read_header(data[: len(data) - PIXELS.nbytes], "").rows == 2


@pytest.mark.parametrize(
    ("written", "signed", "expected"), [(63536, 1, (-2000, -2000)), (63536, 0, (63536, 63536)), (5, 1, (5, 5))]
)
def test_padding_value_is_a_stored_value(written, signed, expected):
    dataset = dcmread(io.BytesIO(dicom_bytes(PIXELS, PixelRepresentation=0, PixelPaddingValue=written)))
    dataset["PixelPaddingValue"].VR = "US"
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    data = buffer.getvalue()
    element = b"\x28\x00\x03\x01US\x02\x00"
    assert data.count(element) == 1
    data = data.replace(element + b"\x00\x00", element + bytes([signed, 0]))
    assert read_header(data, "").padding == expected


def test_a_uid_that_is_a_word_is_compared_and_does_not_cross(caplog, recwarn):
    data = dicom_bytes(PIXELS, SeriesInstanceUID="1.2.34567890")
    one, other = (data.replace(b"1.2.34567890", word) for word in (b"DOE^JANE^^^^", b"anonymized\0\0"))
    uid = read_header(one, "").series_uid
    assert uid and "DOE" not in uid
    assert uid == read_header(one + b"", "").series_uid != read_header(other, "").series_uid
    assert not caplog.records and not list(recwarn)  # pydicom would quote it in both


def test_what_is_no_instance_has_no_header():
    empty = Dataset()
    empty.PatientID = "MRN-31337"
    buffer = io.BytesIO()
    empty.save_as(buffer, implicit_vr=False, little_endian=True)
    with pytest.raises(ImageError, match="no DICOM instance"):
        read_header(buffer.getvalue(), "x.dcm")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_values_read_as_spelled_are_those_that_pydicom_reads():
    """`numbers` and `texts` skip pydicom's objects; here they are asked for."""
    compared = 0
    for path in sorted((Path(pydicom.data.__file__).parent / "test_files").glob("*.dcm")):
        try:
            theirs = pydicom.dcmread(path, force=True, stop_before_pixels=True)
            ours = parse(path.read_bytes(), path.name, stop_before_pixels=True)
        except Exception:  # broken on purpose; test_imaging_dicom_files has them all
            continue
        for element in theirs:
            values = element.value if element.VM > 1 else [element.value]
            if element.keyword not in ours or element.VM == 0 or values == ["1A"]:  # badVR.dcm's number of frames
                continue
            if element.VR in ("DS", "IS"):
                assert numbers(ours, element.keyword) == tuple(map(float, values)), (path.name, element.keyword)
            elif element.VR in ("CS", "UI", "LO"):
                assert texts(ours, element.keyword) == tuple(str(value).strip() for value in values), path.name
            else:
                continue
            compared += 1
    assert compared > 600
