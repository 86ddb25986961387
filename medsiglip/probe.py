"""A linear probe: logistic regression on embeddings, its strength chosen by grouped cross-validation."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

STRENGTHS = tuple(float(c) for c in np.logspace(-3, 3, 7))
"""Inverse regularisation strengths that are tried."""


@dataclass(frozen=True)
class LinearProbe:
    """Multinomial logistic regression; make one with `LinearProbe.fit`."""

    classes: tuple[str, ...]
    weight: np.ndarray
    """(C, D) float32."""
    bias: np.ndarray
    """(C,) float32."""
    strength: float
    """The inverse regularisation strength that cross-validation chose."""

    @classmethod
    def fit(cls, vectors: np.ndarray, labels: Sequence[str], groups: Sequence[str], *, seed: int = 0) -> "LinearProbe":
        """Fit on embeddings, in float64 and on one thread: several wait for each other longer than they work.

        Args:
            vectors: (N, D) float32 embeddings.
            labels: N class names.
            groups: N patient, case or tile names; a group never lies on both sides of a fold.
            seed: of the folds.

        Raises:
            ValueError: lengths differ, there are fewer than two classes, or a class lies in a single group.
        """
        names = np.asarray(labels)
        if not len(vectors) == len(names) == len(groups):
            raise ValueError(f"got {len(vectors)} vectors, {len(names)} labels, {len(groups)} groups; give one each")
        classes = tuple(sorted(set(names.tolist())))
        if len(classes) < 2:
            raise ValueError(f"got {len(classes)} classes; a probe needs two")
        with threadpool_limits(1):
            vectors = np.asarray(vectors, dtype=np.float64)
            strength = _best_strength(vectors, names, np.asarray(groups), seed)
            regression = logistic_regression(strength).fit(vectors, names)
        weight, bias = regression.coef_, regression.intercept_
        if len(classes) == 2:  # scikit-learn keeps one row for two classes: half of it each way is the same softmax
            weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
        return cls(classes, weight.astype(np.float32), bias.astype(np.float32), strength)

    def predict_probabilities(self, vectors: np.ndarray) -> np.ndarray:
        """(N, C) float32 in the order of `classes`."""
        logits = vectors @ self.weight.T + self.bias
        shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(shifted / shifted.sum(axis=1, keepdims=True), dtype=np.float32)

    def predict(self, vectors: np.ndarray) -> list[str]:
        """The most probable class of each vector."""
        return [self.classes[index] for index in self.predict_probabilities(vectors).argmax(axis=1)]

    def save(self, folder: str | Path) -> None:
        """Write probe.safetensors and probe.json."""
        from safetensors.numpy import save_file

        Path(folder).mkdir(parents=True, exist_ok=True)
        weight = np.ascontiguousarray(self.weight)  # scikit-learn's is in Fortran order, which safetensors scrambles
        save_file({"weight": weight, "bias": self.bias}, Path(folder) / "probe.safetensors")
        facts = {"classes": self.classes, "strength": self.strength}
        (Path(folder) / "probe.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> "LinearProbe":
        """Read what `save` wrote."""
        from safetensors.numpy import load_file

        facts = json.loads((Path(folder) / "probe.json").read_text(encoding="utf-8"))
        tensors = load_file(Path(folder) / "probe.safetensors")
        return cls(tuple(facts["classes"]), tensors["weight"], tensors["bias"], facts["strength"])


def logistic_regression(strength: float) -> Any:
    """scikit-learn's logistic regression, to be fitted to the end: give it float64.

    scikit-learn's own solver and tolerance stop weakly regularised fits far from the minimum, where rounding takes
    them: of nano's dermatoscopic embeddings, differences of 1e-7 between two kinds of CPU moved a probability by 0.4
    and the class of 58 of 1,884 pictures. Newton's method reaches the minimum in some ten steps.

    Args:
        strength: inverse regularisation strength.
    """
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=strength, solver="newton-cg", tol=1e-8, max_iter=1000)


def grouped_folds(labels: np.ndarray, groups: np.ndarray, seed: int) -> Any:
    """At most five stratified folds that divide no group.

    No more than the rarest class has groups, so that every class can be held out and still be learned from.

    Raises:
        ValueError: a class lies in one group only.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    num_groups = {name: len(set(groups[labels == name].tolist())) for name in sorted(set(labels.tolist()))}
    rarest = min(num_groups, key=lambda name: num_groups[name])
    if num_groups[rarest] < 2:
        raise ValueError(f"class {rarest!r} lies in one group only; a probe needs two groups of each, or leave it out")
    return StratifiedGroupKFold(min(5, num_groups[rarest]), shuffle=True, random_state=seed)


def _best_strength(vectors: np.ndarray, labels: np.ndarray, groups: np.ndarray, seed: int) -> float:
    """The strength with the least log loss over all held-out predictions; of equal ones the strongest regularisation.

    The loss is of all folds together, for a fold may hold out no member of a rare class.
    """
    from sklearn.metrics import log_loss
    from sklearn.model_selection import cross_val_predict

    folds, names = grouped_folds(labels, groups, seed), sorted(set(labels.tolist()))

    def loss(strength: float) -> float:
        held_out = cross_val_predict(
            logistic_regression(strength), vectors, labels, groups=groups, cv=folds, method="predict_proba"
        )
        return float(log_loss(labels, held_out, labels=names))

    return min(STRENGTHS, key=loss)
