"""Folders of pictures to a Parquet file of embeddings, resumable after any interruption."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from medsiglip.embedded_rows import open_rows
from medsiglip.imaging import DecoderPool, FileProblem, ImageError, Notes, Picture, Source, Square, shared_pool
from medsiglip.imaging.dicom.policies import check_policy
from medsiglip.imaging.frame import VOI
from medsiglip.imaging.source import as_source, read_source
from medsiglip.imaging.volumes.select import Selection


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
    identity, added = model_name(encoder), 0
    asked = " ".join([policy, *(f"{key}={value}" for key, value in select)])
    resize = encoder.preprocessing.policy
    written = open_rows(out, identity, asked, resize, encoder.embedding_width, on_stale=on_stale)
    sources = dict.fromkeys(map(as_source, files))
    fresh = (source for source in sources if written.done.get(source.name) != _sha256(source))
    readable = readable_pictures(fresh, on_problem, square=encoder.preprocessing.square, policy=policy, select=select)
    for pictures, vectors in encoder.stream_images(readable, batch_size):
        written.add([_row(one, vector, encoder, identity) for one, vector in zip(pictures, vectors, strict=True)])
        for picture in pictures:
            notes.add(picture.file, picture.findings)
        added += len(pictures)
        on_progress(len(pictures))
    written.finish()
    return added


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


def _sha256(source: Source) -> str:
    """Hex digest of a file's bytes; "" if it cannot be read, which is then reported."""
    try:
        return hashlib.sha256(read_source(source)).hexdigest()
    except ImageError:
        return ""
