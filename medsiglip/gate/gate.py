"""A gate: kinds of picture as clouds in the embedding space, and which of them a new picture may belong to.

Letters: N pictures, K kinds, D embedding width.

The distance to a kind is Mahalanobis' (one covariance for all kinds). A kind is in a picture's set if the share of that
kind's own calibration pictures at least as far out (counting the picture itself) is above 1 - level. So a picture of a
kind has it in its set with at least the chance `level`, for pictures drawn as the calibration's were. An empty set
means: unlike anything that the gate knows.

Sources: Lee et al., NeurIPS 2018 (the distance); Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World
(2005), ch. 4 (sets by class, Mondrian).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

UNLIKE = "abstained: unlike every kind that the gate knows"
ACCEPTED = "accepted"
TOLERANCE = 1e-9
"""Of shares that rounding makes a hair more than they are."""


@dataclass(frozen=True)
class Kind:
    """A kind of picture, such as "chest X-ray"."""

    name: str
    modality: str = ""
    body_part: str = ""

    def is_called(self, name: str) -> bool:
        """Whether `name` is the kind's, its modality's or its body part's."""
        return name in (self.name, self.modality, self.body_part)


class Verdict(NamedTuple):
    """What a gate says of one picture."""

    decision: str
    """"accepted", or "abstained: " and why."""
    kinds: tuple[str, ...]
    """The conformal set: kinds that it may be of."""
    nearest: Kind
    distance: float
    """To the nearest kind: 1 is as far out as the middle one of its own calibration pictures."""
    p: float
    """Share of the likeliest kind's pictures at least as far out; at most 1 - level where the set is empty."""

    @property
    def accepted(self) -> bool:
        """Whether the picture may pass."""
        return self.decision == ACCEPTED


@dataclass(frozen=True)
class Gate:
    """What a site knows; fit one with `medsiglip.gate.fit`."""

    kinds: tuple[Kind, ...]
    means: np.ndarray
    """(K, D) float32."""
    whitening: np.ndarray
    """(D, D) float32: the distance of x to a mean m is the length of (x - m) @ whitening."""
    own_distances: tuple[np.ndarray, ...]
    """A kind each: ascending float64 distances of its calibration pictures to it."""
    encoder: str
    """Identity."""
    pixels: str
    """Pixel and resize policy."""
    site: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)

    def distances(self, vectors: np.ndarray) -> np.ndarray:
        """(N, K) float64 of (N, D) unit vectors.

        Raises:
            ValueError: the vectors are of another width, or hold NaN.
        """
        if vectors.ndim != 2 or vectors.shape[1] != self.means.shape[1]:
            expected = f"(N, {self.means.shape[1]})"
            raise ValueError(
                f"got vectors of shape {vectors.shape}, expected {expected}; embed with the gate's encoder"
            )
        if not np.isfinite(vectors).all():
            raise ValueError("got vectors with NaN or infinity; embed the pictures again")
        whitening = self.whitening.astype(np.float64)
        points, centres = vectors.astype(np.float64) @ whitening, self.means.astype(np.float64) @ whitening
        return np.stack([np.linalg.norm(points - centre, axis=1) for centre in centres], axis=1)

    def relative_distances(self, vectors: np.ndarray) -> np.ndarray:
        """(N, K): distances as multiples of the middle one of each kind's own, so that kinds of any spread compare."""
        return np.asarray(self.distances(vectors) / self._middles())

    def own_relative_distances(self) -> np.ndarray:
        """Of all calibration pictures to their own kind."""
        pairs = zip(self.own_distances, self._middles(), strict=True)
        return np.concatenate([own / middle for own, middle in pairs])

    def p_values(self, vectors: np.ndarray) -> np.ndarray:
        """(N, K): of each kind's calibration pictures and the new one, the share at least as far out as it."""
        found = [
            (len(own) - np.searchsorted(own, column, side="left") + 1) / (len(own) + 1)
            for own, column in zip(self.own_distances, self.distances(vectors).T, strict=True)
        ]
        return np.stack(found, axis=1)

    def judge(self, vectors: np.ndarray, level: float = 0.95, made_for: Sequence[str] = ()) -> list[Verdict]:
        """Judge pictures.

        Args:
            vectors: (N, D) float32 unit vectors.
            level: the chance with which a picture's kind is in its set.
            made_for: names of kinds, modalities or body parts that may pass; all kinds without.

        Raises:
            ValueError: as `distances`; the level is not between 0 and 1, or the gate knows nothing of a name.
        """
        check_level(level)
        wanted = self.named(made_for)
        distances, p_values = self.relative_distances(vectors), self.p_values(vectors)
        return [self._verdict(d, p, level, wanted, made_for) for d, p in zip(distances, p_values, strict=True)]

    def named(self, made_for: Sequence[str]) -> set[str]:
        """The kinds that go by these names; all for none.

        Raises:
            ValueError: there is none of a name.
        """
        for name in made_for:
            if not any(kind.is_called(name) for kind in self.kinds):
                known = "; ".join(kind.name for kind in self.kinds)
                raise ValueError(
                    f"the gate knows no {name!r}, only {known}; fit one on such pictures: medsiglip gate-fit"
                )
        return {kind.name for kind in self.kinds if not made_for or any(map(kind.is_called, made_for))}

    def cannot_exclude(self, level: float) -> list[str]:
        """Kinds of too few calibration pictures to be left out of any set at this level."""
        needed = math.ceil(1 / (1 - level) - 1 - TOLERANCE)
        few = zip(self.kinds, self.own_distances, strict=True)
        return [f"{kind.name} ({len(own)} pictures, {needed} needed)" for kind, own in few if len(own) < needed]

    def _middles(self) -> np.ndarray:
        return np.array([max(float(np.median(own)), np.finfo(np.float32).tiny) for own in self.own_distances])

    def _verdict(
        self, distances: np.ndarray, p_values: np.ndarray, level: float, wanted: set[str], made_for: Sequence[str]
    ) -> Verdict:
        inside = p_values > 1 - level + TOLERANCE
        names = tuple(kind.name for kind, in_set in zip(self.kinds, inside, strict=True) if in_set)
        nearest = int(distances.argmin())
        if not names:
            decision = UNLIKE
        elif wanted.isdisjoint(names):
            decision = f"abstained: like {' or '.join(names)}, not like {' or '.join(made_for)}"
        else:
            decision = ACCEPTED
        return Verdict(decision, names, self.kinds[nearest], float(distances[nearest]), float(p_values.max()))


def check_level(level: float) -> None:
    """Refuse what is no level.

    Raises:
        ValueError: it is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"level {level} is not between 0 and 1; give a share such as 0.95")
