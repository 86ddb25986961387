"""`medsiglip check --table`: decodes, and names what cannot be read and what is there under two names."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import PIL.Image
import pytest
from tests.medsiglip.imaging.test_near_duplicates import changed, texture

from medsiglip.cli import main
from tests.data_cards.table.made import table_file


class Said(NamedTuple):
    status: int
    out: list[str]


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    def run(*words: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["medsiglip", "check", *map(str, words), "--quiet"])
        try:
            main()
            status = 0
        except SystemExit as left:
            status = int(left.code or 0)
        return Said(status, capsys.readouterr().out.splitlines())

    return run


def write(folder: Path, **pictures: PIL.Image.Image) -> None:
    for name, picture in pictures.items():
        picture.save(folder / f"{name}.png")


def test_pictures_that_cannot_be_read_and_near_duplicates_across_sides_and_groups(
    tmp_path: Path, check: Callable[..., Said]
) -> None:
    copy, again = changed(texture(0), degrees=5), changed(texture(1), mirror=True)
    write(tmp_path, **{f"p{n}": PIL.Image.fromarray(texture(n)) for n in range(4)})
    write(tmp_path, copy=PIL.Image.fromarray(copy), again=PIL.Image.fromarray(again), same=PIL.Image.fromarray(again))
    (tmp_path / "broken.png").write_bytes((tmp_path / "p0.png").read_bytes()[:3000])
    (tmp_path / "empty.png").touch()
    rows = ["p0.png,x,train,0", "copy.png,y,test,1", "p1.png,x,train,2", "again.png,x,train,3", "same.png,x,train,3"]
    rows += ["p2.png,y,val,4", "broken.png,y,train,5", "empty.png,x,test,6", "gone.png,y,train,7"]
    path = table_file(tmp_path, "file,label,split,patient\n" + "\n".join(rows) + "\n")
    said = check("--table", path)
    faults = [line.removeprefix("fault: ") for line in said.out if line.startswith("fault: ")]
    assert said.status == 1
    assert faults[0].startswith("T.csv row 10: 'gone.png': no such file")
    assert faults[1].startswith(f"T.csv row 8: {tmp_path / 'broken.png'}: ")
    assert faults[2].startswith(f"T.csv row 9: {tmp_path / 'empty.png'}: the file is empty")
    assert faults[3].startswith("near-duplicates on train and test: T.csv row 2 and T.csv row 3 (correlation 0.9")
    assert [fault.split(" (")[0] for fault in faults[4:]] == [
        "near-duplicates in two groups: T.csv row 4 and T.csv row 5",
        "near-duplicates in two groups: T.csv row 4 and T.csv row 6",
    ]
    assert said.out[-1] == "6 pictures decoded (6 frames), 6 faults"


def test_a_table_without_faults_exits_0_and_comparing_can_be_left_out(
    tmp_path: Path, check: Callable[..., Said]
) -> None:
    write(tmp_path, a=PIL.Image.fromarray(texture(0)), b=PIL.Image.fromarray(changed(texture(0), degrees=5)))
    path = table_file(tmp_path, "file,label,patient\na.png,x,1\nb.png,y,2\n")
    said = check("--table", path, "--no-near-duplicates")
    assert (said.status, said.out[-1]) == (0, "2 pictures decoded (2 frames), 0 faults")
    assert "near" not in "".join(said.out)
    assert check("--table", path).status == 1


def test_folders_and_volumes_count_by_frame(tmp_path: Path, kit: Path, check: Callable[..., Said]) -> None:
    volume = kit / "wsi-nifti-real" / "images" / "totalseg_example_ct_sm.nii.gz"
    slices = sorted((kit / "dicom-real" / "images").glob("CT_series3_*.dcm"))
    (tmp_path / "study").mkdir()
    for file in slices:
        (tmp_path / "study" / file.name).write_bytes(file.read_bytes())
    path = table_file(tmp_path, f"scan,label\n{volume},x\nstudy,y\n")
    said = check("--table", path)
    assert said.status == 0, said.out
    assert said.out[-1].startswith("2 pictures decoded (")


def test_pictures_that_are_only_to_be_asked_about_need_no_label(tmp_path: Path, check: Callable[..., Said]) -> None:
    write(tmp_path, a=PIL.Image.fromarray(texture(0)))
    assert check("--table", table_file(tmp_path, "file,note\na.png,x\n")).status == 0
    assert check().status == 1
