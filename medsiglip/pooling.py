"""One vector a file: the mean of its frames' unit vectors, normalised again."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from medsiglip.embed import readable_pictures
from medsiglip.encoder import MedSigLIP
from medsiglip.imaging import FileProblem, Notes
from medsiglip.imaging.dicom.policies import check_policy
from medsiglip.imaging.frame import VOI
from medsiglip.imaging.source import Source, as_source
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


def vectors_of_files(
    encoder: MedSigLIP,
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
