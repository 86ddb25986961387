"""Zero-shot classification: cosine between a picture and the mean of each class's text vectors.

Letters: N pictures, C classes, D embedding width.
Source: MedGemma technical report (arXiv:2507.05201) §6; SigLIP (arXiv:2303.15343) §3.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from medsiglip.prompts import PRESENT_ABSENT_TASKS, TASKS


class Embedder(Protocol):
    """What puts pictures and texts in one space; `MedSigLIP` does."""

    @property
    def fingerprint(self) -> str:
        """Of the weights."""

    @property
    def identity(self) -> str:
        """What embeddings depend on."""

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
    """(N, C) float32 in 0..1: softmax over exclusive labels, sigmoid or present-against-absent otherwise."""
    scores: np.ndarray
    """(N, C) float32 in -1..1: the cosine."""


class ZeroShotClassifier:
    """Class vectors encoded once, applied to any number of pictures."""

    def __init__(
        self,
        encoder: Embedder,
        labels: Sequence[str] | Mapping[str, Sequence[str]],
        *,
        independent: bool = False,
        absent: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """Encode the classes.

        Args:
            encoder: the encoder whose space is used.
            labels: label names, used as their own prompt, or a mapping of label to its prompts.
            independent: labels do not exclude each other: sigmoid(scale · cosine + bias) for each.
            absent: for each label, prompts saying that it is absent; its probability is then a softmax over the two.

        Raises:
            ValueError: no labels, a repeated label, a label without prompts, or without absent prompts.
        """
        prompts = dict(labels) if isinstance(labels, Mapping) else _own_prompts(labels)
        if not prompts or not all(prompts.values()):
            raise ValueError("no labels given, or a label has no prompt; give at least one non-empty label")
        if absent is not None and set(absent) != set(prompts):
            raise ValueError(f"absent prompts are for {sorted(absent)}, labels {sorted(prompts)}; give one for each")
        self.encoder = encoder
        self.labels = tuple(prompts)
        self.independent = independent
        self.class_vectors = mean_prompt_vectors(encoder, prompts)
        self.absent_vectors = (
            None if absent is None else mean_prompt_vectors(encoder, {label: absent[label] for label in prompts})
        )

    @classmethod
    def for_task(cls, encoder: Embedder, task: str) -> "ZeroShotClassifier":
        """A classifier for a named task of `medsiglip.prompts`.

        Raises:
            ValueError: the task is unknown; the known ones are listed.
        """
        if task in TASKS:
            return cls(encoder, TASKS[task])
        if task in PRESENT_ABSENT_TASKS:
            pairs = PRESENT_ABSENT_TASKS[task]
            present = {label: pair.present for label, pair in pairs.items()}
            return cls(encoder, present, absent={label: pair.absent for label, pair in pairs.items()})
        raise ValueError(f"task {task!r} is unknown; choose one of {', '.join([*TASKS, *PRESENT_ABSENT_TASKS])}")

    def classify(self, images: Any) -> ZeroShotResult:
        """Classify pictures (anything `MedSigLIP.encode_images` takes)."""
        return self.classify_vectors(self.encoder.encode_images(images))

    def classify_vectors(self, image_vectors: np.ndarray) -> ZeroShotResult:
        """Classify embeddings (N, D) float32, L2-normalised."""
        scores = image_vectors @ self.class_vectors.T
        logits = self.encoder.logit_scale * scores
        if self.absent_vectors is not None:
            absent_logits = self.encoder.logit_scale * (image_vectors @ self.absent_vectors.T)
            probabilities = _sigmoid(logits - absent_logits)
        elif self.independent:
            probabilities = _sigmoid(logits + self.encoder.logit_bias)
        else:
            probabilities = _softmax(logits)
        return ZeroShotResult(self.labels, probabilities.astype(np.float32), scores.astype(np.float32))


def mean_prompt_vectors(encoder: Embedder, prompts: Mapping[str, Sequence[str]]) -> np.ndarray:
    """(C, D) float32: mean of each label's normalised prompt vectors, normalised again."""
    prompts = {label: [group] if isinstance(group, str) else group for label, group in prompts.items()}
    texts = [text for group in prompts.values() for text in group]
    vectors = encoder.encode_texts(texts)
    owners = np.repeat(np.arange(len(prompts)), [len(group) for group in prompts.values()])
    means = np.stack([vectors[owners == index].mean(axis=0) for index in range(len(prompts))])
    return np.asarray(means / np.linalg.norm(means, axis=1, keepdims=True), dtype=np.float32)


def _own_prompts(labels: Sequence[str]) -> dict[str, list[str]]:
    names = [label.strip() for label in ([labels] if isinstance(labels, str) else labels) if label.strip()]
    if len(set(names)) < len(names):
        raise ValueError(f"a label is given twice in {names}; give each label once")
    return {name: [name] for name in names}


def _softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-np.clip(logits, -80, 80))))
