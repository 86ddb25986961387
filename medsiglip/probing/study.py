"""A probe's held-out figures, its learning curve, and another encoder's beside it on the same split.

Letters: N rows, C labels, D embedding width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from medsiglip.metrics.bootstrap import ratio
from medsiglip.metrics.ranking import auroc_of_weights
from medsiglip.metrics.statistics import Estimate, grouped_weighted_ci
from medsiglip.probe import grouped_folds
from medsiglip.probing.head import HeadKind, fit_head

REPEATS = 3
"""Draws of each size of the learning curve but the whole."""
SMALLEST = 16


@dataclass(frozen=True)
class Labelled:
    """Rows with vectors."""

    labels: tuple[str, ...]
    exclusive: bool
    vectors: np.ndarray
    """(N, D) float32."""
    truth: np.ndarray
    """(N, C) 1, 0 or NaN."""
    groups: tuple[str, ...]
    places: tuple[str, ...]
    """Of the rows in the table, for messages: groups are patients, and are not printed."""
    sha256: tuple[str, ...]

    def rows(self, places: np.ndarray) -> "Labelled":
        """Some of the rows."""
        kept = places.tolist()
        return replace(
            self,
            vectors=self.vectors[places],
            truth=self.truth[places],
            groups=tuple(self.groups[place] for place in kept),
            places=tuple(self.places[place] for place in kept),
            sha256=tuple(self.sha256[place] for place in kept),
        )

    def with_vectors(self, vectors: np.ndarray) -> "Labelled":
        """The same rows as another encoder sees them."""
        return replace(self, vectors=vectors)


@dataclass(frozen=True)
class Fold:
    """Places of rows that are learned from, and of those that are scored."""

    fitted: np.ndarray
    scored: np.ndarray


def folds_by_side(data: Labelled, sides: Sequence[str]) -> list[Fold]:
    """The one fold of a split that the table gives: "train" is learned from, "test" scored, others are left out.

    Raises:
        ValueError: a side is empty, or a patient, or the same picture, is on both; rows are named, not patients.
    """
    of = np.asarray(sides)
    fitted, scored = np.flatnonzero(of == "train"), np.flatnonzero(of == "test")
    if not len(fitted) or not len(scored):
        raise ValueError(f"the split has {len(fitted)} rows 'train' and {len(scored)} 'test'; both are needed")
    for what, column in (("patient", data.groups), ("picture, byte for byte", data.sha256)):
        first = {column[place]: place for place in fitted.tolist()}
        for place in scored.tolist():
            if column[place] in first:
                rows = f"{data.places[first[column[place]]]} (train) and {data.places[place]} (test)"
                raise ValueError(f"{rows} are of one {what}, so the figures would lie; put both on one side")
    return [Fold(fitted, scored)]


def grouped_study_folds(data: Labelled, seed: int = 0) -> list[Fold]:
    """At most five folds, no patient on both sides, stratified by label (independent ones by all of them together).

    Raises:
        ValueError: a label lies with one patient only.
    """
    if data.exclusive:
        names = np.asarray(data.labels)[data.truth.argmax(axis=1)]
        folds = grouped_folds(names, np.asarray(data.groups), seed)
    else:
        from sklearn.model_selection import GroupKFold

        names = np.zeros(len(data.truth))
        num_groups = len(set(data.groups))
        if num_groups < 2:
            raise ValueError("all rows are of one group; a probe is scored on groups that it has not seen")
        folds = GroupKFold(min(5, num_groups), shuffle=True, random_state=seed)
    return [Fold(fitted, scored) for fitted, scored in folds.split(data.vectors, names, data.groups)]


def held_out(data: Labelled, folds: Sequence[Fold], kind: HeadKind, seed: int = 0) -> np.ndarray:
    """(N, C) probabilities of the scored rows by heads that had not seen their group; NaN of rows in no scored part."""
    found = np.full(data.truth.shape, np.nan)
    for fold in folds:
        found[fold.scored] = _probabilities(data.rows(fold.fitted), data.vectors[fold.scored], kind, seed)
    return found


def learning_curve(data: Labelled, fold: Fold, kind: HeadKind, seed: int = 0) -> list[dict[str, Any]]:
    """Mean AUROC on one fold's scored rows by number of training rows: 16, 32, ... in whole groups, up to all.

    Sizes at which a label has too few groups to be learned are left out.
    """
    points = []
    for size in _sizes(len(fold.fitted)):
        whole = size == len(fold.fitted)
        values = []
        for repeat in range(1 if whole else REPEATS):
            places = fold.fitted if whole else _draw(data, fold.fitted, size, seed + repeat)
            try:
                probabilities = _probabilities(data.rows(places), data.vectors[fold.scored], kind, seed)
            except ValueError:
                continue
            values.append(mean_auroc(data.rows(fold.scored), probabilities).value)
        if values:
            points.append({"rows": size, "mean_auroc": round(float(np.mean(values)), 6), "draws": len(values)})
    return points


def mean_auroc(scored: Labelled, probabilities: np.ndarray) -> Estimate:
    """Unweighted mean over labels of the AUROC, each of the rows of which something is said; interval over groups."""
    return grouped_weighted_ci(_mean_of_aurocs(scored, probabilities), scored.groups)


def mean_auroc_difference(scored: Labelled, ours: np.ndarray, theirs: np.ndarray) -> Estimate:
    """Ours minus theirs on the same rows, in the same draws of groups."""
    a, b = (_mean_of_aurocs(scored, table) for table in (ours, theirs))
    return grouped_weighted_ci(lambda weights: a(weights) - b(weights), scored.groups)


def commonest_share(data: Labelled) -> float:
    """The baseline that looks at nothing: the share of the commonest label of exclusive ones."""
    return float(data.truth.mean(axis=0).max())


def _mean_of_aurocs(scored: Labelled, probabilities: np.ndarray) -> Any:
    parts = []
    for j in range(len(scored.labels)):
        said = np.flatnonzero(np.isfinite(scored.truth[:, j]))
        if len(said):
            parts.append((said, auroc_of_weights(probabilities[said, j], scored.truth[said, j] == 1)))

    def of(weights: np.ndarray) -> np.ndarray:
        table = np.stack([part(weights[:, said]) for said, part in parts], axis=1)
        defined = np.isfinite(table)
        return ratio(np.where(defined, table, 0.0).sum(axis=1), defined.sum(axis=1).astype(np.float64))

    return of


def _probabilities(fitted: Labelled, vectors: np.ndarray, kind: HeadKind, seed: int) -> np.ndarray:
    """(n, C) in the order of the labels; a label that is not among the fitted rows has 0."""
    head = fit_head(
        fitted.vectors,
        fitted.truth,
        fitted.groups,
        fitted.labels,
        exclusive=fitted.exclusive,
        kind=kind,
        seed=seed,
    )
    said = head.classify_vectors(vectors)
    found = np.zeros((len(vectors), len(fitted.labels)))
    for j, label in enumerate(said.labels):
        found[:, fitted.labels.index(label)] = said.probabilities[:, j]
    return found


def _sizes(num_rows: int) -> list[int]:
    sizes, size = [], SMALLEST
    while size < num_rows:
        sizes.append(size)
        size *= 2
    return [*sizes, num_rows]


def _draw(data: Labelled, places: np.ndarray, size: int, seed: int) -> np.ndarray:
    """About `size` of the rows: whole groups in a drawn order, until there are enough."""
    groups = np.asarray(data.groups)[places]
    order = np.random.default_rng(seed).permutation(np.unique(groups))
    rank = {group: number for number, group in enumerate(order.tolist())}
    by_group = places[np.argsort([rank[group] for group in groups.tolist()], kind="stable")]
    return np.sort(by_group[:size])
