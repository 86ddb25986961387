"""`medgemma-data check --table`: what was understood, then the faults; nothing is decoded."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from data_cards.cli import main
from data_cards.table import read_table
from data_cards.table.check import check_table
from tests.data_cards.table.made import pictures, read, table_file

TEXT = "file,label,split,patient\na.png,x,train,1\nb.png,y,train,2\nc.png,y,val,3\nd.png,x,test,4\n"


class Said(NamedTuple):
    status: int
    out: list[str]
    err: list[str]


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    def run(*words: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["medgemma-data", "check", *map(str, words)])
        try:
            main()
            status = 0
        except SystemExit as left:
            status = int(left.code or 0)
        captured = capsys.readouterr()
        return Said(status, captured.out.splitlines(), captured.err.splitlines())

    return run


def test_equal_bytes_across_sides_come_first_then_groups_then_labels(tmp_path: Path) -> None:
    pictures(tmp_path, *(f"{n}.png" for n in range(8)))
    for copy, of in ((1, 0), (3, 2), (5, 4)):
        (tmp_path / f"{copy}.png").write_bytes((tmp_path / f"{of}.png").read_bytes())
    rows = ["4.png,x,train,5", "5.png,y,train,5", "2.png,x,train,3", "3.png,x,train,4", "0.png,x,train,1"]
    rows += ["1.png,x,test,2", "6.png,y,test,6", "7.png,y,validation,7"]
    table = read(tmp_path, "file,label,split,patient\n" + "\n".join(rows))
    assert check_table(table) == [
        "equal bytes on train and test: T.csv row 6 and T.csv row 7",
        "equal bytes in two groups: T.csv row 4 and T.csv row 5",
        "equal bytes with other labels: T.csv row 2 and T.csv row 3",
    ]


def test_one_picture_named_in_two_groups(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "b.png")
    table = read(tmp_path, "file,label,patient\na.png,x,1\nb.png,y,1\na.png,x,2\n")
    assert len(check_table(table)) == 1
    assert "T.csv row 2 and T.csv row 4" in check_table(table)[0]


def test_slices_of_two_study_folders_are_compared(tmp_path: Path) -> None:
    pictures(tmp_path, "s1/a.dcm", "s1/b.dcm", "s2/c.dcm", "s3/d.dcm")
    (tmp_path / "s2/c.dcm").write_bytes((tmp_path / "s1/b.dcm").read_bytes())
    table = read(tmp_path, "study_path,label,patient\ns1,x,1\ns2,y,2\ns3,y,3\n")
    (fault,) = check_table(table)
    assert fault.endswith("T.csv row 2 and T.csv row 3")


def test_many_faults_of_a_kind_are_counted(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "b.png")
    table = read(tmp_path, "file,label\na.png,x\nb.png,y\n" + "".join(f"{n}.jpg,x\n" for n in range(30)))
    faults = check_table(table)
    assert len(faults) == 21
    assert faults[-1] == "... and 10 more like the last"


def test_the_command_shows_what_it_understood_and_exits_0(tmp_path: Path, check: Callable[..., Said]) -> None:
    pictures(tmp_path, "a.png", "b.png", "c.png", "d.png")
    path = table_file(tmp_path, TEXT)
    said = check("--table", path)
    assert said == Said(
        0,
        [
            f"{path}: 4 rows",
            "files: file (guessed)",
            "label: label (guessed)",
            "group: patient (guessed)",
            "split: split (guessed)",
            "label is one of the classes: x 2, y 2",
            "sides (as the table says): train 2 rows of 2 groups, validation 1 rows of 1 groups, "
            "test 1 rows of 1 groups",
            "no faults; pictures were not decoded: `medsiglip check --table` does that",
        ],
        [],
    )


def test_faults_and_refusals_exit_1(tmp_path: Path, check: Callable[..., Said]) -> None:
    pictures(tmp_path, "a.png", "b.png", "c.png")
    path = table_file(tmp_path, TEXT)
    said = check("--table", path, "--files", "file", "--label", "label")
    assert said.status == 1
    assert said.out[-1].startswith("fault: T.csv row 5: 'd.png': no such file")
    refused = check("--table", path, "--label", "lable")
    assert (refused.status, refused.err) == (
        1,
        [f"error: {path}: has no column 'lable'; it has file, label, split, patient"],
    )
    assert check("vqa-rad").err == [
        "error: give a card's name and the folder of the set, or --table T for a table of yours"
    ]
    assert check("vqa-rad", "--table", path).status == 1


def test_options_name_several_columns_again_or_between_commas(tmp_path: Path, check: Callable[..., Said]) -> None:
    pictures(tmp_path, "a.png", "b.png")
    path = table_file(tmp_path, "one,two,label,x\na.png,b.png,p,1\nb.png,a.png,q,2\n")
    assert "files: one, two" in check("--table", path, "--files", "one,two").out
    assert "files: two, one" in check("--table", path, "--files", "two", "--files", "one").out


def test_the_kit_s_histology_table_has_no_fault(kit: Path) -> None:
    assert check_table(read_table(kit / "histo-lc25000-lung" / "labels.csv")) == []
