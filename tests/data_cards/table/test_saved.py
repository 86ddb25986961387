"""Parquet, and what `datasets.save_to_disk` writes, read without `datasets`; pictures inside are unpacked once."""

from pathlib import Path

import pyarrow
import pyarrow.parquet as parquet
import pytest

from data_cards.table import read_table

datasets = pytest.importorskip("datasets")

PNG = b"\x89PNG\r\n\x1a\n"


def a_set(*names: str) -> "datasets.Dataset":
    features = datasets.Features(
        {
            "image": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")},
            "label": datasets.ClassLabel(names=["benign", "malignant"]),
            "patient_id": datasets.Value("int64"),
        }
    )
    rows = {
        "image": [{"bytes": PNG + name.encode(), "path": f"{name}.png"} for name in names],
        "label": [place % 2 for place in range(len(names))],
        "patient_id": list(range(len(names))),
    }
    return datasets.Dataset.from_dict(rows, features)


def test_a_saved_set_is_read_with_the_names_of_its_classes(tmp_path: Path) -> None:
    a_set("a", "b").save_to_disk(str(tmp_path / "saved"))
    table = read_table(tmp_path / "saved")
    assert [row.labels["label"] for row in table.rows] == ["benign", "malignant"]
    assert [row.files[0].read_bytes() for row in table.rows] == [PNG + b"a", PNG + b"b"]
    assert (table.rows[0].group, table.rows[0].place) == ("0", "saved record 1")
    before = {row.files[0]: row.files[0].stat().st_mtime_ns for row in table.rows}
    assert {row.files[0]: row.files[0].stat().st_mtime_ns for row in read_table(tmp_path / "saved").rows} == before


def test_the_sides_of_a_saved_dictionary_are_kept(tmp_path: Path) -> None:
    parts = datasets.DatasetDict({"train": a_set("a", "b"), "validation": a_set("a", "b").select([0])})
    parts["validation"] = parts["validation"].map(lambda row: {**row, "patient_id": 9})
    parts.save_to_disk(str(tmp_path / "saved"))
    table = read_table(tmp_path / "saved")
    assert [(row.place, row.split) for row in table.rows] == [
        ("train record 1", "train"),
        ("train record 2", "train"),
        ("validation record 1", "validation"),
    ]


def test_parquet_of_the_hub_has_the_same_names(tmp_path: Path) -> None:
    a_set("a", "b").to_parquet(str(tmp_path / "train-00000-of-00001.parquet"))
    table = read_table(tmp_path)
    assert [row.labels["label"] for row in table.rows] == ["benign", "malignant"]


def test_plain_parquet(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(name.encode())
    rows = pyarrow.table({"path": ["a.png", "b.png"], "score": [0.5, 1.25]})
    parquet.write_table(rows, tmp_path / "T.parquet")
    from data_cards.table import Columns

    table = read_table(tmp_path / "T.parquet", Columns(label=("score",)))
    assert [row.labels["score"] for row in table.rows] == [0.5, 1.25]
    assert table.rows[0].place == "T.parquet record 1"


def test_a_saved_set_without_its_rows_is_refused(tmp_path: Path) -> None:
    a_set("a", "b").save_to_disk(str(tmp_path / "saved"))
    next((tmp_path / "saved").glob("*.arrow")).unlink()
    with pytest.raises(ValueError, match="the data set's rows are not there; save it again"):
        read_table(tmp_path / "saved")
