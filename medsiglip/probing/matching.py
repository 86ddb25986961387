"""Embeddings files and the rows of a LABELS.csv that speak of them.

Letters: N rows, D embedding width.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medsiglip.imaging import FileProblem
from medsiglip.labels_csv import LabelRow
from medsiglip.pooling import pooled


@dataclass(frozen=True)
class EmbeddedFiles:
    """What `medsiglip embed` wrote, a file a row."""

    path: Path
    files: tuple[str, ...]
    sha256: tuple[str, ...]
    vectors: np.ndarray
    """(N, D) float32 unit vectors; of several frames their pooled one."""
    encoder: str
    """Identity."""
    pixels: str
    """Pixel and resize policy that were asked for."""


def read_embeddings(path: Path) -> EmbeddedFiles:
    """Read an embeddings file.

    Raises:
        ValueError: it is none, is empty, or holds NaN or vectors of two encoders.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, columns=["file", "sha256", "embedding", "model", "policy"])
    except (pa.ArrowException, OSError, KeyError) as error:
        reason = " ".join(str(error).split())[:120]
        raise ValueError(f"{path}: no embeddings file ({reason}); give what medsiglip embed wrote") from error
    if not len(table):
        raise ValueError(f"{path}: has no rows; embed pictures first")
    encoders = {name.rpartition("@")[2] for name in table["model"].to_pylist()}
    if len(encoders) > 1:
        raise ValueError(f"{path}: holds vectors of {len(encoders)} encoders; embed all files with one")
    frames = np.stack(table["embedding"].to_numpy(zero_copy_only=False)).astype(np.float32)
    files = table["file"].to_pylist()
    if not np.isfinite(frames).all():
        bad = files[int(np.flatnonzero(~np.isfinite(frames).all(axis=1))[0])]
        raise ValueError(f"{path}: the vector of {bad} holds NaN or infinity; delete its row and embed it again")
    rows: dict[str, list[int]] = {}
    for place, file in enumerate(files):
        rows.setdefault(file, []).append(place)
    hashes = table["sha256"].to_pylist()
    asked = (table.schema.metadata or {}).get(b"pixel_policy", b"voi").decode()
    resize = table["policy"][0].as_py().split("+")[1]
    return EmbeddedFiles(
        path,
        tuple(rows),
        tuple(hashes[places[0]] for places in rows.values()),
        np.stack([frames[places[0]] if len(places) == 1 else pooled(frames[places]) for places in rows.values()]),
        encoders.pop(),
        f"{asked}+{resize}",
    )


def match(
    rows: Sequence[LabelRow], embedded: EmbeddedFiles, on_problem: Callable[[FileProblem], None]
) -> list[tuple[LabelRow, int]]:
    """Each row with the place of its vectors: by path, then by the file's sha256, then by a file name that is unique.

    A row that none of them finds is reported, and so is a file that a row before has taken.
    """
    by_path = {str(Path(file).resolve()): place for place, file in enumerate(embedded.files)}
    by_hash = {sha256: place for place, sha256 in enumerate(embedded.sha256)}
    by_name = _unique([Path(file).name for file in embedded.files])
    found: list[tuple[LabelRow, int]] = []
    taken: dict[int, str] = {}
    for row in rows:
        place = by_path.get(str(row.file.resolve())) if row.cells["file"] else None
        if place is None and row.cells["file"]:
            place = by_hash.get(_sha256(row))
        if place is None and row.cells["file"]:
            place = by_name.get(row.file.name)
        if place is None:
            reason = f"{row.cells['file'] or 'its file is empty'}: not among the files of {embedded.path}; embed it"
            on_problem(FileProblem(row.place, reason))
        elif place in taken:
            reason = f"{row.cells['file']} is the file of {taken[place]} already; keep one row a file"
            on_problem(FileProblem(row.place, reason))
        else:
            taken[place] = row.place
            found.append((row, place))
    return found


def _unique(names: Sequence[str]) -> dict[str, int]:
    places: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        places.setdefault(name, []).append(place)
    return {name: of[0] for name, of in places.items() if len(of) == 1}


def _sha256(row: LabelRow) -> str:
    """As the table says, or of the file's bytes; "" where neither is there."""
    if said := row.cells.get("sha256", ""):
        return said
    try:
        return hashlib.sha256(row.file.read_bytes()).hexdigest() if row.file.is_file() else ""
    except OSError:
        return ""
