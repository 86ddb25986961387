"""One vector a file or a series: the mean of its frames' unit vectors, normalised again."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medsiglip.embed import PictureEncoder, model_name, readable_pictures
from medsiglip.embedded_rows import open_rows
from medsiglip.imaging import FileProblem, ImageError, Notes, Picture, Volume, open_images
from medsiglip.imaging.dicom.policies import CT_POLICIES, REPORT, check_policy
from medsiglip.imaging.frame import VOI
from medsiglip.imaging.source import Source, as_source
from medsiglip.imaging.units import HU
from medsiglip.imaging.volumes.select import Selection


def pooled(vectors: np.ndarray) -> np.ndarray:
    """(D,) unit vector of (n, D) unit vectors: their mean, normalised.

    Raises:
        ValueError: there are none, or they cancel out.
    """
    if not len(vectors):
        raise ValueError("got no vectors to pool")
    mean = vectors.mean(axis=0, dtype=np.float64)
    length = float(np.linalg.norm(mean))
    if not length > 1e-6:
        raise ValueError("the vectors cancel out or are not finite: they have no mean direction")
    return np.asarray(mean / length, dtype=np.float32)


def embed_volumes(
    encoder: PictureEncoder,
    files: Sequence[Source | Path],
    out: Path,
    *,
    on_problem: Callable[[FileProblem], None],
    slices: bool = False,
    policy: str = VOI,
    batch_size: int = 32,
    select: Selection = (),
    on_progress: Callable[[int], None] = lambda pictures: None,
    notes: Notes | None = None,
    on_stale: Callable[[Path], object] = lambda aside: None,
) -> int:
    """Write one row a series, volume or picture: the mean of its slices' unit vectors, normalised; its frame is -1.

    The columns are those of `embed_files`, and an interrupted run goes on likewise: what is written is not embedded
    again. Slices of a series stack to a volume as `open_images` says; its `file` is the volume's name, its `sha256` the
    volume's.

    Args:
        encoder: the encoder.
        files: of series, volumes and pictures.
        out: the Parquet file.
        on_problem: told of what cannot be read.
        slices: a row for each slice too, with its index as frame.
        policy: of pixels; "report" and "ct-report" show CT volumes in the report's windows, others each slice's own.
        batch_size: slices a forward pass.
        select: which volume of several.
        on_progress: told how many slices have been embedded.
        notes: takes findings.
        on_stale: told where embeddings are that the model made before its files changed.

    Returns:
        The number of rows added.

    Raises:
        ValueError: an unknown policy; OUT is no embeddings file, or holds embeddings of another model or policy, or
            other rows.
    """
    check_policy(policy)
    model, resize, added = model_name(encoder), encoder.preprocessing.policy, 0
    asked = " ".join([policy, *(f"{key}={value}" for key, value in select)])
    row = "a series or a slice of one" if slices else "a series"
    written = open_rows(out, model, asked, resize, encoder.embedding_width, row=row, on_stale=on_stale)
    for item in open_images(list(files), policy, on_problem, select=dict(select)):
        if written.done.get(item.file) == item.sha256:
            continue
        try:
            pictures = list(_slices(item, policy))
        except ImageError as error:
            on_problem(FileProblem(error.file, error.reason))
            continue
        batches = []
        for batch, of_batch in encoder.stream_images(pictures, batch_size):
            batches.append(of_batch)
            on_progress(len(batch))
        vectors = np.concatenate(batches)
        if notes is not None:
            notes.add(item.file, item.findings)
        fact: dict[str, Any] = {"file": item.file, "sha256": item.sha256, "model": model}
        fact["findings"] = [finding.text for finding in item.findings]
        fact["policy"] = f"{pictures[0].policy}+{resize}"
        rows = [{**fact, "frame": -1, "embedding": pooled(vectors)}]
        if slices and isinstance(item, Volume):
            rows += [
                {**fact, "frame": picture.frame, "embedding": vector}
                for picture, vector in zip(pictures, vectors, strict=True)
            ]
        written.add(rows)
        added += len(rows)
    written.finish()
    return added


def _slices(item: Picture | Volume, policy: str) -> Iterator[Picture]:
    if isinstance(item, Picture):
        yield item
        return
    in_windows = policy in (REPORT, CT_POLICIES[0]) and item.unit == HU
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that a volume is not axial matters to a decoder
        yield from item.pictures("report" if in_windows else VOI)


def vectors_of_files(
    encoder: PictureEncoder,
    files: Sequence[Source | Path],
    *,
    on_problem: Callable[[FileProblem], None],
    policy: str = VOI,
    batch_size: int = 32,
    select: Selection = (),
    on_progress: Callable[[int], None] = lambda pictures: None,
    notes: Notes | None = None,
) -> dict[str, np.ndarray]:
    """Embed files: name to (D,) float32 unit vector; one that cannot be read is reported and left out.

    Args:
        encoder: the encoder.
        files: picture files; every frame or slice of one counts alike.
        on_problem: told of each file that cannot be read.
        policy: how deep values become eight bits, see `open_images`.
        batch_size: pictures a forward pass.
        select: which volume of a file that holds several.
        on_progress: told how many pictures have been embedded.
        notes: takes the findings of the pictures.

    Raises:
        ValueError: an unknown policy.
    """
    check_policy(policy)
    frames: dict[str, list[np.ndarray]] = {}
    sources = dict.fromkeys(map(as_source, files))
    readable = readable_pictures(sources, on_problem, square=encoder.preprocessing.square, policy=policy, select=select)
    for pictures, vectors in encoder.stream_images(readable, batch_size):
        for picture, vector in zip(pictures, vectors, strict=True):
            frames.setdefault(picture.file, []).append(vector)
            if notes is not None:
                notes.add(picture.file, picture.findings)
        on_progress(len(pictures))
    return {file: pooled(np.stack(of_file)) for file, of_file in frames.items()}
