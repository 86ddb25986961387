"""A gate from labelled pictures: one half of the groups places the kinds, the other measures how far out their own lie.

Letters: N pictures, K kinds, D embedding width.
"""

from collections.abc import Sequence

import numpy as np
from threadpoolctl import threadpool_limits

from medsiglip.gate.gate import Gate, Kind

SMALLEST_SPREAD = 1e-5
"""Of unit vectors about their mean; below it there is rounding alone."""


def fit_gate(
    vectors: np.ndarray,
    names: Sequence[str],
    groups: Sequence[str],
    *,
    kinds: Sequence[Kind],
    encoder: str,
    pixels: str,
    site: str = "",
    calibrating: np.ndarray | None = None,
    seed: int = 0,
) -> Gate:
    """Fit a gate.

    Args:
        vectors: (N, D) float32 unit vectors.
        names: N names of kinds.
        groups: N patients or cases; one lies wholly in the half that places or in the half that measures.
        kinds: what the names stand for.
        encoder: identity.
        pixels: policy.
        site: whose pictures these are.
        calibrating: (N,) booleans, the pictures that measure; by default half of each kind's groups, drawn by seed.
        seed: of the draw.

    Raises:
        ValueError: lengths differ, a vector holds NaN, a name is no kind, a kind has no group in one of the halves, or
            all its pictures are alike.
    """
    if not len(vectors) == len(names) == len(groups):
        raise ValueError(f"got {len(vectors)} vectors, {len(names)} kinds, {len(groups)} groups; give one each")
    if not np.isfinite(vectors).all():
        raise ValueError("got vectors with NaN or infinity; embed the pictures again")
    of, known = np.asarray(names), [kind.name for kind in kinds]
    if unknown := sorted(set(names) - set(known)):
        raise ValueError(f"got the kind {unknown[0]!r}; expected one of {'; '.join(known)}")
    measures = _half(of, np.asarray(groups), seed) if calibrating is None else calibrating
    for name in known:
        if not ((of == name) & measures).any() or not ((of == name) & ~measures).any():
            raise ValueError(f"kind {name!r} has too few groups (patients) to place it and to measure it; give it two")
    points = np.asarray(vectors, dtype=np.float64)
    means = np.stack([points[(of == name) & ~measures].mean(axis=0) for name in known])
    rest = np.concatenate([points[(of == name) & ~measures] - mean for name, mean in zip(known, means, strict=True)])
    if np.abs(rest).max() < SMALLEST_SPREAD:
        raise ValueError("the pictures of each kind are all alike, so their spread is not known; give different ones")
    gate = Gate(
        tuple(kinds), means.astype(np.float32), _whitening(rest), (np.zeros(0),) * len(known), encoder, pixels, site
    )
    own = [
        np.sort(gate.distances(np.asarray(vectors)[(of == name) & measures])[:, place])
        for place, name in enumerate(known)
    ]
    return Gate(gate.kinds, gate.means, gate.whitening, tuple(own), encoder, pixels, site)


def _half(names: np.ndarray, groups: np.ndarray, seed: int) -> np.ndarray:
    """(N,) whether a picture measures: every second group, drawn kind by kind; a group goes where it was first put."""
    random = np.random.default_rng(seed)
    side: dict[str, bool] = {}
    for name in sorted(set(names.tolist())):
        of_kind = sorted(set(groups[names == name].tolist()))
        new = [group for group in random.permutation(of_kind).tolist() if group not in side]
        have = [side[group] for group in of_kind if group in side]
        for group in new:
            measuring = sum(have) < len(have) - sum(have)
            side[group] = measuring
            have.append(measuring)
    return np.array([side[group] for group in groups.tolist()])


def _whitening(centred: np.ndarray) -> np.ndarray:
    """(D, D) float32: Cholesky factor of the inverse covariance, shrunk as Ledoit and Wolf say."""
    from sklearn.covariance import LedoitWolf

    with threadpool_limits(1):
        precision = LedoitWolf(assume_centered=True).fit(centred).precision_
        return np.linalg.cholesky(precision).astype(np.float32)
