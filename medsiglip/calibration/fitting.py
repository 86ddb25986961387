"""Maps from logits to probabilities, fitted on labelled pictures.

Letters: N pictures, C labels. Truth is 1, 0, or NaN where nothing is said. Of exclusive labels the probabilities of a
picture add up to 1: by temperature as a softmax, by Platt and isotonic as one label against the rest, then divided by
their sum, as scikit-learn's CalibratedClassifierCV does.

Sources: Guo et al., ICML 2017 (temperature); Platt, Advances in Large Margin Classifiers (1999), with his softened
targets; Zadrozny and Elkan, KDD 2002 (isotonic).
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from medsiglip.zero_shot import sigmoid, softmax

Method = Literal["temperature", "platt", "isotonic"]
METHODS: tuple[Method, ...] = get_args(Method)
LEAST_PROBABILITY = 1e-6
"""Isotonic steps of 0 and 1 are kept this far from certainty: none of a finite number of pictures shows it."""


@dataclass(frozen=True)
class Curve:
    """One label's map: probabilities at ascending logits, straight between them, level beyond."""

    logits: tuple[float, ...]
    probabilities: tuple[float, ...]


@dataclass(frozen=True)
class ProbabilityMap:
    """From (N, C) logits to (N, C) probabilities; make one with `fit_map`."""

    method: Method
    exclusive: bool
    temperature: float = 1.0
    slopes: tuple[float, ...] = ()
    """Platt, a label each: sigmoid(slope · logit + intercept)."""
    intercepts: tuple[float, ...] = ()
    curves: tuple[Curve, ...] = ()
    """Isotonic, a label each."""

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """(N, C) float64."""
        logits = np.asarray(logits, dtype=np.float64)
        if self.method == "temperature":
            return softmax(logits / self.temperature) if self.exclusive else sigmoid(logits / self.temperature)
        if self.method == "platt":
            alone = sigmoid(logits * np.array(self.slopes) + np.array(self.intercepts))
        else:
            columns = zip(logits.T, self.curves, strict=True)
            alone = np.stack([np.interp(column, curve.logits, curve.probabilities) for column, curve in columns], 1)
        return alone / alone.sum(axis=1, keepdims=True) if self.exclusive else alone


def fit_map(
    method: Method, logits: np.ndarray, truth: np.ndarray, *, exclusive: bool, weights: np.ndarray | None = None
) -> ProbabilityMap:
    """Fit a map.

    Args:
        method: how.
        logits: (N, C).
        truth: (N, C) 1, 0 or NaN; of exclusive labels one 1 a row.
        exclusive: whether a picture has exactly one of the labels.
        weights: (N,) how much each picture counts; all alike without it.

    Raises:
        ValueError: a label has no positive or no negative (but by temperature, which all labels share), or logits are
            not finite.
    """
    if not np.isfinite(logits).all():
        raise ValueError("got logits that are not finite; embed the pictures again")
    logits, weights = np.asarray(logits, np.float64), np.ones(len(logits)) if weights is None else np.asarray(weights)
    if method == "temperature":
        return ProbabilityMap(method, exclusive, temperature=_temperature(logits, truth, exclusive, weights))
    columns = [_said(logits[:, j], truth[:, j], weights) for j in range(logits.shape[1])]
    if method == "platt":
        lines = [_platt(*column) for column in columns]
        return ProbabilityMap(
            method, exclusive, slopes=tuple(a for a, _ in lines), intercepts=tuple(b for _, b in lines)
        )
    return ProbabilityMap(method, exclusive, curves=tuple(_isotonic(*column) for column in columns))


def log_losses(probabilities: np.ndarray, truth: np.ndarray, *, exclusive: bool) -> np.ndarray:
    """(N,) mean negative log likelihood of what is said of each picture; NaN where nothing is."""
    p = np.clip(probabilities, 1e-12, 1 - 1e-12)
    if exclusive:
        return np.asarray(-np.log(p[truth == 1]))
    losses = -(truth * np.log(p) + (1 - truth) * np.log1p(-p))
    said = np.isfinite(truth)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(said, losses, 0).sum(axis=1) / said.sum(axis=1))


def _temperature(logits: np.ndarray, truth: np.ndarray, exclusive: bool, weights: np.ndarray) -> float:
    from scipy.optimize import minimize_scalar

    def loss(log_temperature: float) -> float:
        found = ProbabilityMap("temperature", exclusive, temperature=float(np.exp(log_temperature)))
        losses = log_losses(found.probabilities(logits), truth, exclusive=exclusive)
        said = np.isfinite(losses)
        return float((losses[said] * weights[said]).sum() / weights[said].sum())

    return float(np.exp(minimize_scalar(loss, bounds=(-7, 7), method="bounded", options={"xatol": 1e-7}).x))


def _said(logits: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What is said of one label: logits, truth and weights; both classes must be there."""
    said = np.isfinite(truth)
    if len(set(truth[said].tolist())) < 2:
        raise ValueError("a label has no 1 or no 0 among its rows; add such pictures, or calibrate by temperature")
    return logits[said], truth[said], weights[said]


def _platt(logits: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    from scipy.optimize import minimize

    positives, negatives = weights[truth == 1].sum(), weights[truth == 0].sum()
    target = np.where(truth == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    scale = max(float(np.abs(logits).max()), 1e-12)  # so that the minimiser's steps suit any logit scale

    def loss(line: np.ndarray) -> tuple[float, np.ndarray]:
        z = line[0] * logits / scale + line[1]
        beyond = weights * (sigmoid(z) - target)
        value = (weights * (np.logaddexp(0, z) - target * z)).sum()
        return float(value), np.array([(beyond * logits / scale).sum(), beyond.sum()])

    slope, intercept = minimize(loss, np.array([scale, 0.0]), jac=True, method="BFGS", options={"gtol": 1e-7}).x
    return float(slope / scale), float(intercept)


def _isotonic(logits: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> Curve:
    from sklearn.isotonic import IsotonicRegression

    fitted = IsotonicRegression(y_min=LEAST_PROBABILITY, y_max=1 - LEAST_PROBABILITY, out_of_bounds="clip")
    fitted.fit(logits, truth, sample_weight=weights)
    return Curve(tuple(map(float, fitted.X_thresholds_)), tuple(map(float, fitted.y_thresholds_)))
