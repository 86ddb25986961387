"""Tables that tests write, with files that nobody decodes."""

from pathlib import Path

from data_cards.table import Columns, Table, read_table


def pictures(folder: Path, *names: str) -> None:
    """Write files of different bytes."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"picture {name}".encode())


def table_file(folder: Path, text: str, name: str = "T.csv", encoding: str = "utf-8") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return path


def read(
    folder: Path, text: str, columns: Columns | None = None, name: str = "T.csv", *, labelled: bool = True
) -> Table:
    return read_table(table_file(folder, text, name), columns, labelled=labelled)


def names(table: Table) -> list[str]:
    """The names of the pictures of all rows."""
    return [file.name for row in table.rows for file in row.files]
