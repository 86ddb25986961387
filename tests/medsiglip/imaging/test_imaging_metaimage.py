"""MetaImage files and pairs of files, written by SimpleITK and nibabel and read again from folders, zips and memory."""

import zipfile

import nibabel
import numpy as np
import pytest
import SimpleITK

from medsiglip.imaging import ImageError, Picture, Volume, open_images, open_pictures
from medsiglip.imaging.volumes.metaimage import decode_metaimage, is_metaimage

SPACING, ORIGIN = (0.7, 0.8, 2.5), (-40.0, 12.5, 7.0)
TURNED = (0, 1, 0, -1, 0, 0, 0, 0, 1)


def values(dtype=np.int16, shape=(3, 4, 5)):
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def itk_image(array, direction=(1, 0, 0, 0, 1, 0, 0, 0, 1), vector=False):
    image = SimpleITK.GetImageFromArray(array, isVector=vector)
    image.SetSpacing(SPACING)
    image.SetOrigin(ORIGIN)
    image.SetDirection(direction)
    return image


def only(source, **options):
    (item,) = open_images(source, **options)
    return item


def same_in_space(volume, image):
    array = SimpleITK.GetArrayFromImage(image)
    for index in np.ndindex(volume.voxels.shape):
        point = (volume.affine_lps_mm @ [*index, 1])[:3]
        column, row, depth = image.TransformPhysicalPointToIndex(point)
        assert volume.voxels[index] == array[depth, row, column]


@pytest.mark.parametrize("name", ["scan.mha", "scan.mhd"])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("direction", [(1, 0, 0, 0, 1, 0, 0, 0, 1), TURNED])
def test_what_simpleitk_writes_lies_where_it_says(tmp_path, name, compressed, dtype, direction):
    image = itk_image(values(dtype), direction)
    SimpleITK.WriteImage(image, str(tmp_path / name), useCompression=compressed)
    volume = only(str(tmp_path))  # a folder: the .raw or .zraw is no picture of its own
    assert isinstance(volume, Volume) and volume.unit == "unknown" and volume.findings == ()
    np.testing.assert_allclose(sorted(volume.spacing_mm), sorted(SPACING))
    same_in_space(volume, image)


def test_a_file_of_voxels_that_is_named_is_read_with_its_header(tmp_path):
    SimpleITK.WriteImage(itk_image(values()), str(tmp_path / "scan.mhd"))
    nibabel.save(nibabel.Nifti1Pair(values().T, np.diag([-1.0, -1, 1, 1])), tmp_path / "other.hdr")
    for name in ("scan.raw", "scan.mhd", "other.img", "other.hdr"):
        np.testing.assert_array_equal(only(str(tmp_path / name)).voxels, values())
    assert [type(item) for item in open_images(str(tmp_path))] == [Volume, Volume]
    assert [type(item) for item in open_images(f"{tmp_path}/*")] == [Volume, Volume]


def test_pairs_inside_a_zip(tmp_path):
    SimpleITK.WriteImage(itk_image(values()), str(tmp_path / "scan.mhd"))
    with zipfile.ZipFile(tmp_path / "study.zip", "w") as archive:
        for name in ("scan.mhd", "scan.raw"):
            archive.write(tmp_path / name, f"ct/{name}")
    np.testing.assert_array_equal(only(str(tmp_path / "study.zip")).voxels, values())
    with pytest.raises(ImageError, match="give the path of the .mhd, beside its .raw or .zraw"):
        only((tmp_path / "study.zip").read_bytes())


def test_colour_is_pictures_and_time_points_are_chosen(tmp_path):
    rgb = values(np.uint8, (3, 4, 5, 3))
    SimpleITK.WriteImage(itk_image(rgb, vector=True), str(tmp_path / "rgb.mha"))
    pictures = list(open_images(str(tmp_path / "rgb.mha")))
    assert [type(picture) for picture in pictures] == [Picture] * 3
    np.testing.assert_array_equal([picture.pixels for picture in pictures], rgb)
    frames = SimpleITK.JoinSeries([itk_image(values()), itk_image(values() + np.int16(500))])
    SimpleITK.WriteImage(frames, str(tmp_path / "time.mha"))
    with pytest.raises(ImageError, match="holds 2 volumes \\(2 time points\\), and one is read; choose it by time=1"):
        only(str(tmp_path / "time.mha"))
    np.testing.assert_array_equal(only(str(tmp_path / "time.mha"), select={"time": 2}).voxels, values() + 500)
    shown = list(open_pictures(str(tmp_path / "time.mha"), select={"time": 2}))
    assert len(shown) == 3


HEADER = "ObjectType = Image\nNDims = 3\nDimSize = 5 4 3\nElementType = MET_SHORT\n"


def made(header=HEADER, data=None, end="ElementDataFile = LOCAL\n"):
    return header.encode() + end.encode() + (values().tobytes() if data is None else data)


def test_what_the_header_does_not_say_is_said():
    decoded = decode_metaimage(made(), "scan.mha")
    assert [finding.kind for finding in decoded.findings] == ["no-orientation", "no-spacing"]
    np.testing.assert_array_equal(decoded.values, values())


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (made(data=b"\0" * 10), "truncated: 10 of 120 bytes"),
        (made(HEADER.replace("5 4 3", "5 4 x")), "dimsize is no number"),
        (made(HEADER.replace("5 4 3", "5 4 0")), "NDims and DimSize are no size"),
        (made(HEADER.replace("5 4 3", "50000 50000 300")), "more than the limit"),
        (made(HEADER.replace("MET_SHORT", "MET_STRING")), "save them as MET_SHORT"),
        (made(HEADER + "ElementNumberOfChannels = 3\n"), "save one channel a file"),
        (made(HEADER + "BinaryData = False\n"), "save them with BinaryData = True"),
        (made(HEADER + "CompressedData = True\n"), "damaged or truncated compressed voxels"),
        (made(HEADER + "TransformMatrix = 1 0 0 1 0 0 0 0 1\n"), "spacing or directions are none"),
        (made(HEADER + "Offset = 1 2\n"), "offset has not 3 numbers"),
        (made(end="ElementDataFile = ../../etc/passwd\n"), "no file of the same folder"),
        (made(end="ElementDataFile = slice%03d.raw 1 3 1\n"), "no file of the same folder"),
        (made(end="ElementDataFile = scan.raw\n"), "give the path of the .mhd"),
        (made(HEADER + "HeaderSize = 900\n"), "HeaderSize is no place"),
    ],
)
def test_lies_and_damage(data, reason):
    assert is_metaimage(data)
    with pytest.raises(ImageError, match="scan.mhd: ") as caught:
        decode_metaimage(data, "scan.mhd")
    assert reason in caught.value.reason


def test_big_endian_and_data_at_the_end():
    data = b"front matter" + values().astype(">i2").tobytes()
    decoded = decode_metaimage(made(HEADER + "BinaryDataByteOrderMSB = True\nHeaderSize = -1\n", data), "scan.mha")
    np.testing.assert_array_equal(decoded.values, values())
