"""LABELS.csv: what is missing, what is refused, and where."""

import numpy as np
import pytest

from medsiglip.labels_csv import exclusive_truth, groups_of, independent_truth, read_labels_csv


@pytest.fixture
def table(tmp_path):
    """Writes a CSV beside three files."""
    for name in "abc":
        (tmp_path / f"{name}.png").write_bytes(b"")

    def write(text):
        (tmp_path / "labels.csv").write_text(text)
        return tmp_path / "labels.csv"

    return write


def read(path):
    problems = []
    return read_labels_csv(path, problems.append), [str(problem) for problem in problems]


def test_rows_without_a_file_are_named_and_the_others_stay(table):
    path = table("file,label\na.png,x\n,x\nmissing.png,y\nb.png,y\n")
    rows, problems = read(path)
    assert [(row.place, row.file.name) for row in rows] == [
        ("labels.csv row 2", "a.png"),
        ("labels.csv row 5", "b.png"),
    ]
    assert problems == [
        "labels.csv row 3: its file is empty; name the picture, or delete the row",
        "labels.csv row 4: missing.png: no such file beside the CSV; correct it",
    ]


def test_independent_labels_know_missing_and_uncertain(table):
    path = table("file,edema,fracture,note\na.png,1,0,\nb.png,-1,1.0,\nc.png,0,,\n")
    truth = independent_truth(read(path)[0], ["edema", "fracture", "nodule"], path)
    assert truth.labels == ("edema", "fracture")
    np.testing.assert_array_equal(truth.values, [[1, 0], [np.nan, 1], [0, np.nan]])


def test_exclusive_labels_are_one_column(table):
    path = table("file,label,patient\na.png,x,1\nb.png,y,1\nc.png,x,2\n")
    rows, _ = read(path)
    np.testing.assert_array_equal(exclusive_truth(rows, "label", ["y", "x"], path).values, [[0, 1], [1, 0], [0, 1]])
    assert groups_of(rows, "patient", path) == ["1", "1", "2"]
    assert len(set(groups_of(rows, "", path))) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("picture,label\na.png,x\n", "has no column file; its columns are picture, label"),
        ("file,label\n", "has no rows; give a row a picture"),
        ("file,label\nb.png.gone,x\n", "no row names a file that is there"),
        (
            "file,label\na.png,x\n./a.png,y\n",
            r"labels.csv row 3: ./a.png is in labels.csv row 2 already; keep one row a file",
        ),
    ],
)
def test_tables_of_another_form_are_refused(table, text, message):
    with pytest.raises(ValueError, match=message):
        read(table(text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\na.png,x\nb.png,x\n", "every row is 'x'; two labels at least are needed"),
        ("file,label\na.png,x\nb.png,z\n", "labels.csv row 3: 'z' is no label here; use x; y"),
        ("file,label\na.png,x\nb.png,\n", "labels.csv row 3: label is empty; fill it, or delete the row"),
        ("file,kind\na.png,x\nb.png,y\n", "has no column 'label'; its columns are file, kind"),
    ],
)
def test_exclusive_labels_are_refused(table, text, message):
    path = table(text)
    with pytest.raises(ValueError, match=message):
        exclusive_truth(read(path)[0], "label", ["x", "y"], path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,x\na.png,1\nb.png,1\n", "'x' has no 1 or no 0 among its cells"),
        ("file,x\na.png,1\nb.png,-1\n", "'x' has no 1 or no 0 among its cells"),
        (
            "file,x\na.png,1\nb.png,maybe\n",
            "labels.csv row 3: x is 'maybe'; expected 1, 0, or -1 or nothing where unknown",
        ),
        ("file,z\na.png,1\nb.png,0\n", "no column is named as a label; add one or more of x; y, of 1 and 0"),
    ],
)
def test_independent_labels_are_refused(table, text, message):
    path = table(text)
    with pytest.raises(ValueError, match=message):
        independent_truth(read(path)[0], ["x", "y"], path)
