"""Folders of pictures to a Parquet file of embeddings, resumable after any interruption."""

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from medsiglip.checkpoints.identity import free_name, is_mended
from medsiglip.imaging import DecoderPool, FileProblem, ImageError, Notes, Picture, Source, Square, shared_pool
from medsiglip.imaging.dicom.policies import check_policy
from medsiglip.imaging.frame import VOI
from medsiglip.imaging.source import as_source, read_source
from medsiglip.imaging.volumes.select import Selection

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_PER_PART = 2048
SECONDS_PER_PART = 60.0
"""Rows, or seconds on a slow machine, between two points from which an interrupted run goes on."""


class Pixels(Protocol):
    """How an encoder's pictures are made square."""

    @property
    def square(self) -> Square | None:
        """What workers that decode files may do at once; None: nothing."""

    @property
    def policy(self) -> str:
        """The resize policy's name."""


class PictureEncoder(Protocol):
    """What embeds pictures: `MedSigLIP`, or another transformers encoder (`medsiglip.commands.other_encoders`)."""

    name: str

    @property
    def identity(self) -> str:
        """What embeddings depend on."""

    @property
    def embedding_width(self) -> int:
        """D."""

    @property
    def preprocessing(self) -> Pixels:
        """Its pixels."""

    def stream_images(
        self, pictures: Iterable[Picture], batch_size: int = 32
    ) -> Iterator[tuple[list[Picture], np.ndarray]]:
        """Batches of pictures with their (n, D) float32 unit vectors."""


def model_name(encoder: PictureEncoder) -> str:
    """Name and identity, as the column `model` has them; of a folder its last part alone."""
    return f"{Path(encoder.name).name if Path(encoder.name).is_dir() else encoder.name}@{encoder.identity}"


def readable_pictures(
    files: Iterable[Source | Path],
    on_problem: Callable[[FileProblem], None],
    pool: DecoderPool | None = None,
    square: Square | None = None,
    policy: str = VOI,
    select: Selection = (),
) -> Iterator[Picture]:
    """Every frame of every file, in order; a file that cannot be read is reported and the rest goes on.

    Files are decoded (and made square, if asked) in worker processes, a few ahead of the reader. `select` chooses a
    volume of a file that holds several.
    """
    pool = pool or shared_pool()
    for result in pool.pictures(map(as_source, files), policy, square=square, select=select):
        if isinstance(result, ImageError):
            on_problem(FileProblem(result.file, result.reason))
        else:
            yield from result


def embed_files(
    encoder: PictureEncoder,
    files: Sequence[Source | Path],
    out: Path,
    *,
    on_problem: Callable[[FileProblem], None],
    batch_size: int = 32,
    policy: str = VOI,
    select: Selection = (),
    on_progress: Callable[[int], None] = lambda rows: None,
    notes: Notes | None = None,
    on_stale: Callable[[Path], object] = lambda aside: None,
) -> int:
    """Write one row a frame: file, frame, sha256, embedding, model, policy, findings.

    Finished rows are kept in `OUT.parts/` until the whole is written. A second run with the same model keeps
    what is there and embeds only files that are new or whose bytes have changed. Where the model's weights are the same
    and its other files have changed, what is there is set aside and all files are embedded anew.

    Args:
        encoder: the encoder.
        files: picture files, or members of zips.
        out: the Parquet file.
        on_problem: told of each file that cannot be read.
        batch_size: pictures a forward pass.
        policy: how deep values become eight bits, see `open_images`; it is written into the file beside what each
            picture came to use.
        select: which volume of a file that holds several, by "time" and "channel".
        on_progress: told how many rows have been added.
        notes: takes the findings of the pictures.
        on_stale: told where embeddings are that the model made before its files changed.

    Returns:
        The number of rows added.

    Raises:
        ValueError: an unknown policy; OUT is no embeddings file, or holds embeddings of another model or policy.
    """
    check_policy(policy)
    notes = notes or Notes()
    parts = out.with_name(out.name + ".parts")
    identity = model_name(encoder)
    asked = " ".join([policy, *(f"{key}={value}" for key, value in select)])
    schema = embedding_schema(encoder.embedding_width, asked)
    done = _finished_files(_written(out, parts), identity, f"{asked}+{encoder.preprocessing.policy}", out)
    if done is None:
        done = {}
        on_stale(_set_aside(out, parts))
    parts.mkdir(parents=True, exist_ok=True)
    sources = dict.fromkeys(map(as_source, files))
    fresh = (source for source in sources if source.name not in done or done[source.name] != _sha256(source))
    rows, added, written_at = [], 0, time.monotonic()
    readable = readable_pictures(fresh, on_problem, square=encoder.preprocessing.square, policy=policy, select=select)
    for pictures, vectors in encoder.stream_images(readable, batch_size):
        rows += [_row(picture, vector, encoder, identity) for picture, vector in zip(pictures, vectors, strict=True)]
        for picture in pictures:
            notes.add(picture.file, picture.findings)
        added += len(pictures)
        on_progress(len(pictures))
        if len(rows) >= ROWS_PER_PART or time.monotonic() - written_at > SECONDS_PER_PART:
            rows, written_at = _write_whole_files(rows, parts, schema), time.monotonic()
    _write_part(rows, parts, schema)
    _merge(out, _written(out, parts), schema)
    for path in parts.iterdir():
        path.unlink()
    parts.rmdir()
    return added


def embedding_schema(width: int, policy: str = VOI) -> "pa.Schema":
    """The columns of an embeddings file; `embedding` is a fixed-size float32 list.

    Args:
        width: D.
        policy: the pixel policy that was asked for, kept as the file's metadata "pixel_policy".
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
        metadata={"pixel_policy": policy},
    )


def _row(picture: Picture, vector: np.ndarray, encoder: PictureEncoder, identity: str) -> dict[str, Any]:
    return {
        "file": picture.file,
        "frame": picture.frame,
        "sha256": picture.sha256,
        "embedding": vector,
        "model": identity,
        "policy": f"{picture.policy}+{encoder.preprocessing.policy}",
        "findings": [finding.text for finding in picture.findings],
    }


def _written(out: Path, parts: Path) -> list[Path]:
    return [*([out] if out.exists() else []), *sorted(parts.glob("*.parquet"))]


def _set_aside(out: Path, parts: Path) -> Path:
    """Move what a mended model has made stale to one file beside OUT."""
    import pyarrow.parquet as pq

    aside = free_name(out)
    _merge(aside, _written(out, parts), pq.read_schema(_written(out, parts)[0]))
    for path in _written(out, parts):
        path.unlink()
    return aside


def _finished_files(paths: Sequence[Path], identity: str, policy: str, out: Path) -> dict[str, str] | None:
    """File name to sha256 of the rows already written; None where the model has been mended since.

    `policy` is of pixels and resize, as asked for.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    done: dict[str, str] = {}
    for path in paths:
        try:
            asked = (pq.read_schema(path).metadata or {}).get(b"pixel_policy", VOI.encode()).decode()
            table = pq.read_table(path, columns=["file", "sha256", "model", "policy"])
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{path}: there already and not an embeddings file; give another --out") from error
        for row in table.to_pylist():
            found = f"{asked}+{row['policy'].split('+')[1]}"
            made_by, now = (name.rpartition("@")[2] for name in (row["model"], identity))
            if found == policy and is_mended(made_by, now):
                return None
            if found != policy or made_by != now:
                raise ValueError(
                    f"{out}: holds embeddings of {row['model']} ({found}), not of {identity} ({policy}); "
                    "give another --out"
                )
            done[row["file"]] = row["sha256"]
    return done


def _sha256(source: Source) -> str:
    """Hex digest of a file's bytes; "" if it cannot be read, which is then reported."""
    try:
        return hashlib.sha256(read_source(source)).hexdigest()
    except ImageError:
        return ""


def _write_whole_files(rows: list[dict[str, Any]], parts: Path, schema: "pa.Schema") -> list[dict[str, Any]]:
    """Write all rows but the last file's, which may have frames to come; give those back."""
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
