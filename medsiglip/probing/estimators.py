"""scikit-learn estimators: pictures to vectors, zero-shot labels, and probes, for pipelines and cross-validation.

Letters: N pictures, C labels, D embedding width.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from medsiglip.encoder import MedSigLIP
from medsiglip.probing.head import HeadKind, fit_head
from medsiglip.prompts import LabelSet
from medsiglip.zero_shot import ZeroShotClassifier


class PictureEmbedder(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Pictures or paths to (N, D) unit vectors; learns nothing."""

    def __init__(self, encoder: MedSigLIP) -> None:
        self.encoder = encoder

    def fit(self, pictures: Sequence[Any], y: Any = None) -> "PictureEmbedder":
        """Nothing to learn."""
        return self

    def transform(self, pictures: Sequence[Any]) -> np.ndarray:
        """(N, D) float32; every picture is one row, so files must be of one frame."""
        vectors = self.encoder.encode_images(list(pictures))
        if len(vectors) != len(pictures):
            raise ValueError(f"got {len(vectors)} frames in {len(pictures)} pictures; give files of one frame each")
        return vectors

    def __sklearn_is_fitted__(self) -> bool:
        return True


class ZeroShotEstimator(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Zero-shot labels of vectors; `fit` only encodes the texts, and looks at no label."""

    def __init__(self, encoder: MedSigLIP, label_set: LabelSet) -> None:
        self.encoder = encoder
        self.label_set = label_set

    def fit(self, vectors: np.ndarray, y: Any = None) -> "ZeroShotEstimator":
        """Encode the label set."""
        self.classifier_ = ZeroShotClassifier(self.encoder, self.label_set)
        self.classes_ = np.array(sorted(self.classifier_.labels))
        return self

    def predict_proba(self, vectors: np.ndarray) -> np.ndarray:
        """(N, C) float32 in the order of `classes_`; of independent labels they do not add up to 1."""
        check_is_fitted(self, "classifier_")
        found = self.classifier_.classify_vectors(np.asarray(vectors, np.float32))
        return found.probabilities[:, [found.labels.index(label) for label in self.classes_]]

    def predict(self, vectors: np.ndarray) -> np.ndarray:
        """(N,) the most probable label."""
        best = self.predict_proba(vectors).argmax(axis=1)
        return np.asarray(self.classes_[best])


class ProbeEstimator(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A probe on vectors, its strength chosen by grouped cross-validation; see `medsiglip.probing.head`."""

    def __init__(self, head: HeadKind = "linear", seed: int = 0) -> None:
        self.head = head
        self.seed = seed

    def fit(self, vectors: np.ndarray, y: Sequence[Any], groups: Sequence[Any] | None = None) -> "ProbeEstimator":
        """Fit on (N, D) vectors, N labels and N groups; without groups every row counts alone.

        Raises:
            ValueError: as `fit_head`.
        """
        names = np.asarray(y)
        self.classes_ = np.unique(names)
        rows = [str(place) for place in range(len(names))] if groups is None else [str(group) for group in groups]
        labels = [str(label) for label in self.classes_]
        truth = (names[:, None] == self.classes_[None]).astype(float)
        self.head_ = fit_head(
            np.asarray(vectors, np.float32), truth, rows, labels, exclusive=True, kind=self.head, seed=self.seed
        )
        return self

    def predict_proba(self, vectors: np.ndarray) -> np.ndarray:
        """(N, C) float32 in the order of `classes_`."""
        check_is_fitted(self, "head_")
        found = self.head_.classify_vectors(np.asarray(vectors, np.float32))
        return found.probabilities[:, [found.labels.index(str(label)) for label in self.classes_]]

    def predict(self, vectors: np.ndarray) -> np.ndarray:
        """(N,) the most probable label, as it was given."""
        best = self.predict_proba(vectors).argmax(axis=1)
        return np.asarray(self.classes_[best])
