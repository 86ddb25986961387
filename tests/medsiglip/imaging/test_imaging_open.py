import hashlib
import pickle
import subprocess
import sys
import weakref
import zipfile

import numpy as np
import pytest
from PIL import Image

from medsiglip.imaging import ImageError, Picture, open_images, read_pictures
from medsiglip.imaging.open import open_pictures, open_series
from medsiglip.imaging.volumes import read_series
from tests.medsiglip.imaging.made_series import ct_file, write_series


def png(path, value=7):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((2, 3), value, np.uint8)).save(path, "PNG")
    return path


@pytest.fixture
def study(tmp_path):
    folder = tmp_path / "study"
    for name in ("b.png", "a.png", "deep/c.dcm", "deep/IM0001", "odd.5"):
        png(folder / name)
    return folder


# read_pictures and open_images


def test_picture_of_a_file(tmp_path):
    path = png(tmp_path / "a.png", 9)
    (picture,) = read_pictures(path)
    assert (picture.file, picture.frame, picture.modality, picture.policy) == (str(path), 0, None, "stored")
    assert picture.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert picture.pixels.shape == (2, 3, 3) and picture.pixels.dtype == np.uint8
    with pytest.raises(ValueError, match="read-only"):
        picture.pixels[0, 0, 0] = 1


def test_content_decides_not_the_extension(tmp_path):
    assert read_pictures(png(tmp_path / "really_a_png.dcm"))[0].pixels.max() == 7


def test_open_images_takes_anything(study):
    array = np.full((4, 4), 5, np.uint8)
    image = Image.fromarray(array)
    picture = Picture.from_array(array)
    sources = [study, str(study / "a.png"), (study / "b.png").read_bytes(), array, image, picture]
    pictures = list(open_images(sources))
    assert len(pictures) == 5 + 5
    assert [item.file for item in pictures[5:]] == [str(study / "a.png"), "", "", "", ""]
    assert pictures[-1] is picture
    assert len(list(open_images(array))) == 1


def test_open_images_is_lazy_and_stops_at_the_first_bad_file(tmp_path):
    good, bad = png(tmp_path / "a.png"), tmp_path / "b.png"
    bad.write_bytes(b"\x89PNG\r\n\x1a\nnonsense")
    pictures = open_images([good, bad])
    assert next(pictures).file == str(good)
    with pytest.raises(ImageError, match="b.png: ") as caught:
        next(pictures)
    assert caught.value.file == str(bad)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty; "),
        (b"hello" * 50, "not a picture in a format read here; "),
        (b"\0" * 400, "not a pic"),
    ],
)
def test_bad_files(tmp_path, content, reason):
    path = tmp_path / "bad.png"
    path.write_bytes(content)
    with pytest.raises(ImageError) as caught:
        read_pictures(path)
    assert str(caught.value).startswith(f"{path}: {reason}")


def test_bad_paths(tmp_path):
    with pytest.raises(ImageError, match="gone.png: no such file or folder; check the path"):
        read_pictures(tmp_path / "gone.png")
    with pytest.raises(ImageError, match="a folder, not a file; use open_images"):
        read_pictures(tmp_path)
    with pytest.raises(ImageError, match="cannot be read"):
        read_pictures("bad\0name")
    with pytest.raises(ImageError, match="the folder holds no pictures"):
        list(open_images(tmp_path))


def test_unknown_policy_fails_at_once(tmp_path):
    for call in (read_pictures, open_images):
        with pytest.raises(ValueError, match="unknown pixel policy 'window'; use one of voi, full-range"):
            call(tmp_path / "a.png", policy="window")


# Volumes among pictures


AFFINE = np.diag([2.0, 0.5, 0.5, 1.0])[[2, 1, 0, 3]]  # axial: slices 2 mm apart along z, rows along y, columns along x


@pytest.fixture
def patient(tmp_path):
    """A folder with a picture, six CT slices in shuffled files, a film, a NIfTI volume and a picture."""
    import nibabel

    folder = tmp_path / "patient"
    voxels = np.random.default_rng(0).integers(-1000, 1000, (6, 8, 10), np.int16)
    png(folder / "a.png", 1)
    write_series(folder / "ct", voxels, AFFINE)
    (folder / "film.dcm").write_bytes(ct_file(voxels[0], (0, 0, 0), uids=("1.2.9", "1.2.8"), Modality="CR"))
    nibabel.save(nibabel.Nifti1Image(voxels.transpose(2, 1, 0), np.diag([0.5, 0.5, 2.0, 1.0])), folder / "v.nii.gz")
    png(folder / "z.png", 2)
    return folder, voxels


def outline(items, folder):
    return [(type(item).__name__, item.file.removeprefix(f"{folder}/")) for item in items]


WHOLE = [("Picture", "a.png"), ("Volume", "ct"), ("Picture", "film.dcm"), ("Volume", "v.nii.gz"), ("Picture", "z.png")]


def test_slices_become_a_volume_at_the_place_of_their_first_file(patient):
    folder, voxels = patient
    items = list(open_images(folder))
    assert outline(items, folder) == WHOLE
    np.testing.assert_array_equal(items[1].values_hu, voxels)
    assert len(items[1].files) == 6
    assert sorted(items[3].voxels.ravel()) == sorted(voxels.ravel())


def test_globs_lists_and_sequences_of_files_are_grouped_too(patient):
    folder, voxels = patient
    files = sorted((folder / "ct").iterdir())
    (folder.parent / "list.txt").write_text("\n".join(map(str, files)))
    for source in (f"{folder}/ct/*", f"@{folder.parent}/list.txt", files, list(map(str, files)), files[::-1]):
        (volume,) = open_images(source)
        np.testing.assert_array_equal(volume.values_hu, voxels)
    interrupted = [*files[:3], np.zeros((2, 2), np.uint8), *files[3:]]  # an array has its own place, slices do not meet
    assert [type(item).__name__ for item in open_images(interrupted)] == ["Volume", "Picture", "Volume"]


@pytest.mark.parametrize("in_memory", [False, True])
def test_zips_are_grouped_too(patient, in_memory):
    folder, voxels = patient
    path = folder.parent / "patient.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*.*")):
            archive.write(file, file.relative_to(folder))
    items = list(open_images(path.read_bytes() if in_memory else path))
    assert outline(items, path) == WHOLE
    np.testing.assert_array_equal(items[1].values_hu, voxels)
    folders = list(open_images(folder))
    assert [item.sha256 for item in items] == [item.sha256 for item in folders]


def test_bytes_of_any_format(patient):
    folder, _ = patient
    for name, kind in (("film.dcm", "Picture"), ("v.nii.gz", "Volume"), ("a.png", "Picture")):
        (item,) = open_images((folder / name).read_bytes())
        (same,) = open_images(folder / name)
        assert (type(item).__name__, item.file, item.sha256) == (kind, "", same.sha256)


def test_a_single_slice_stays_a_picture(patient):
    folder, _ = patient
    (picture,) = open_images(next((folder / "ct").iterdir()))
    assert isinstance(picture, Picture) and picture.modality == "CT"


def test_files_that_a_volume_leaves_out_are_named_in_its_findings_or_are_pictures(patient):
    folder, _ = patient
    copied = folder / "ct" / "copy.dcm"
    copied.write_bytes(sorted((folder / "ct").iterdir())[0].read_bytes())
    items = list(open_images(folder))
    assert outline(items, folder) == WHOLE
    used = {file for item in items for file in (getattr(item, "files", ()) or (item.file,))}
    used |= {file for item in items for finding in getattr(item, "findings", ()) for file in finding.files}
    assert used == {str(path) for path in folder.rglob("*.*")}


def test_open_pictures_groups_nothing_and_read_pictures_takes_nifti(patient):
    folder, voxels = patient
    pictures = list(open_pictures(folder))
    frames = [(str(path), 6 if ".nii" in path.name else 1) for path in sorted(folder.rglob("*.*"))]
    assert [picture.file for picture in pictures] == [name for name, count in frames for _ in range(count)]
    slices = read_pictures(folder / "v.nii.gz")
    assert [p.frame for p in slices] == list(range(6))
    (volume,) = open_images(folder / "v.nii.gz")
    for picture, shown in zip(slices, volume.pictures(), strict=True):
        np.testing.assert_array_equal(picture.pixels, shown.pixels)
        assert (picture.sha256, picture.policy) == (shown.sha256, shown.policy)


def test_series_are_found_without_decoding(patient):
    folder, _ = patient
    (series,) = open_series(folder)
    assert (series.shape, series.file) == ((6, 8, 10), f"{folder}/ct")
    with pytest.raises(ImageError, match="no such file"):
        open_series([folder, folder / "gone"])


def test_a_damaged_file_is_raised_in_its_turn_or_reported(patient):
    folder, _ = patient
    (folder / "b.png").write_bytes(png(folder / "a.png").read_bytes()[:50])
    (folder / "ct" / "0000.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 50)
    items = open_images(folder)
    assert next(items).file == f"{folder}/a.png"
    with pytest.raises(ImageError, match=r"b\.png: truncated"):
        next(items)
    problems = []
    found = list(open_images([folder, folder / "gone.dcm", folder / "z.png"], on_problem=problems.append))
    assert [problem.file.rpartition("/")[2] for problem in problems] == ["b.png", "0000.dcm", "gone.dcm"]
    assert [item.file.rpartition("/")[2] for item in found] == ["a.png", "ct", "film.dcm", "v.nii.gz", "z.png", "z.png"]


def test_one_volume_is_in_memory_at_a_time(tmp_path, monkeypatch):
    for number in range(3):
        write_series(tmp_path / f"{number}", np.zeros((3, 4, 4), np.int16), AFFINE, SeriesInstanceUID=f"1.2.{number}")
    seen = []

    def read_volume(series, pool):
        assert [reference() for reference in seen] == [None] * len(seen)
        volume = read_series.read_volume(series, pool)
        seen.append(weakref.ref(volume))
        return volume

    monkeypatch.setattr("medsiglip.imaging.open.read_volume", read_volume)
    for volume in open_images(tmp_path):
        del volume
    assert len(seen) == 3


# Picture and ImageError


def test_from_array():
    grey = np.array([[1, 2]], np.uint8)
    picture = Picture.from_array(grey, "mine")
    assert picture.pixels.tolist() == [[[1, 1, 1], [2, 2, 2]]]
    assert (picture.file, picture.policy, picture.modality) == ("mine", "stored", None)
    rgb = np.zeros((2, 2, 3), np.uint8)
    mine = Picture.from_array(rgb)
    rgb[:] = 9
    assert mine.pixels.max() == 0  # copied


def test_hash_of_arrays_sees_pixels_and_shape():
    def digest(height, width, value=0):
        return Picture.from_array(np.full((height, width), value, np.uint8)).sha256

    assert digest(2, 8) == digest(2, 8)
    assert len({digest(2, 8), digest(8, 2), digest(2, 8, 1)}) == 3


@pytest.mark.parametrize("bad", [np.zeros((2, 2)), np.zeros((2, 2, 4), np.uint8), np.zeros((0, 2), np.uint8)])
def test_from_array_refuses(bad):
    with pytest.raises(ImageError, match=r"picture in memory: got .*expected .*; "):
        Picture.from_array(bad)


def test_image_error_survives_a_worker_process():
    error = pickle.loads(pickle.dumps(ImageError("a.dcm", "broken; mend it")))
    assert (error.file, error.reason, str(error)) == ("a.dcm", "broken; mend it", "a.dcm: broken; mend it")
    assert isinstance(error, ValueError)


def test_import_is_light():
    heavy = "{'torch', 'transformers', 'pydicom', 'PIL', 'tifffile', 'skimage'}"
    code = f"import sys, medsiglip.imaging; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
