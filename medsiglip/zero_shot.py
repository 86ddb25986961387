"""Zero-shot classification: cosine between a picture and the mean of each class's text vectors.

Letters: N pictures, C classes, D embedding width.
Source: MedGemma technical report (arXiv:2507.05201) §6; SigLIP (arXiv:2303.15343) §3.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from medsiglip.class_vectors import kept_prompt_vectors, mean_prompt_vectors
from medsiglip.prompts import Convention, LabelSet, Prompts, label_set


class Embedder(Protocol):
    """What puts pictures and texts in one space; `MedSigLIP` does."""

    @property
    def fingerprint(self) -> str:
        """Of the weights."""

    @property
    def identity(self) -> str:
        """What embeddings depend on."""

    @property
    def dtype_name(self) -> str:
        """Of the weights as they are computed with, such as "float32"."""

    @property
    def logit_scale(self) -> float:
        """Logits are logit_scale · cosine + logit_bias."""

    @property
    def logit_bias(self) -> float:
        """See logit_scale."""

    def encode_images(self, images: Any) -> np.ndarray:
        """(N, D) float32 unit vectors of pictures or picture files."""

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """(N, D) float32 unit vectors."""


@dataclass(frozen=True)
class ZeroShotResult:
    """What a classifier says of N pictures over C labels."""

    labels: tuple[str, ...]
    probabilities: np.ndarray
    """(N, C) float32 in 0..1, by the convention."""
    scores: np.ndarray
    """(N, C) float32 in -1..1: the cosine."""
    convention: Convention
    """What the probabilities are: "softmax", "sigmoid" or "present against absent"."""
    logits: np.ndarray
    """(N, C) float32: softmax over them, or sigmoid of each, are the probabilities."""


class ZeroShotClassifier:
    """Class vectors encoded once, applied to any number of pictures."""

    def __init__(
        self,
        encoder: Embedder,
        labels: LabelSet | Sequence[str] | Mapping[str, Sequence[str]],
        *,
        independent: bool = False,
        absent: Mapping[str, Sequence[str]] | None = None,
        cache: Path | None = None,
    ) -> None:
        """Encode the classes.

        Args:
            encoder: the encoder whose space is used.
            labels: label names, used as their own prompt; a mapping of label to its prompts; or a `LabelSet`, which
                says itself how its labels go together.
            independent: labels do not exclude each other: sigmoid(scale · cosine + bias) for each.
            absent: for each label, prompts saying that it is absent; its probability is then a softmax over the two.
            cache: folder in which class vectors are kept, by encoder and prompts; without it they are made anew.

        Raises:
            ValueError: no labels, a repeated label, a label without prompts, or without absent prompts.
        """
        self.encoder = encoder
        self.label_set = labels if isinstance(labels, LabelSet) else _label_set_of(labels, independent, absent)
        self.labels = self.label_set.labels
        self._cache = cache
        self.class_vectors = self._vectors_of(self.label_set.prompts)
        self.absent_vectors = (
            self._vectors_of({label: self.label_set.absent[label] for label in self.labels})
            if self.label_set.absent
            else None
        )

    @classmethod
    def for_task(cls, encoder: Embedder, task: str, *, cache: Path | None = None) -> "ZeroShotClassifier":
        """A classifier for a named task: a label set that ships, see `medsiglip.prompts`.

        Raises:
            ValueError: the task is unknown; the known ones are listed.
        """
        return cls(encoder, label_set(task), cache=cache)

    def classify(self, images: Any) -> ZeroShotResult:
        """Classify pictures (anything `MedSigLIP.encode_images` takes)."""
        return self.classify_vectors(self.encoder.encode_images(images))

    def classify_vectors(self, image_vectors: np.ndarray) -> ZeroShotResult:
        """Classify embeddings (N, D) float32, L2-normalised.

        Raises:
            ValueError: they are of another width, or hold NaN.
        """
        _refuse_other_vectors(image_vectors, self.class_vectors.shape[1])
        scores = image_vectors @ self.class_vectors.T
        logits = self.encoder.logit_scale * scores
        if self.absent_vectors is not None:
            logits = logits - self.encoder.logit_scale * (image_vectors @ self.absent_vectors.T)
        elif self.label_set.convention == "sigmoid":
            logits = logits + self.encoder.logit_bias
        probabilities = softmax(logits) if self.label_set.exclusive else sigmoid(logits)
        return ZeroShotResult(
            self.labels,
            probabilities.astype(np.float32),
            scores.astype(np.float32),
            self.label_set.convention,
            logits.astype(np.float32),
        )

    def _vectors_of(self, prompts: Prompts) -> np.ndarray:
        if self._cache is None:
            return mean_prompt_vectors(self.encoder.encode_texts, prompts)
        made_by = f"{self.encoder.identity} {self.encoder.dtype_name}"
        return kept_prompt_vectors(self.encoder.encode_texts, prompts, made_by, self._cache)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Of each element; logits beyond ±80 are cut there."""
    return np.asarray(1 / (1 + np.exp(-np.clip(logits, -80, 80))))


def _label_set_of(
    labels: Sequence[str] | Mapping[str, Sequence[str]],
    independent: bool,
    absent: Mapping[str, Sequence[str]] | None,
) -> LabelSet:
    if not isinstance(labels, Mapping):
        return LabelSet.of_labels(labels, independent=independent)
    if absent is None:
        return LabelSet("", "sigmoid" if independent else "softmax", _as_texts(labels))
    return LabelSet("", "present against absent", _as_texts(labels), _as_texts(absent))


def _as_texts(prompts: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    return {label: (group,) if isinstance(group, str) else tuple(group) for label, group in prompts.items()}


def _refuse_other_vectors(vectors: np.ndarray, width: int) -> None:
    if vectors.ndim != 2 or vectors.shape[1] != width:
        raise ValueError(f"got vectors of shape {vectors.shape}, expected (N, {width}); embed with the same encoder")
    if not np.isfinite(vectors).all():
        rows = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        raise ValueError(f"vector {rows[0]} of {len(vectors)} holds NaN or infinity; embed its picture again")
