import hashlib
import io
import pickle
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from medsiglip.imaging import FileProblem, ImageError, Picture, list_files, open_images, read_pictures


def png(path, value=7):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((2, 3), value, np.uint8)).save(path, "PNG")
    return path


@pytest.fixture
def study(tmp_path):
    folder = tmp_path / "study"
    for name in ("b.png", "a.png", "deep/c.dcm", "deep/IM0001", "odd.5"):
        png(folder / name)
    for name in (".hidden", ".git/config", "DICOMDIR", "labels.csv", "CARD.md", "x.nii.gz", "notes.TXT"):
        png(folder / name)
    return folder


def names(listed, folder):
    return [path.relative_to(folder).as_posix() for path in listed.files]


# list_files


def test_folder_is_recursive_sorted_and_without_other_files(study):
    listed = list_files([study])
    assert names(listed, study) == ["a.png", "b.png", "deep/IM0001", "deep/c.dcm", "odd.5"]
    assert listed.problems == []


def test_files_keep_their_order_and_any_extension(study):
    listed = list_files([str(study / "b.png"), study / "labels.csv", study / "a.png"])
    assert names(listed, study) == ["b.png", "labels.csv", "a.png"]


def test_globs(study):
    assert names(list_files([f"{study}/*.png"]), study) == ["a.png", "b.png"]
    assert names(list_files([f"{study}/**/*.dcm"]), study) == ["deep/c.dcm"]


def test_a_file_with_brackets_is_not_a_glob(tmp_path):
    path = png(tmp_path / "scan[1].png")
    assert list_files([path]).files == [path]


def test_list_file_is_relative_to_its_folder(study, tmp_path, monkeypatch):
    (study / "list.txt").write_text("\ufeffb.png\r\n\n# a comment\n  deep/c.dcm  \nmissing.png\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    listed = list_files([f"@{study}/list.txt"])
    assert names(listed, study) == ["b.png", "deep/c.dcm"]
    assert listed.problems == [FileProblem("missing.png", "no such file or folder; check the path")]


def test_standard_input(study, monkeypatch):
    monkeypatch.chdir(study)
    monkeypatch.setattr(sys, "stdin", io.StringIO("a.png\n\nnope.png\n"))
    listed = list_files(["-"])
    assert [str(path) for path in listed.files] == ["a.png"]
    assert [problem.file for problem in listed.problems] == ["nope.png"]


def test_every_empty_source_is_a_problem(tmp_path, monkeypatch):
    empty = tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "none.txt").write_text("# nothing\n")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9.png\n")
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    cases = {
        str(empty): "the folder holds no pictures; ",
        str(tmp_path / "no*.png"): "matches no file; ",
        str(tmp_path / "em*"): "matches folders only; ",
        str(tmp_path / "gone.png"): "no such file or folder; ",
        f"@{tmp_path}/none.txt": "the list names no files; ",
        f"@{tmp_path}/gone.txt": "no such list; ",
        f"@{tmp_path}/latin.txt": "the list cannot be read; ",
        "-": "the list names no files; ",
        "x" * 5000: "no such file or folder; ",
        "bad\0name": "no such file or folder; ",
        "/dev/null": "neither a file nor a folder; ",
    }
    listed = list_files(list(cases))
    assert listed.files == []
    assert [problem.file for problem in listed.problems] == list(cases)
    for problem, expected in zip(listed.problems, cases.values(), strict=True):
        assert problem.reason.startswith(expected)
        assert str(problem) == f"{problem.file}: {problem.reason}"


def test_empty_name_is_not_the_working_directory():
    assert list_files([""]) == (
        [],
        [FileProblem("(empty path)", "an empty name; name a file, folder or glob")],
    )


def test_no_sources():
    assert len(list_files([]).problems) == 1


def test_one_bad_source_does_not_stop_the_others(study):
    listed = list_files(["gone.png", study / "a.png"])
    assert names(listed, study) == ["a.png"] and len(listed.problems) == 1


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
