"""Picture vectors that are asked for once, and a linear probe that learns from the training side of a set."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evals.items import Item, item_sha256
from evals.outputs import Output
from evals.running.checks import demand_disjoint_groups
from medsiglip.zero_shot import Embedder

PICTURES_PER_BATCH = 32


class RememberedPictures:
    """An Embedder that encodes each picture file once: a film is asked about once a finding."""

    def __init__(self, encoder: Embedder) -> None:
        self._encoder = encoder
        self._vectors: dict[str, np.ndarray] = {}

    @property
    def fingerprint(self) -> str:
        """See `Embedder`."""
        return self._encoder.fingerprint

    @property
    def identity(self) -> str:
        """See `Embedder`."""
        return self._encoder.identity

    @property
    def dtype_name(self) -> str:
        """See `Embedder`."""
        return self._encoder.dtype_name

    @property
    def logit_scale(self) -> float:
        """See `Embedder`."""
        return self._encoder.logit_scale

    @property
    def logit_bias(self) -> float:
        """See `Embedder`."""
        return self._encoder.logit_bias

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """(N, D) float32 unit vectors."""
        return self._encoder.encode_texts(texts)

    def encode_images(self, images: Sequence[str | Path]) -> np.ndarray:
        """(N, D) float32 unit vectors of files of one picture each.

        Raises:
            ValueError: A file cannot be read, or holds several pictures.
        """
        new = list(dict.fromkeys(str(image) for image in images if str(image) not in self._vectors))
        if new:
            vectors = self._encoder.encode_images(new)
            if len(vectors) != len(new):
                raise ValueError(f"got {len(vectors)} pictures in {len(new)} files; expected files of one frame each")
            self._vectors.update(zip(new, vectors, strict=True))
        return np.stack([self._vectors[str(image)] for image in images])


def probe_items(train: Sequence[Item], items: Sequence[Item], model: Embedder, seed: int = 0) -> Iterator[Output]:
    """Fit on the training items, then classify each item.

    Args:
        train: Items with their labels as references; none of their groups may be among `items`.
        items: What to classify; one whose picture cannot be read fails alone.
        model: Puts the pictures in one space.
        seed: Of the folds that choose the probe's strength.

    Raises:
        ValueError: A group is on both sides, a training picture cannot be read, or there is one class.

    Source: MedGemma technical report (arXiv:2507.05201), section 6: logistic regression on embeddings, hyper-parameters
        on validation data; here by grouped cross-validation within the training side.
    """
    from medsiglip.probe import LinearProbe

    if not items:
        return
    demand_disjoint_groups(train, items)
    vectors = model.encode_images([item.files[0] for item in train])
    labels, groups = [item.reference for item in train], [item.group for item in train]
    probe = LinearProbe.fit(vectors, labels, groups, seed=seed)
    for item, vector in _vectors(items, model):
        asked = item_sha256(item)
        if isinstance(vector, str):
            yield Output(item.item_id, asked, model.identity, error=vector)
            continue
        (row,) = probe.predict_probabilities(vector[np.newaxis])
        named = {label: float(p) for label, p in zip(probe.classes, row, strict=True)}
        yield Output(item.item_id, asked, model.identity, text=max(named, key=named.__getitem__), probabilities=named)


def _vectors(items: Sequence[Item], model: Embedder) -> Iterator[tuple[Item, Any]]:
    """Yield every item with its (D,) vector, or with the reason why it has none."""
    for start in range(0, len(items), PICTURES_PER_BATCH):
        batch = items[start : start + PICTURES_PER_BATCH]
        try:
            yield from zip(batch, model.encode_images([item.files[0] for item in batch]), strict=True)
        except (ValueError, OSError):
            for item in batch:
                yield item, _alone(item, model)


def _alone(item: Item, model: Embedder) -> Any:
    try:
        return model.encode_images([item.files[0]])[0]
    except (ValueError, OSError) as fault:
        return " ".join(str(fault).split()) or type(fault).__name__
