"""Parquet files of ours: written synced, read by row, named when they are broken."""

import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from experience.storage.layout import specs_of
from experience.storage.schema import Spec


class Shard(NamedTuple):
    """An open file of steps."""

    path: Path
    file: pq.ParquetFile
    starts: tuple[int, ...]
    """First row of each row group, and the number of rows."""
    specs: Mapping[str, Spec]

    def group_of(self, row: int) -> int:
        """Return the row group that a row lies in."""
        return bisect_right(self.starts, row) - 1


def open_shard(path: Path) -> Shard:
    """Open a file of steps.

    Raises:
        ValueError: It is missing, cut, broken or none of ours.
    """
    file = open_parquet(path)
    sizes = (file.metadata.row_group(number).num_rows for number in range(file.num_row_groups))
    return Shard(path, file, tuple(accumulate(sizes, initial=0)), specs_of(file.schema_arrow))


def read_rows(shard: Shard, start: int, stop: int, columns: Sequence[str] | None = None) -> pa.Table:
    """Return some rows of a shard, reading no row groups but those that they lie in.

    Args:
        shard: Where they are.
        start: The first row.
        stop: The row after the last.
        columns: The only ones that are read; None is all.

    Raises:
        ValueError: The file is broken there, or lacks a column.
    """
    if columns is not None and (missing := set(columns) - set(shard.file.schema_arrow.names)):
        raise ValueError(f"{shard.path}: has no column {', '.join(sorted(missing))}; get it again")
    if start == stop:
        nothing = shard.file.schema_arrow.empty_table()
        return nothing if columns is None else nothing.select(list(columns))
    first = shard.group_of(start)
    groups = list(range(first, shard.group_of(stop - 1) + 1))
    wanted = None if columns is None else list(columns)
    with named(shard.path):
        table = shard.file.read_row_groups(groups, columns=wanted, use_threads=False)
    return table.slice(start - shard.starts[first], stop - start)


def open_parquet(path: Path, repeated: Sequence[str] = ()) -> pq.ParquetFile:
    """Open a Parquet file.

    Args:
        path: Of the file.
        repeated: Columns of texts to be read as dictionaries.

    Raises:
        ValueError: It is missing, cut or broken.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; the data set lacks a part of itself; get it again")
    with named(path):
        return pq.ParquetFile(path, memory_map=True, read_dictionary=list(repeated))


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Name the file in what Arrow raises."""
    try:
        yield
    except (OSError, pa.ArrowInvalid) as fault:
        raise ValueError(f"{path}: is cut or broken ({' '.join(str(fault).split())}); get it again") from fault


def write_shard(path: Path, tables: Iterable[pa.Table]) -> None:
    """Write tables of one schema as one Parquet file, synced; a table is a row group."""
    writer: pq.ParquetWriter | None = None
    with path.open("wb") as file:
        for table in tables:
            if writer is None:
                writer = pq.ParquetWriter(
                    file,
                    table.schema,
                    compression="zstd",
                    use_dictionary=["episode_id", "shard", "split"],
                    write_statistics=["episode_id", "step", "reward", "is_last", "invalid", "num_steps"],
                )
            writer.write_table(table, row_group_size=max(1, len(table)))
        if writer is not None:
            writer.close()
        file.flush()
        os.fsync(file.fileno())
