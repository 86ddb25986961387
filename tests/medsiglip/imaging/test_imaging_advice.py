"""Each error line that names a command, a package or a conversion, and that what it advises works."""

import io
import os
import re
import shlex
import shutil
import subprocess

import numpy as np
import pytest
import SimpleITK
from PIL import Image
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.pixels import get_decoder

from medsiglip.imaging import FileProblem, ImageError, Picture, Volume, open_images, open_pictures
from medsiglip.imaging.dicom.instance import decode_dicom
from medsiglip.imaging.dicom.pixels import _PLUGINS
from tests.medsiglip.imaging.dicom_writer import dicom_bytes
from tests.medsiglip.imaging.made_series import ct_file

MPEG4 = "1.2.840.10008.1.2.4.102"


@pytest.fixture
def ffmpeg():
    if not shutil.which("ffmpeg") or not shutil.which("dcmdump"):
        message = "ffmpeg and dcmdump are not here; install the packages ffmpeg and dcmtk (make system)"
        if os.environ.get("MEDGEMMA_REQUIRE") == "1":
            pytest.fail(message)
        pytest.skip(message)


def run(command, folder):
    subprocess.run(shlex.split(command), cwd=folder, check=True, capture_output=True, timeout=60)


def reason_of(source, **options):
    with pytest.raises(ImageError) as caught:
        list(open_images(source, **options))
    return caught.value.reason


def made_clip(path):
    run(f"ffmpeg -f lavfi -i testsrc=size=64x48:rate=25:duration=0.2 -pix_fmt yuv420p {path.name}", path.parent)


def video_dicom(stream):
    tags = {"SamplesPerPixel": 3, "PhotometricInterpretation": "YBR_PARTIAL_420", "PlanarConfiguration": 0}
    dataset = dcmread(io.BytesIO(dicom_bytes(np.zeros((48, 64, 3), np.uint8), **tags)))
    dataset.NumberOfFrames, dataset.file_meta.TransferSyntaxUID = 5, MPEG4
    dataset.PixelData = encapsulate([stream], has_bot=False)
    dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["clip.mp4", "clip.avi", "clip.mkv", "clip.mpg"])
def test_frames_of_a_video_by_the_command_that_is_named(tmp_path, ffmpeg, name):
    made_clip(tmp_path / name)
    reason = reason_of(str(tmp_path / name))
    assert reason.startswith("a video (")
    (command,) = re.findall("`(.*?)`", reason)
    run(command.replace("FILE", name), tmp_path)
    frames = list(open_images(f"{tmp_path}/frame_*.png"))
    assert len(frames) == 5 and {frame.pixels.shape for frame in frames} == {(48, 64, 3)}


def test_frames_of_a_dicom_video_by_the_commands_that_are_named(tmp_path, ffmpeg):
    made_clip(tmp_path / "clip.mp4")
    (tmp_path / "clip.dcm").write_bytes(video_dicom((tmp_path / "clip.mp4").read_bytes()))
    reason = reason_of(str(tmp_path / "clip.dcm"))
    assert reason.startswith("a video (MPEG-4 AVC/H.264 High Profile / Level 4.1), which is not read here")
    for command in re.findall("`(.*?)`", reason):
        run(command.replace("FILE", "clip.dcm"), tmp_path)
    assert len(list(open_images(f"{tmp_path}/frame_*.png"))) == 5


def test_pictures_in_the_boxes_of_a_video_are_no_video():
    assert "a video" not in reason_of(b"\0\0\0\x18ftypheic" + bytes(100))


def test_plugins_that_are_named_are_those_that_pydicom_knows():
    for syntax, packages in _PLUGINS.items():
        decoder = get_decoder(syntax)
        known = " ".join([*decoder.missing_dependencies, *decoder.available_plugins]).replace("gdcm", "python-gdcm")
        for package in packages.split():
            assert package.split("-")[0] in known, (syntax, package)


def test_a_plugin_that_has_failed_is_not_advised():
    data = dicom_bytes(np.zeros((8, 8), np.uint8))
    dataset = dcmread(io.BytesIO(data))
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.90"
    dataset.PixelData = encapsulate([b"\xff\x4f\xff\x51" + bytes(60)])
    dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    with pytest.raises(ImageError) as caught:
        list(decode_dicom(buffer.getvalue(), "voi", "film.dcm"))
    assert "pip install" not in caught.value.reason


def test_a_nifti_of_several_volumes_by_the_options_that_are_named(tmp_path):
    import nibabel

    values = np.arange(120, dtype=np.int16).reshape(3, 4, 5, 2)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "bold.nii.gz")
    reason = reason_of(str(tmp_path / "bold.nii.gz"))
    (python,) = re.findall(r"select=(\{.*?\}) in Python", reason)
    (volume,) = open_images(str(tmp_path / "bold.nii.gz"), select=eval(python))
    assert isinstance(volume, Volume) and volume.voxels.shape == (5, 4, 3)


def test_an_unknown_element_type_by_the_one_that_is_named(tmp_path):
    path = tmp_path / "scan.mha"
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.zeros((3, 4, 5), np.int16)), str(path))
    odd = tmp_path / "odd.mha"
    odd.write_bytes(path.read_bytes().replace(b"MET_SHORT", b"MET_LARGE"))
    assert "save them as MET_SHORT" in reason_of(str(odd))
    assert [type(item) for item in open_images(str(path))] == [Volume]


def test_a_ct_policy_for_another_picture_by_the_one_that_is_named():
    data = dicom_bytes(np.arange(16, dtype=np.uint16).reshape(4, 4), Modality="MR")
    with pytest.raises(ImageError, match="use voi"):
        list(open_pictures(data, "ct-report"))
    assert [type(item) for item in open_pictures(data, "voi")] == [Picture]


def test_arrays_of_other_depths_by_the_conversion_that_is_named():
    deep = np.linspace(0, 4095, 16).reshape(4, 4)
    with pytest.raises(ImageError, match=r"scale the values to 0..255 and convert with .astype\('uint8'\)"):
        Picture.from_array(deep)
    assert Picture.from_array((deep / 4095 * 255).astype("uint8")).pixels.max() == 255


def test_an_unusual_picture_by_the_format_that_is_named(tmp_path):
    buffer = io.BytesIO()
    Image.new("L", (8, 8), 77).save(buffer, "PNG")
    assert "save it as plain PNG" in reason_of(buffer.getvalue()[:-30])
    (picture,) = open_images(buffer.getvalue())
    assert picture.pixels.max() == 77


def test_slices_at_an_angle_by_the_call_that_is_named():
    coronal = (1, 0, 0, 0, 0, -1)
    files = [ct_file(np.full((4, 5), 1064, np.int16), (0, 2.0 * n, 0), coronal) for n in range(3)]
    (volume,) = open_images(files)
    with pytest.warns(UserWarning, match=r"Volume.reoriented\('SPL'\) gives axial slices"):
        list(volume.pictures())
    assert volume.reoriented("SPL").orientation == "axial"


def test_a_missing_slice_by_moving_the_file_away(tmp_path):
    for number in range(4):
        (tmp_path / f"{number}.dcm").write_bytes(ct_file(np.zeros((4, 4), np.int16), (0, 0, number)))
    (tmp_path / "2.dcm").write_bytes((tmp_path / "2.dcm").read_bytes()[:-8])
    assert "copy the file again, or move it away" in reason_of(str(tmp_path))
    (tmp_path / "2.dcm").unlink()
    problems: list[FileProblem] = []
    (volume,) = open_images(str(tmp_path), on_problem=problems.append)
    assert not problems and [finding.kind for finding in volume.findings] == ["gap"]
