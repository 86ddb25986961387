"""Groups are never divided: by column, by file and bytes, by words; the table's own sides are kept."""

from pathlib import Path

import pytest

from data_cards.split import side
from data_cards.table import Columns
from tests.data_cards.table.made import pictures, read

ROWS = 60


def a_table(folder: Path, header: str, row: str) -> str:
    pictures(folder, *(f"{n}.png" for n in range(ROWS)))
    return header + "\n" + "".join(row.format(n=n, half=n // 2, label="xy"[n % 2]) + "\n" for n in range(ROWS))


def test_sides_are_those_of_the_one_split(tmp_path: Path) -> None:
    table = read(tmp_path, a_table(tmp_path, "file,label,patient_id", "{n}.png,{label},p{half}"))
    ours = {"train": "train", "held-out": "validation", "final": "test"}
    assert [row.split for row in table.rows] == [ours[side(f"p{n // 2}")] for n in range(ROWS)]
    assert {row.split for row in table.rows} == {"train", "validation", "test"}


def test_sides_do_not_depend_on_the_order_of_rows(tmp_path: Path) -> None:
    text = a_table(tmp_path, "file,label,patient_id", "{n}.png,{label},p{half}")
    header, *rows = text.splitlines()
    forward = {row.files: row.split for row in read(tmp_path, text).rows}
    backward = {row.files: row.split for row in read(tmp_path, "\n".join([header, *reversed(rows)])).rows}
    assert forward == backward


def test_without_a_group_column_equal_bytes_are_one_group_and_it_is_said(tmp_path: Path) -> None:
    text = a_table(tmp_path, "file,label", "{n}.png,{label}")
    for n in range(1, ROWS, 2):
        (tmp_path / f"{n}.png").write_bytes((tmp_path / f"{n - 1}.png").read_bytes())
    table = read(tmp_path, text)
    groups = [row.group for row in table.rows]
    assert all(groups[n] == groups[n - 1] for n in range(1, ROWS, 2))
    assert len(set(groups)) == ROWS // 2
    assert table.findings[0].startswith("no group column: rows are grouped by file (equal bytes are one group)")


def test_pictures_in_two_rows_join_their_groups(tmp_path: Path) -> None:
    pictures(tmp_path, *"abcd")
    text = "image_1,image_2,label\na.png,b.png,x\nb.png,c.png,y\nd.png,,x\n"
    pictures(tmp_path, "a.png", "b.png", "c.png", "d.png")
    table = read(tmp_path, text)
    assert table.rows[0].group == table.rows[1].group != table.rows[2].group


def test_texts_without_pictures_are_grouped_by_their_words(tmp_path: Path) -> None:
    table = read(tmp_path, "question,answer\nIs it?,yes\n is  IT? ,no\nWhy?,because\n")
    assert table.rows[0].group == table.rows[1].group != table.rows[2].group


def test_rows_without_a_group_are_said(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "b.png", "c.png")
    table = read(tmp_path, "file,label,patient_id\na.png,x,1\nb.png,y,\nc.png,y,1\n")
    assert [row.group for row in table.rows] == ["1", "b.png", "1"]
    assert "1 of 3 rows have no patient_id; they are grouped by file (equal bytes are one group)" in table.findings


def test_given_sides_are_kept_whatever_they_are_called(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "b.png", "c.png")
    table = read(tmp_path, "file,label,Split,patient\na.png,x,TRAIN,1\nb.png,y,val,2\nc.png,x,Testing,3\n")
    assert [row.split for row in table.rows] == ["train", "validation", "test"]
    assert table.given_splits == ("train", "validation", "test")


def test_a_group_on_two_given_sides_is_refused_by_name(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "b.png", "c.png")
    text = "file,label,split,patient\na.png,x,train,p1\nb.png,y,train,p2\nc.png,x,test,p1\n"
    message = r"the group 'p1' \(patient\) is on train \(T.csv row 2\) and on test \(T.csv row 4\); .* --split none"
    with pytest.raises(ValueError, match=message):
        read(tmp_path, text)
    assert read(tmp_path, text, Columns(split="none")).given_splits == ()


def test_equal_bytes_on_two_given_sides_are_refused_too_without_a_group_column(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "b.png", "c.png")
    (tmp_path / "c.png").write_bytes((tmp_path / "a.png").read_bytes())
    with pytest.raises(ValueError, match=r"is on train \(T.csv row 2\) and on test \(T.csv row 4\)"):
        read(tmp_path, "file,label,split\na.png,x,train\nb.png,y,train\nc.png,x,test\n")


def test_validation_is_taken_from_train_by_group_where_the_table_has_none(tmp_path: Path) -> None:
    text = a_table(tmp_path, "file,label,patient,split", "{n}.png,{label},p{half},train")
    pictures(tmp_path, "t.png")
    table = read(tmp_path, text + "t.png,x,q,test\n")
    on_validation = {row.group for row in table.on("validation")}
    assert on_validation and not on_validation & {row.group for row in table.on("train", "test")}
    assert [row.group for row in table.on("test")] == ["q"]
    assert any("kept from training as validation" in line for line in table.findings)


def test_a_table_that_is_all_train_is_divided_by_group(tmp_path: Path) -> None:
    table = read(tmp_path, a_table(tmp_path, "file,label,patient,split", "{n}.png,{label},p{half},train"))
    assert {row.split for row in table.rows} == {"train", "validation", "test"}
    assert table.given_splits == ()


def test_rows_that_name_no_side_are_refused(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "b.png")
    with pytest.raises(ValueError, match="1 rows name no side, the first is T.csv row 3; fill split"):
        read(tmp_path, "file,label,split\na.png,x,train\nb.png,y,\n", Columns(split="split"))


def test_a_pattern_finds_the_group_and_its_absence_is_a_fault(tmp_path: Path) -> None:
    pictures(tmp_path, "s1/p12_a.png", "s2/p12_b.png", "s3/q.png", "s4/p7_d.png")
    text = "file,label\ns1/p12_a.png,x\ns2/p12_b.png,y\ns3/q.png,y\ns4/p7_d.png,y\n"
    table = read(tmp_path, text, Columns(group="file", group_pattern=r"p\d+"))
    assert [row.group for row in table.rows] == ["p12", "p12", "p7"]
    assert table.faulty[0].fault == r"T.csv row 4: file holds no group (p\d+)"


def test_a_group_pattern_that_is_none_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--group-pattern '\(\(' is no regular expression"):
        read(tmp_path, "file,label\na.png,x\n", Columns(group_pattern="(("))
