"""What a probe is when it is fitted: layers over embeddings, and what they belong to. Loads without the training data.

Letters: N pictures, C labels, D embedding width.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from threadpoolctl import threadpool_limits

from medsiglip.probe import LinearProbe
from medsiglip.prompts import Convention
from medsiglip.zero_shot import ZeroShotResult, sigmoid, softmax

HeadKind = Literal["linear", "mlp"]
HEADS: tuple[HeadKind, ...] = get_args(HeadKind)
FORM = 1
HIDDEN = 128
PENALTIES = (1e-3, 1e-1, 10.0)
"""L2 strengths that are tried for a network."""


class Layer(NamedTuple):
    """x @ weight.T + bias."""

    weight: np.ndarray
    bias: np.ndarray


Network = tuple[Layer, ...]
"""Layers with a ReLU between them."""


@dataclass(frozen=True)
class ProbeHead:
    """A fitted probe; make one with `fit_head`, or read one with `read_head`."""

    kind: HeadKind
    labels: tuple[str, ...]
    exclusive: bool
    """Whether a picture has exactly one of the labels: one network of C outputs, else C networks of one."""
    networks: tuple[Network, ...]
    strengths: tuple[float, ...]
    """What grouped cross-validation chose for each network."""
    encoder: str
    """Identity of the encoder whose vectors it takes."""
    pixels: str

    @property
    def width(self) -> int:
        """D."""
        return int(self.networks[0][0].weight.shape[1])

    def check(self, encoder: str, pixels: str) -> None:
        """Refuse another encoder's vectors.

        Raises:
            ValueError: naming both.
        """
        if encoder != self.encoder:
            raise ValueError(f"the probe is of the encoder {self.encoder}, not of {encoder}; fit it again")
        if pixels != self.pixels:
            raise ValueError(f"the probe is of the pixels {self.pixels}, not of {pixels}; give it that --policy")

    def classify_vectors(self, vectors: np.ndarray) -> ZeroShotResult:
        """Classify embeddings (N, D); scores are the logits.

        Raises:
            ValueError: they are of another width, or hold NaN.
        """
        if vectors.ndim != 2 or vectors.shape[1] != self.width:
            raise ValueError(f"got vectors of shape {vectors.shape}, expected (N, {self.width}): another encoder's")
        if not np.isfinite(vectors).all():
            raise ValueError("got vectors with NaN or infinity; embed the pictures again")
        logits = np.concatenate([_forward(network, vectors) for network in self.networks], axis=1)
        probabilities = softmax(logits) if self.exclusive else sigmoid(logits)
        narrow = logits.astype(np.float32)
        convention: Convention = "softmax" if self.exclusive else "sigmoid"
        return ZeroShotResult(self.labels, probabilities.astype(np.float32), narrow, convention, narrow)


def fit_head(
    vectors: np.ndarray,
    truth: np.ndarray,
    groups: Sequence[str],
    labels: Sequence[str],
    *,
    exclusive: bool,
    kind: HeadKind = "linear",
    encoder: str = "",
    pixels: str = "",
    seed: int = 0,
) -> ProbeHead:
    """Fit a probe.

    Args:
        vectors: (N, D) float32.
        truth: (N, C) 1, 0, or NaN where nothing is said; a row counts for the labels of which something is said.
        groups: N patients or cases; one never lies on both sides of a fold.
        labels: C names.
        exclusive: whether a picture has exactly one label.
        kind: "linear" (logistic regression) or "mlp" (one hidden layer).
        encoder: identity of the encoder.
        pixels: pixel and resize policy.
        seed: of folds and of a network's first weights.

    Raises:
        ValueError: as `LinearProbe.fit`, naming the label.
    """
    fit = _fit_linear if kind == "linear" else _fit_mlp
    if exclusive:
        names = [labels[place] for place in truth.argmax(axis=1)]
        parts = [fit(vectors, names, groups, sorted(set(names)), seed)]
        labels = sorted(set(names))
    else:
        parts = []
        for j, label in enumerate(labels):
            said = np.flatnonzero(np.isfinite(truth[:, j])).tolist()
            try:
                names, of = ["01"[int(truth[row, j])] for row in said], [groups[row] for row in said]
                parts.append(fit(vectors[said], names, of, ["0", "1"], seed))
            except ValueError as error:
                raise ValueError(f"{label}: {error}") from error
    networks, strengths = tuple(network for network, _ in parts), tuple(strength for _, strength in parts)
    return ProbeHead(kind, tuple(labels), exclusive, networks, strengths, encoder, pixels)


def write_head(head: ProbeHead, folder: Path) -> None:
    """Write probe.safetensors and probe.json."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{i}.{j}.{name}": np.ascontiguousarray(value, dtype=np.float32)
        for i, network in enumerate(head.networks)
        for j, layer in enumerate(network)
        for name, value in layer._asdict().items()
    }
    facts = {
        "form": FORM,
        "kind": head.kind,
        "labels": head.labels,
        "exclusive": head.exclusive,
        "strengths": head.strengths,
        "encoder": head.encoder,
        "pixels": head.pixels,
        "layers": [len(network) for network in head.networks],
    }
    save_file(tensors, folder / "probe.safetensors")
    (folder / "probe.json").write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_head(folder: Path) -> ProbeHead:
    """Read what `write_head` wrote.

    Raises:
        ValueError: there is no probe, or it is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        facts: dict[str, Any] = json.loads((folder / "probe.json").read_text(encoding="utf-8"))
        tensors = load_file(folder / "probe.safetensors")
        if facts["form"] != FORM:
            raise ValueError("it is of another form")
        networks = tuple(
            tuple(Layer(tensors[f"{i}.{j}.weight"], tensors[f"{i}.{j}.bias"]) for j in range(count))
            for i, count in enumerate(facts["layers"])
        )
        return ProbeHead(
            facts["kind"], tuple(facts["labels"]), facts["exclusive"], networks, tuple(facts["strengths"]),
            facts["encoder"], facts["pixels"],
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{folder}: no probe ({reason}); write one with medsiglip probe") from error


def _forward(network: Network, vectors: np.ndarray) -> np.ndarray:
    values = np.asarray(vectors, dtype=np.float64)
    for place, layer in enumerate(network):
        values = (np.maximum(values, 0) if place else values) @ layer.weight.T + layer.bias
    return values


def _one_output(layer: Layer, num_classes: int, binary: bool) -> Layer:
    """Of the classes "0" and "1" the difference alone, which is the logit of "1"."""
    if not binary or num_classes != 2:
        return layer
    return Layer(layer.weight[1:] - layer.weight[:1], layer.bias[1:] - layer.bias[:1])


def _fit_linear(
    vectors: np.ndarray, names: Sequence[str], groups: Sequence[str], classes: Sequence[str], seed: int
) -> tuple[Network, float]:
    probe = LinearProbe.fit(vectors, names, groups, seed=seed)
    return (_one_output(Layer(probe.weight, probe.bias), len(classes), list(classes) == ["0", "1"]),), probe.strength


def _fit_mlp(
    vectors: np.ndarray, names: Sequence[str], groups: Sequence[str], classes: Sequence[str], seed: int
) -> tuple[Network, float]:
    """One hidden layer over standardised vectors; the L2 strength has the least held-out log loss."""
    from sklearn.metrics import log_loss
    from sklearn.model_selection import cross_val_predict
    from sklearn.preprocessing import StandardScaler

    from medsiglip.probe import grouped_folds

    of, folds = np.asarray(names), grouped_folds(np.asarray(names), np.asarray(groups), seed)
    with threadpool_limits(1):
        scaler = StandardScaler().fit(vectors.astype(np.float64))
        points = scaler.transform(vectors.astype(np.float64))

        def loss(penalty: float) -> float:
            held_out = cross_val_predict(
                _mlp(penalty, seed), points, of, groups=groups, cv=folds, method="predict_proba"
            )
            return float(log_loss(of, held_out, labels=sorted(set(names))))

        penalty = min(PENALTIES, key=loss)
        fitted = _mlp(penalty, seed).fit(points, of)
    first, last = (Layer(w.T, b) for w, b in zip(fitted.coefs_, fitted.intercepts_, strict=True))
    scaled = first.weight / scaler.scale_
    first = Layer(scaled, first.bias - scaled @ scaler.mean_)
    if len(classes) == 2 and list(classes) != ["0", "1"]:  # scikit-learn keeps one logit for two classes
        last = Layer(np.concatenate([-last.weight, last.weight]) / 2, np.concatenate([-last.bias, last.bias]) / 2)
    return (first, last), penalty


def _mlp(penalty: float, seed: int) -> Any:
    from sklearn.neural_network import MLPClassifier

    return MLPClassifier((HIDDEN,), alpha=penalty, solver="lbfgs", max_iter=300, random_state=seed)
