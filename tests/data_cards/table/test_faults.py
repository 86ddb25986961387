"""What is wrong with a table is said in one line: what, where, what to do."""

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from data_cards.table import Columns, read_table
from tests.data_cards.table.made import pictures, read, table_file

TWO = "file,label\na.png,x\nb.png,y\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pictures(tmp_path, "a.png", "b.png")
    return tmp_path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no header"),
        ("file,label\n", "has no rows"),
        ("file,label\n,\n", "has no rows"),
        ("file,file,label\na.png,b.png,x\n", "has the column 'file' twice"),
        ("file,label\na.png,x,y\n", "row 2 has 3 cells, the header 2; put a cell that holds ',' in quotes"),
        (
            "alpha,beta\n1.5,2\n",
            r"cannot tell which column is the files \(--files COLUMN\) and which the label \(--label",
        ),
        ("file,beta\na.png,2\n", r"cannot tell which column is the label \(--label COLUMN, .*; it has file, beta$"),
        ("file,label\na.png,x\nb.png,x\n", "label has one class, 'x', in all 2 rows; expected two or more"),
        ("file,label\nc.png,x\nd.png,y\n", "none of 2 rows can be used; the first: T.csv row 2: 'c.png': no such file"),
        ("file,label,split\na.png,x,0\nb.png,y,fold2\n", "none"),
        (TWO.replace("label", "label,split").replace("x", "x,train").replace("y", "y,7"), "none"),
    ],
)
def test_refusals_name_what_is_wrong(folder: Path, text: str, message: str) -> None:
    columns = Columns(split="split") if "split" in text else Columns()
    message = message if message != "none" else "split is '[07]'; expected train, validation or test"
    with pytest.raises(ValueError, match=message) as refusal:
        read(folder, text, columns)
    assert "T.csv" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_column_that_is_not_there_is_named_with_those_that_are(folder: Path) -> None:
    for columns in (Columns(label=("lable",)), Columns(group="lable"), Columns(question="lable")):
        with pytest.raises(ValueError, match="has no column 'lable'; it has file, label$"):
            read(folder, TWO, columns)


def test_a_missing_file_and_an_empty_name_are_faults_of_their_rows(folder: Path) -> None:
    table = read(folder, TWO + "c.png,x\n,y\n")
    assert len(table.rows) == 2
    assert [row.fault for row in table.faulty] == [
        f"T.csv row 4: 'c.png': no such file in {folder}; mend the path, or put the pictures beside the table",
        "T.csv row 5: file is empty; name a file, or drop the row",
    ]
    with pytest.raises(ValueError, match=r"T.csv row 4: 'c.png': no such file .*\(and 1 more rows\)"):
        table.without_faults()


def test_a_name_that_several_files_have_is_refused(tmp_path: Path) -> None:
    pictures(tmp_path, "left/a.png", "right/a.png", "b.png")
    table = read(tmp_path, "file,label\na,x\nb,x\nright/a.png,y\n")
    assert table.faulty[0].fault.startswith(
        "T.csv row 2: 'a' may be any of 2 files, such as left/a.png and right/a.png"
    )
    assert [row.files[0].relative_to(tmp_path).as_posix() for row in table.rows] == ["b.png", "right/a.png"]


def test_a_file_of_the_same_name_in_another_folder_is_not_taken_for_one_that_is_missing(tmp_path: Path) -> None:
    pictures(tmp_path, "val/a.png", "train/b.png", "val/c.png")
    table = read(tmp_path, "file,label\ntrain/a.png,x\ntrain/b.png,y\nval/c.png,x\n")
    assert [row.place for row in table.faulty] == ["T.csv row 2"]


def test_a_label_outside_the_list_is_a_fault(folder: Path) -> None:
    table = read(folder, TWO, Columns(classes=("x", "z")))
    assert [row.fault for row in table.faulty] == ["T.csv row 3: label is 'y'; expected one of x, z; mend it"]
    assert table.target().classes == ("x", "z")


def test_labels_that_are_no_number_no_presence_and_no_box_are_faults(folder: Path) -> None:
    text = 'file,ml,Edema,where\na.png,"1,234",2,here\nb.png,3.5,1,"[1, 2, 3, 4]"\n'
    number = read(folder, text, Columns(label=("ml",), kind="number"))
    assert number.faulty[0].fault == ("T.csv row 2: ml is '1,234'; expected a number, without commas between thousands")
    boxes = read(folder, text, Columns(label=("where",), kind="boxes"))
    assert boxes.faulty[0].fault.startswith("T.csv row 2: where is 'here'; expected boxes")


def test_a_row_without_a_label_is_left_out_and_counted(folder: Path) -> None:
    pictures(folder, "c.png")
    table = read(folder, TWO + "c.png,nan\n")
    assert len(table.rows) == 2
    assert not table.faulty
    assert "1 rows say no label and are left out" in table.findings


def test_an_answer_that_is_none_of_the_choices_is_a_fault(tmp_path: Path) -> None:
    table = read(tmp_path, "question,A,B,answer\nWhich?,one,two,C\nWhat?,x,y,a\n")
    assert table.faulty[0].fault.startswith("T.csv row 2: answer is 'C'; expected one of the choices one, two")
    assert table.rows[0].answer == "x"


def test_other_files_and_broken_ones_are_refused(tmp_path: Path) -> None:
    refused: dict[str, Callable[[], Path]] = {
        "is no table that is read here": lambda: table_file(tmp_path, "x", "T.xlsx"),
        "no such file or folder": lambda: tmp_path / "absent.csv",
        "holds neither a table nor folders with pictures": lambda: (tmp_path / "empty").resolve(),
        "is no UTF-8 table": lambda: table_file(tmp_path, "file,label\na,ä\n", "latin.csv", "latin-1"),
        "line 2 is no JSON": lambda: table_file(tmp_path, '{"a": 1}\n{"a"\n', "T.jsonl"),
        "is a JSON list; expected an object": lambda: table_file(tmp_path, "[1]\n", "U.jsonl"),
        "is no Parquet file": lambda: table_file(tmp_path, "x", "T.parquet"),
    }
    (tmp_path / "empty").mkdir()
    for message, source in refused.items():
        with pytest.raises(ValueError, match=message):
            read_table(source())


def test_a_gzipped_table_cut_short_is_refused(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "b.png")
    whole = gzip.compress(TWO.encode())
    (tmp_path / "T.csv.gz").write_bytes(whole)
    assert len(read_table(tmp_path / "T.csv.gz").rows) == 2
    (tmp_path / "T.csv.gz").write_bytes(whole[:-12])
    with pytest.raises(ValueError, match="is no UTF-8 table"):
        read_table(tmp_path / "T.csv.gz")


def test_a_policy_and_a_kind_that_are_not_known_are_refused() -> None:
    with pytest.raises(ValueError, match="got missing 'skip'; expected one of left-out, zero, one"):
        Columns(missing="skip")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="got kind 'regression'; expected one of class, multi-label, number"):
        Columns(kind="regression")  # type: ignore[arg-type]
