"""An embeddings file that is written part by part, so that an interrupted run goes on where it was."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medsiglip.checkpoints.identity import free_name, is_mended
from medsiglip.imaging.frame import VOI

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_PER_PART = 2048
SECONDS_PER_PART = 60.0
"""Rows, or seconds on a slow machine, between two points from which an interrupted run goes on."""
FRAMES = "a frame"
"""What a row stands for, unless said otherwise."""


@dataclass
class EmbeddedRows:
    """Rows of OUT, those not yet in it in OUT.parts; made by `open_rows`."""

    out: Path
    schema: "pa.Schema"
    done: Mapping[str, str]
    """File to the sha256 under which all its rows are written."""
    _waiting: list[dict[str, Any]] = field(default_factory=list)
    _written_at: float = field(default_factory=time.monotonic)

    @property
    def parts(self) -> Path:
        """The folder of finished rows."""
        return _parts(self.out)

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        """Take rows in; from time to time all but the last file's, which may have more to come, are written."""
        self._waiting += rows
        if len(self._waiting) >= ROWS_PER_PART or time.monotonic() - self._written_at > SECONDS_PER_PART:
            self._waiting = _write_whole_files(self._waiting, self.parts, self.schema)
            self._written_at = time.monotonic()

    def finish(self) -> None:
        """Put all rows together as OUT."""
        _write_part(self._waiting, self.parts, self.schema)
        _merge(self.out, _written(self.out), self.schema)
        for path in self.parts.iterdir():
            path.unlink()
        self.parts.rmdir()


def open_rows(
    out: Path,
    model: str,
    asked: str,
    resize: str,
    width: int,
    *,
    row: str = FRAMES,
    on_stale: Callable[[Path], object] = lambda aside: None,
) -> EmbeddedRows:
    """Go on with OUT, or begin it.

    Args:
        out: the Parquet file.
        model: name and identity, as `medsiglip.embed.model_name` gives them.
        asked: pixel policy and selection that were asked for.
        resize: the encoder's resize policy.
        width: D.
        row: what a row stands for.
        on_stale: told where embeddings are that the model made before its files changed: they are set aside.

    Raises:
        ValueError: OUT is no embeddings file, or holds embeddings of another model or policy, or other rows.
    """
    done = _finished_files(out, model, f"{asked}+{resize}", row)
    if done is None:
        done = {}
        on_stale(_set_aside(out))
    _parts(out).mkdir(parents=True, exist_ok=True)
    return EmbeddedRows(out, embedding_schema(width, asked, row), done)


def embedding_schema(width: int, policy: str = VOI, row: str = FRAMES) -> "pa.Schema":
    """The columns of an embeddings file; `embedding` is a fixed-size float32 list.

    Args:
        width: D.
        policy: the pixel policy that was asked for, kept as the file's metadata "pixel_policy".
        row: what a row stands for, kept as "row".
    """
    import pyarrow as pa

    text = pa.string()
    embedding = pa.list_(pa.float32(), width)
    return pa.schema(
        [
            ("file", text),
            ("frame", pa.int32()),
            ("sha256", text),
            ("embedding", embedding),
            ("model", text),
            ("policy", text),
            ("findings", pa.list_(text)),
        ],
        metadata={"pixel_policy": policy, "row": row},
    )


def _parts(out: Path) -> Path:
    return out.with_name(out.name + ".parts")


def _written(out: Path) -> list[Path]:
    return [*([out] if out.exists() else []), *sorted(_parts(out).glob("*.parquet"))]


def _set_aside(out: Path) -> Path:
    """Move what a mended model has made stale to one file beside OUT."""
    import pyarrow.parquet as pq

    aside = free_name(out)
    _merge(aside, _written(out), pq.read_schema(_written(out)[0]))
    for path in _written(out):
        path.unlink()
    return aside


def _finished_files(out: Path, identity: str, policy: str, row: str) -> dict[str, str] | None:
    """File name to sha256 of the rows already written; None where the model has been mended since.

    `policy` is of pixels and resize, as asked for.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    done: dict[str, str] = {}
    for path in _written(out):
        try:
            said = pq.read_schema(path).metadata or {}
            asked = said.get(b"pixel_policy", VOI.encode()).decode()
            table = pq.read_table(path, columns=["file", "sha256", "model", "policy"])
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{path}: there already and not an embeddings file; give another --out") from error
        if (stands_for := said.get(b"row", FRAMES.encode()).decode()) != row and len(table):
            raise ValueError(f"{out}: a row of it is {stands_for}, and was to be {row}; give another --out")
        for one in table.to_pylist():
            found = f"{asked}+{one['policy'].split('+')[1]}"
            made_by, now = (name.rpartition("@")[2] for name in (one["model"], identity))
            if found == policy and is_mended(made_by, now):
                return None
            if found != policy or made_by != now:
                raise ValueError(
                    f"{out}: holds embeddings of {one['model']} ({found}), not of {identity} ({policy}); "
                    "give another --out"
                )
            done[one["file"]] = one["sha256"]
    return done


def _write_whole_files(rows: list[dict[str, Any]], parts: Path, schema: "pa.Schema") -> list[dict[str, Any]]:
    """Write all rows but the last file's; give those back."""
    last = rows[-1]["file"]
    cut = next((i for i in range(len(rows) - 1, -1, -1) if rows[i]["file"] != last), -1) + 1
    _write_part(rows[:cut], parts, schema)
    return rows[cut:]


def _write_part(rows: Sequence[dict[str, Any]], parts: Path, schema: "pa.Schema") -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not rows:
        return
    path = parts / f"{len(list(parts.glob('*.parquet'))):06d}.parquet"
    partial = path.with_suffix(".partial")
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), partial)
    partial.replace(path)


def _merge(out: Path, sources: Sequence[Path], schema: "pa.Schema") -> None:
    """Join files of rows, one at a time; a later row of the same file replaces an earlier one."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    newest = {file: i for i, path in enumerate(sources) for file in _column(path, "file")}
    partial = out.with_name(out.name + ".partial")
    with pq.ParquetWriter(partial, schema) as writer:
        for i, path in enumerate(sources):
            table = pq.read_table(path, schema=schema)
            kept = [newest[file] == i for file in table["file"].to_pylist()]
            writer.write_table(table.filter(pa.array(kept, pa.bool_())))  # an empty list alone has no type
    partial.replace(out)


def _column(path: Path, name: str) -> list[str]:
    import pyarrow.parquet as pq

    return list(pq.read_table(path, columns=[name])[name].to_pylist())
