"""What cannot be shown is refused in one line that says why and what to do, and quotes nothing of the file."""

import numpy as np
import pytest
from pydicom.uid import (
    JPEGBaseline8Bit,
    JPEGLSLossless,
)

from medsiglip.imaging import ImageError
from medsiglip.imaging.dicom.instance import decode_dicom
from tests.medsiglip.imaging.dicom_writer import changed, decode, dicom_bytes


def refusal(data, policy="voi"):
    with pytest.raises(ImageError) as caught:
        decode(data, policy)
    message = str(caught.value)
    assert message.startswith("scan.dcm: ") and "; " in message and "\n" not in message
    assert "Zebedee" not in message and "Quimby" not in message and "31337" not in message
    assert caught.value.__context__ is None or caught.value.__suppress_context__  # no traceback of theirs
    return caught.value.reason


def broken(change):
    return changed(dicom_bytes(np.arange(16, dtype=np.uint16).reshape(4, 4)), change)


def test_no_pixel_data():
    def remove(dataset):
        del dataset.PixelData, dataset.Rows, dataset.Columns
        dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.88.11"  # a structured report
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID

    assert refusal(broken(remove)) == "no pixel data (a structured report?); give an image instance"


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.97])
def test_truncated_native_file(keep):
    data = dicom_bytes(np.arange(4096, dtype=np.uint16).reshape(64, 64))
    assert "of 8192 bytes of pixel data; " in refusal(data[: int(len(data) * keep)])


def test_truncated_in_the_header():
    data = dicom_bytes(np.arange(4096, dtype=np.uint16).reshape(64, 64))
    reasons = [refusal(data[:length]) for length in range(132, len(data) - 8192)]
    assert all("truncated" in reason and "structured report" not in reason for reason in reasons)
    found = [reason for reason in dict.fromkeys(reasons) if "bytes of pixel data" not in reason]
    assert (
        "no pixel data: truncated inside its header (an image without Rows and Columns); copy the file again" in found
    )
    assert "no pixel data although Rows and Columns are there (truncated?); copy the file again" in found


def test_unsupported_transfer_syntax_is_named():
    def set_mpeg(dataset):
        dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.102"
        dataset["PixelData"].is_undefined_length = True
        dataset.PixelData = b"\xfe\xff\x00\xe0\x00\x00\x00\x00\xfe\xff\x00\xe0\x04\x00\x00\x00abcd"

    reason = refusal(broken(set_mpeg))
    assert "MPEG-4" in reason and "dcmdump +W . +P 7fe0,0010 FILE" in reason and "ffmpeg -i FILE.1.raw" in reason


def test_an_unregistered_transfer_syntax_is_not_quoted():
    data = broken(lambda dataset: None)
    uid = b"1.2.840.10008.1.2.1\0"
    assert data.count(uid) == 1
    reason = refusal(data.replace(uid, b"1.2.3.19570123.31337"))
    assert reason.startswith("a transfer syntax that is not in the standard's register is not supported; ")


def test_missing_plugin_is_named(monkeypatch):
    from pydicom.pixels.decoders.base import Decoder

    monkeypatch.setattr(Decoder, "is_available", False)
    reason = refusal(dicom_bytes(np.zeros((2, 2), np.uint8)))
    assert reason.startswith("transfer syntax Explicit VR Little Endian") and "pip install" in reason


def test_a_file_of_too_many_values_is_refused_with_its_size():
    def enlarge(dataset):
        dataset.Rows, dataset.Columns, dataset.NumberOfFrames = 10000, 10000, 11

    reason = refusal(broken(enlarge))
    assert "10000 rows x 10000 columns x 1 samples x 11 frames" in reason
    assert str(10000 * 10000 * 11) in reason and str(2**30) in reason


def test_a_frame_of_too_many_values_is_refused_with_its_size():
    def enlarge(dataset):
        dataset.Rows, dataset.Columns = 60000, 60000

    reason = refusal(broken(enlarge))
    assert "60000 rows x 60000 columns x 1 samples is 3600000000 values" in reason and str(2**27) in reason


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("digits", ["9" * 300, str(2**31)])
def test_a_number_of_frames_that_cannot_be_is_not_printed(digits):
    reason = refusal(broken(lambda dataset: setattr(dataset, "NumberOfFrames", digits)))
    assert reason.startswith("rows, columns, samples or frames of a number that cannot be; ")


@pytest.mark.parametrize(
    ("keyword", "value", "expected"),
    [
        ("PhotometricInterpretation", "HSV", "HSV with 1 samples"),
        ("PhotometricInterpretation", "YBR_PARTIAL_420", "YBR_PARTIAL_420 with 1 samples"),
        ("SamplesPerPixel", 4, "4 samples"),
        ("Rows", 0, "0 rows"),
        ("BitsAllocated", 13, "16 bits stored in 13 bits allocated are not read"),
        ("BitsAllocated", 64, "16 bits stored in 64 bits allocated are not read"),
        ("BitsStored", 17, "17 bits stored in 16 bits allocated are not read"),
        ("BitsStored", 0, "0 bits stored"),
        ("PixelRepresentation", 2, "neither 0 nor 1"),
    ],
)
def test_bad_tags(keyword, value, expected):
    assert expected in refusal(broken(lambda dataset: setattr(dataset, keyword, value)))


def test_an_unknown_photometric_interpretation_is_not_quoted():
    data = broken(lambda dataset: None)
    assert data.count(b"MONOCHROME2 ") == 1
    assert "(missing or unknown) with 1 samples" in refusal(data.replace(b"MONOCHROME2 ", b"QUIMBY  1957"))


def test_a_rescale_that_is_no_number():
    data = dicom_bytes(np.zeros((2, 2), np.uint16), RescaleSlope=123456789012, RescaleIntercept=0)
    assert data.count(b"123456789012.0") == 1
    expected = "Rescale Slope (0028,1053) is no number; export the image again"
    assert refusal(data.replace(b"123456789012.0", b"nan           ")) == expected


def test_damaged_window_text_does_not_leak():
    data = dicom_bytes(np.zeros((2, 2), np.uint16), WindowCenter=123456789012, WindowWidth=4096)
    assert data.count(b"123456789012.0") == 1
    (frame,) = decode_dicom(data.replace(b"123456789012.0", b"Zebedee^Quimby"), "voi", "")
    finding = frame.findings[0]
    assert finding.text == "Window Center (0028,1050) is no number; the window is not used"
    assert frame.policy == "full-range"


def test_nothing_is_logged_or_warned_of_a_damaged_file(caplog, recwarn):
    data = dicom_bytes(np.zeros((2, 2), np.uint16), WindowCenter=123456789012, WindowWidth=4096)
    list(decode_dicom(data.replace(b"123456789012.0", b"Zebedee^Quimby"), "voi", ""))
    assert not caplog.records and not list(recwarn)


def test_patient_tags_are_not_parsed():
    from medsiglip.imaging.dicom.parse import parse

    dataset = parse(dicom_bytes(np.zeros((2, 2), np.uint16)), "")
    assert "Rows" in dataset and "PixelData" in dataset
    assert "PatientName" not in dataset and "PatientID" not in dataset


def test_a_panic_of_the_rust_rle_decoder_is_an_image_error(monkeypatch):
    from pydicom.pixels.decoders.base import Decoder

    class PanicException(BaseException):
        """As pyo3_runtime's, which pylibjpeg-rle raises on damaged data."""

    def panic(*_args, **_options):
        raise PanicException

    monkeypatch.setattr(Decoder, "as_array", panic)
    with pytest.raises(ImageError, match="cannot be decoded"):
        decode(dicom_bytes(np.zeros((2, 2), np.uint8)))


def test_gdcm_is_kept_for_what_nothing_else_decodes():  # it aborts the process on damaged JPEG
    from pydicom.pixels import get_decoder

    from medsiglip.imaging.dicom.pixels import _plugins

    assert "gdcm" not in _plugins(get_decoder(JPEGBaseline8Bit))
    assert _plugins(get_decoder(JPEGLSLossless)) == ["gdcm"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, MemoryError])
def test_stopping_the_program_is_not_an_image_error(monkeypatch, error):
    from pydicom.pixels.decoders.base import Decoder

    def stop(*_args, **_options):
        raise error

    monkeypatch.setattr(Decoder, "as_array", stop)
    with pytest.raises(error):
        decode(dicom_bytes(np.zeros((2, 2), np.uint8)))
