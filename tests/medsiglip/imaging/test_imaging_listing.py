import io
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medsiglip.imaging import FileProblem, list_files
from medsiglip.imaging.source import Source


def png(path, value=7):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((2, 3), value, np.uint8)).save(path, "PNG")
    return path


@pytest.fixture
def study(tmp_path):
    folder = tmp_path / "study"
    for name in ("b.png", "a.png", "deep/c.dcm", "deep/IM0001", "odd.5"):
        png(folder / name)
    for name in (".hidden", ".git/config", "DICOMDIR", "labels.csv", "CARD.md", "x.tar.gz", "notes.TXT", "more.zip"):
        png(folder / name)
    return folder


def names(listed, folder):
    return [Path(source.name).relative_to(folder).as_posix() for source in listed.files]


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
    assert list_files([path]).files == [Source(str(path))]


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
    assert [source.name for source in listed.files] == ["a.png"]
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
        shown = problem.file.replace("\0", "\\x00")
        assert str(problem) == f"{shown}: {problem.reason}"


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


def test_nifti_is_found_and_other_packed_files_are_not(tmp_path):
    for name in ("a.nii", "b.nii.gz", "C.NII.GZ", "d.gz", "e.tar.gz"):
        (tmp_path / name).write_bytes(b"x")
    assert names(list_files([tmp_path]), tmp_path) == ["C.NII.GZ", "a.nii", "b.nii.gz"]


def test_a_zip_is_known_by_its_content_where_it_is_named(tmp_path):
    for name in ("study.zip", "study", "odd.dcm"):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("x.png", b"x")
    (tmp_path / "not.zip").write_bytes(b"hello")
    listed = list_files([tmp_path / "study.zip", tmp_path / "study", f"{tmp_path}/odd*", tmp_path / "not.zip"])
    folders = ["study.zip/x.png", "study/x.png", "odd.dcm/x.png", "not.zip"]
    assert (names(listed, tmp_path), listed.problems) == (folders, [])
    assert listed.files[0] == Source(str(tmp_path / "study.zip"), "x.png")
    assert names(list_files([tmp_path]), tmp_path) == ["odd.dcm", "study"]  # in a folder the extension decides
