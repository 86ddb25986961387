"""A table of any form to records, one at a time: CSV, TSV, Parquet, JSONL, JSON, class folders, saved data sets.

A record is read again for every pass, so that a table of a million rows is never whole in memory.
"""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from data_cards.table.rows import Split

TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet")
SPLIT_NAMES: Mapping[str, Split] = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "tune", "tuning", "validate"), "validation"),
    **dict.fromkeys(("test", "testing", "tst", "eval", "evaluation", "held-out", "heldout", "holdout"), "test"),
}
"""What a side is called, in lower case, to the side."""

_BROKEN = (csv.Error, UnicodeError, EOFError, gzip.BadGzipFile, zlib.error)

csv.field_size_limit(1 << 24)


@dataclass(frozen=True)
class Record:
    """One record as the table has it."""

    place: str
    cells: Mapping[str, Any]
    """Texts of a CSV; JSON values; of Parquet and Arrow what `to_pylist` gives, named classes by their names."""
    split: Split | None = None
    """What the file's or folder's name says."""


@dataclass(frozen=True)
class Records:
    """A table that can be read again and again."""

    folder: Path
    """Paths in it are relative to this."""
    columns: tuple[str, ...]
    read: Callable[[], Iterator[Record]]


def records_of(source: Path) -> Records:
    """Find out what a source is, and its columns.

    Args:
        source: A file (.csv, .tsv, .jsonl, .json, each also .gz, or .parquet); or a folder: one that
            `datasets.save_to_disk` wrote, one with tables (named after sides where there are several), or one with a
            folder a class, with or without folders train, val and test above them.

    Raises:
        ValueError: It is none of them, is empty, or its header is broken.
    """
    if source.is_dir():
        return _of_folder(source)
    if not source.is_file():
        raise ValueError(f"{source}: no such file or folder; give a table, or a folder with one folder a class")
    return _of_file(source, None)


def split_named(name: str) -> Split | None:
    """The side that a name says: `train`, `val`, `train-00000-of-00002`, `test_set`; None if it says none."""
    words = name.lower().replace("_", "-").split("-")
    return SPLIT_NAMES.get(name.lower()) or SPLIT_NAMES.get(words[0]) or SPLIT_NAMES.get(words[-1])


def _of_folder(folder: Path) -> Records:
    if (folder / "dataset_dict.json").is_file():
        parts = [folder / name for name in json.loads((folder / "dataset_dict.json").read_text("utf-8"))["splits"]]
        return _joined(folder, [_of_saved(part, split_named(part.name)) for part in parts])
    if (folder / "state.json").is_file():
        return _of_saved(folder, None)
    tables = sorted(path for path in folder.iterdir() if _kind(path) in TABLES and path.is_file())
    tables = [path for path in tables if path.name not in ("dataset_info.json", "dataset_infos.json")]
    if len(tables) == 1:
        return _of_file(tables[0], split_named(tables[0].name.split(".")[0]))
    if tables:
        return _of_tables(folder, tables)
    return _of_class_folders(folder)


def _of_tables(folder: Path, tables: list[Path]) -> Records:
    named = [(path, split_named(path.name.split(".")[0])) for path in tables]
    other = [path.name for path, split in named if split is None]
    if other:
        raise ValueError(f"{folder}: holds the tables {', '.join(path.name for path in tables)}; name the one to read")
    return _joined(folder, [_of_file(path, split) for path, split in named])


def _joined(folder: Path, parts: list[Records]) -> Records:
    columns = tuple(dict.fromkeys(name for part in parts for name in part.columns))
    return Records(folder, columns, lambda: (record for part in parts for record in part.read()))


def _kind(path: Path) -> str:
    kinds = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"]
    return kinds[-1] if kinds else ""


def _of_file(path: Path, split: Split | None) -> Records:
    match _kind(path):
        case ".csv" | ".tsv" | ".txt":
            return _of_csv(path, split)
        case ".jsonl" | ".ndjson":
            return _of_json_values(path, split, _json_lines)
        case ".json":
            return _of_json_values(path, split, _json_array if _begins_with(path, b"[") else _json_lines)
        case ".parquet":
            return _of_parquet(path, split)
    raise ValueError(
        f"{path}: is no table that is read here; expected CSV, TSV, JSONL, JSON, Parquet or a folder; save a "
        "spreadsheet as CSV (UTF-8)"
    )


# --- CSV


def _of_csv(path: Path, split: Split | None) -> Records:
    try:
        with _text(path) as lines:
            head = lines.readline()
    except _BROKEN as fault:
        raise ValueError(f"{path}: is no UTF-8 table ({fault}); save it as CSV (UTF-8)") from fault
    delimiter = "\t" if _kind(path) == ".tsv" else max(",;\t|", key=lambda mark: _num_outside_quotes(head, mark))
    with _text(path) as lines:
        header = next(csv.reader(lines, delimiter=delimiter), [])
    names = [" ".join(name.split()) for name in header]
    columns = tuple(name for name in names if name)
    twice = {name for name in columns if columns.count(name) > 1}
    if not columns:
        raise ValueError(f"{path}: has no header; expected the columns' names in its first row")
    if twice:
        raise ValueError(f"{path}: has the column {min(twice)!r} twice; rename one of them")
    return Records(path.parent, columns, lambda: _csv_records(path, names, delimiter, split))


def _csv_records(path: Path, names: list[str], delimiter: str, split: Split | None) -> Iterator[Record]:
    try:
        with _text(path) as lines:
            reader = csv.reader(lines, delimiter=delimiter)
            next(reader)
            for number, cells in enumerate(reader, start=2):
                if not any(cell.strip() for cell in cells):
                    continue
                if len(cells) != len(names):
                    raise ValueError(
                        f"{path}: row {number} has {len(cells)} cells, the header {len(names)}; put a cell that holds "
                        f"{delimiter!r} in quotes, or drop the row"
                    )
                row = {name: cell.strip() for name, cell in zip(names, cells, strict=True) if name}
                yield Record(f"{path.name} row {number}", row, split)
    except _BROKEN as fault:
        raise ValueError(f"{path}: is no UTF-8 table ({fault}); save it as CSV (UTF-8)") from fault


def _num_outside_quotes(line: str, mark: str) -> int:
    return sum(part.count(mark) for part in line.split('"')[::2])


def _text(path: Path) -> IO[str]:
    with _binary(path) as file:
        encoding = "utf-16" if file.read(2) in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    return io.TextIOWrapper(_binary(path), encoding=encoding, newline="")


def _binary(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")  # type: ignore[return-value]


# --- JSON


def _of_json_values(path: Path, split: Split | None, values: Callable[[Path], Iterator[tuple[str, Any]]]) -> Records:
    def read() -> Iterator[Record]:
        for place, value in values(path):
            if not isinstance(value, dict):
                raise ValueError(f"{path}: {place} is a JSON {type(value).__name__}; expected an object")
            yield Record(f"{path.name} {place}", value, split)

    columns = tuple(dict.fromkeys(name for record in read() for name in record.cells))
    return Records(path.parent, columns, read)


def _json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    with _binary(path) as lines:
        try:
            for number, line in enumerate(lines, start=1):
                if line.strip(b"\xef\xbb\xbf \t\r\n"):
                    yield f"line {number}", json.loads(line.decode("utf-8-sig"))
        except (ValueError, EOFError, gzip.BadGzipFile, zlib.error) as fault:
            raise ValueError(f"{path}: line {number} is no JSON ({fault}); mend or drop the line") from fault


def _json_array(path: Path) -> Iterator[tuple[str, Any]]:
    with _text(path) as file:
        try:
            values = json.load(file)
        except (ValueError, EOFError, gzip.BadGzipFile, zlib.error) as fault:
            raise ValueError(f"{path}: is no JSON ({fault}); fetch the file again") from fault
    yield from ((f"record {number}", value) for number, value in enumerate(values, start=1))


def _begins_with(path: Path, mark: bytes) -> bool:
    with _binary(path) as file:
        return file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(mark)


# --- Parquet, and what datasets.save_to_disk writes


def _of_parquet(path: Path, split: Split | None) -> Records:
    import pyarrow
    import pyarrow.parquet as parquet

    try:
        schema = parquet.ParquetFile(path).schema_arrow
    except (OSError, pyarrow.ArrowException) as fault:
        raise ValueError(f"{path}: is no Parquet file ({fault}); fetch the file again") from fault
    batches = lambda: parquet.ParquetFile(path).iter_batches(batch_size=256)  # noqa: E731
    return _of_batches(path.parent, path.name, schema, batches, split)


def _of_saved(folder: Path, split: Split | None) -> Records:
    import pyarrow.ipc as ipc

    files = [
        folder / part["filename"] for part in json.loads((folder / "state.json").read_text("utf-8"))["_data_files"]
    ]
    absent = [file for file in files if not file.is_file()]
    if absent or not files:
        raise ValueError(f"{absent[0] if absent else folder}: the data set's rows are not there; save it again")

    def batches() -> Iterator[Any]:
        for file in files:
            with file.open("rb") as stream:
                yield from ipc.open_stream(stream)

    with files[0].open("rb") as stream:
        schema = ipc.open_stream(stream).schema
    return _of_batches(folder, folder.name, schema, batches, split)


def _of_batches(
    folder: Path, name: str, schema: Any, batches: Callable[[], Iterator[Any]], split: Split | None
) -> Records:
    classes = _class_names(schema.metadata or {})

    def read() -> Iterator[Record]:
        number = 0
        for batch in batches():
            for row in batch.to_pylist():
                number += 1
                named = {key: _named(value, classes[key]) for key, value in row.items() if key in classes}
                yield Record(f"{name} record {number}", {**row, **named}, split)

    return Records(folder, tuple(schema.names), read)


def _class_names(metadata: Mapping[bytes, bytes]) -> dict[str, list[str]]:
    """Column to the names of its classes, as `datasets` writes them into the schema."""
    features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    return {
        name: feature["names"]
        for name, feature in features.items()
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and feature.get("names")
    }


def _named(value: Any, names: list[str]) -> Any:
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else None


# --- folders


def _of_class_folders(folder: Path) -> Records:
    sides = {path: split_named(path.name) for path in sorted(folder.iterdir()) if path.is_dir()}
    sided = {path: side for path, side in sides.items() if side and any(inner.is_dir() for inner in path.iterdir())}
    roots: dict[Path, Split | None] = dict(sided) if sided else {folder: None}

    def read() -> Iterator[Record]:
        for root, side in roots.items():
            for path in sorted(root.rglob("*")):
                parts = path.relative_to(root).parts
                if path.is_file() and len(parts) > 1 and not any(part.startswith((".", "__")) for part in parts):
                    name = path.relative_to(folder).as_posix()
                    yield Record(f"{folder.name}/{name}", {"file": name, "label": parts[0]}, side)

    if next(read(), None) is None:
        raise ValueError(f"{folder}: holds neither a table nor folders with pictures; expected one folder a class")
    return Records(folder, ("file", "label"), read)
