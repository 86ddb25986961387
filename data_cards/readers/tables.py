"""Finding a set's folder and reading its tables; a fault names the file, what is missing and what to do."""

import csv
import gzip
import json
import zlib
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

Row = TypeVar("Row")

csv.field_size_limit(1 << 24)


def find_set(data_dir: str | Path, name: str) -> Path:
    """Return the folder of one data set.

    Args:
        data_dir: A folder with one folder a card name, or the set's own folder.
        name: The card's name, for example `vqa-rad`.

    Raises:
        ValueError: Neither is the case.
    """
    root = Path(data_dir)
    if (root / name).is_dir():
        return root / name
    tables = _tables(name)
    if root.name == name or any((root / table).exists() for table in tables):
        return root
    raise ValueError(
        f"{root}: found no data set {name!r}; expected the folder {root / name}, or {root} itself to hold "
        f"{' or '.join(tables) or 'its tables'}; `medgemma-data show {name}` says how to get the set"
    )


def _tables(name: str) -> list[str]:
    from data_cards.schema import load_card

    return [split.file for split in load_card(name).splits.values()]


def read_rows(path: Path, columns: Sequence[str]) -> Sequence[Mapping[str, object]]:
    """Read a table of any kind that a card names.

    Args:
        path: CSV, TSV, JSON lines (each also gzipped), a JSON array of objects, Parquet (the name may be a glob), or a
            folder of class folders, which gives one row a file with the columns `file` and `label`. Of any other
            file there are no rows.
        columns: Columns that must be there.

    Raises:
        ValueError: The table is missing or cannot be read, or a column is missing.
    """
    if path.is_dir():
        return read_class_folders(path)
    kinds = [suffix for suffix in path.suffixes if suffix != ".gz"]
    kind = kinds[-1] if kinds else ""
    if kind in (".csv", ".tsv"):
        return read_csv(path, columns)
    if kind == ".jsonl":
        return read_json_lines(path, columns)
    if kind == ".parquet":
        return read_parquet(path, columns)
    _demand_file(path)
    if kind == ".json" and columns:
        return read_json_array(path, columns) if _is_json_array(path) else read_json_lines(path, columns)
    return []


def read_class_folders(folder: Path) -> list[dict[str, str]]:
    """List the files of a folder whose subfolders are classes.

    Returns:
        One mapping a file, sorted: `file`, relative to the folder's parent, and `label`, the subfolder's name.

    Raises:
        ValueError: There is no such folder, or it has no file in a subfolder.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; expected one folder a class; fetch the set, or correct --data")
    files = sorted(path for path in folder.glob("*/*") if path.is_file() and not path.name.startswith("."))
    rows = [{"file": path.relative_to(folder.parent).as_posix(), "label": path.parent.name} for path in files]
    return _demand_rows(folder, rows)


def read_csv(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Read a table with a header.

    Args:
        path: The file, UTF-8, plain or gzipped; tabs divide the cells of a .tsv, commas those of any other.
        columns: Columns that must be there.

    Returns:
        One mapping a row, header name (without white space around it) to cell.

    Raises:
        ValueError: The file or a column is missing, a row is shorter or longer than the header, or no row is
            left.
    """
    _demand_file(path)
    delimiter = "\t" if ".tsv" in path.suffixes else ","
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines, delimiter=delimiter)
            reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
            missing = [name for name in columns if name not in reader.fieldnames]
            if missing:
                raise ValueError(f"{path}: has no column {', '.join(missing)}; add it, or use the set of the card")
            rows = list(reader)
    except (UnicodeDecodeError, csv.Error, EOFError, gzip.BadGzipFile, zlib.error) as fault:
        raise ValueError(f"{path}: is no UTF-8 CSV table ({fault}); save it as UTF-8 CSV") from fault
    for number, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise ValueError(f"{path}: row {number} has not as many cells as the header; mend or drop the row")
    return _demand_rows(path, rows)


def read_json_lines(path: Path, columns: Sequence[str]) -> list[dict[str, object]]:
    """Read JSON objects, one a line, from a plain or gzipped file.

    Raises:
        ValueError: The file is missing or cut short, a line is no JSON object, or a field of `columns` is
            missing.
    """
    _demand_file(path)
    try:
        text = (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8")
        with text as lines:
            rows = [_object(path, number, line, columns) for number, line in enumerate(lines, 1) if line.strip()]
    except (UnicodeDecodeError, EOFError, gzip.BadGzipFile, zlib.error) as fault:
        raise ValueError(f"{path}: cannot be read ({fault}); fetch the file again") from fault
    return _demand_rows(path, rows)


def read_json_array(path: Path, columns: Sequence[str]) -> list[dict[str, object]]:
    """Read a JSON file that is one array of objects.

    Raises:
        ValueError: The file is missing, is no JSON array of objects, or a field of `columns` is missing.
    """
    _demand_file(path)
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8-sig") as file:
            rows = json.load(file)
    except (UnicodeDecodeError, json.JSONDecodeError, EOFError, gzip.BadGzipFile, zlib.error) as fault:
        raise ValueError(f"{path}: is no JSON ({fault}); fetch the file again") from fault
    if not isinstance(rows, list):
        raise ValueError(f"{path}: holds a JSON {type(rows).__name__}; expected an array of records")
    for number, row in enumerate(rows, start=1):
        missing = [name for name in columns if name not in row] if isinstance(row, dict) else list(columns)
        if missing:
            raise ValueError(f"{path}: record {number} has no field {', '.join(missing)}; mend or drop the record")
    return _demand_rows(path, rows)


def read_parquet(path: Path, columns: Sequence[str]) -> list[dict[str, object]]:
    """Read columns of Parquet files; a picture (a struct with bytes) becomes the SHA-256 of its bytes.

    Args:
        path: A file, or a glob whose files are read in the order of their names.
        columns: The columns to read.

    Raises:
        ValueError: No file is there, one is no Parquet file, or a column is missing.
    """
    import pyarrow
    import pyarrow.parquet as parquet

    files = sorted(path.parent.glob(path.name))
    if not files:
        raise ValueError(f"{path}: no such file; expected the table of the data set; fetch the set, or correct --data")
    rows = []
    for file in files:
        try:
            table = parquet.ParquetFile(file)
        except (OSError, pyarrow.ArrowException) as fault:
            raise ValueError(f"{file}: is no Parquet file ({fault}); fetch the file again") from fault
        missing = [name for name in columns if name not in table.schema_arrow.names]
        if missing:
            raise ValueError(f"{file}: has no column {', '.join(missing)}; fetch the file again")
        for batch in table.iter_batches(batch_size=256, columns=list(columns)):
            rows += [{name: _hashed(value) for name, value in row.items()} for row in batch.to_pylist()]
    return _demand_rows(path, rows)


def cell(path: Path, number: int, row: Mapping[str, object], column: str) -> str:
    """Return a cell that must not be empty; `number` counts rows from 1."""
    text = str(row[column]).strip()
    if not text:
        raise ValueError(f"{path}: record {number} has an empty {column!r}; fill it or drop the record")
    return text


def cell_text(value: object) -> str:
    """Return a cell as text: strings as they are, anything else as JSON (so true, 3, null, ["a"])."""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)


def _hashed(value: object) -> object:
    picture = value.get("bytes") if isinstance(value, dict) else None
    return sha256(picture).hexdigest() if isinstance(picture, bytes) else value


def _is_json_array(path: Path) -> bool:
    with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
        return bytes(file.read(64)).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")


def _object(path: Path, number: int, line: str, columns: Sequence[str]) -> dict[str, object]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as fault:
        raise ValueError(f"{path}: line {number} is no JSON ({fault}); mend or drop the line") from fault
    missing = [name for name in columns if name not in row] if isinstance(row, dict) else list(columns)
    if missing:
        raise ValueError(f"{path}: line {number} has no field {', '.join(missing)}; mend or drop the line")
    return dict(row)


def _demand_file(path: Path) -> None:
    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected the table of the data set; fetch the set, or correct --data")


def _demand_rows(path: Path, rows: list[Row]) -> list[Row]:
    if not rows:
        raise ValueError(f"{path}: has no rows; fetch the file again")
    return rows
