"""Runs in order by several proxies, with what their episodes leave uncertain; and how well a proxy has chosen.

Letters: S runs, P proxies, R resamples.
"""

from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from finetune.selection.scores import Score
from medsiglip.metrics.bootstrap import Interval, group_weights, percentile_interval, ratio
from medsiglip.metrics.statistics import NO_INTERVAL, Estimate, group_codes, grouped_statistic_ci

N_RESAMPLES = 1000


class Ranked(NamedTuple):
    """A run's place."""

    run: str
    mean_rank: float
    """Over the proxies that it has: 0 is the best of the runs, 1 the worst."""
    ci95: Interval
    """nan, as `first`, where a score rests on one group alone, of which nothing can be drawn again."""
    first: float
    """Share of the resamples in which it comes first; ties share it."""
    scores: Mapping[str, Score]
    """Proxy to score; those that could not be computed are not there."""


def rank(scores: Mapping[str, Mapping[str, Score]], seed: int = 0, n_resamples: int = N_RESAMPLES) -> list[Ranked]:
    """Order runs by the mean of their ranks, the best first; equal ones by name.

    Groups are drawn with replacement, the same ones for all runs that a proxy has judged on the same groups.

    Args:
        scores: Run to proxy to score; every run has one at least.
        seed: Of the resampling.
        n_resamples: Number of resamples.
    """
    runs = sorted(scores)
    names = sorted({name for of_run in scores.values() for name in of_run})
    drawn = _mean_ranks(_resampled(scores, runs, names, seed, n_resamples))  # (S, 1 + R)
    lowest = drawn[:, 1:] == drawn[:, 1:].min(axis=0)
    first = (lowest / lowest.sum(axis=0)).mean(axis=1)
    drawable = all(len(set(score.groups)) > 1 for of_run in scores.values() for score in of_run.values())
    found = [
        Ranked(
            run,
            float(ranks[0]),
            percentile_interval(ranks[1:]) if drawable else NO_INTERVAL,
            float(share) if drawable else float("nan"),
            scores[run],
        )
        for run, ranks, share in zip(runs, drawn, first, strict=True)
    ]
    return sorted(found, key=lambda ranked: (ranked.mean_rank, ranked.run))


def spearman(proxy: ArrayLike, truth: ArrayLike, groups: Sequence[str], seed: int = 0) -> Estimate:
    """Spearman's correlation of a proxy with the true return over runs, with its interval over groups.

    Args:
        proxy: (S,) of each run, larger is better.
        truth: (S,) true returns.
        groups: (S,) the setting that a run's seeds have in common.
        seed: Of the resampling.
    """
    said, true = np.asarray(proxy, np.float64), np.asarray(truth, np.float64)

    def correlation(rows: NDArray[np.intp]) -> float:
        one, other = rankdata(said[rows]), rankdata(true[rows])
        if np.ptp(one) == 0 or np.ptp(other) == 0:
            return float("nan")
        return float(np.corrcoef(one, other)[0, 1])

    return grouped_statistic_ci(correlation, groups, seed, N_RESAMPLES)


def normalised_regret(proxy: ArrayLike, truth: ArrayLike, groups: Sequence[str], seed: int = 0) -> Estimate:
    """What choosing by a proxy loses: 0 is the best run, 1 the worst, on the scale of all runs.

    A resample draws groups and chooses among what it drew; its best is the best there.

    Args:
        proxy: (S,) of each run, larger is better; of equal ones the mean true return counts.
        truth: (S,) true returns.
        groups: (S,) the setting that a run's seeds have in common.
        seed: Of the resampling.
    """
    said, true = np.asarray(proxy, np.float64), np.asarray(truth, np.float64)
    scale = float(np.ptp(true))

    def regret(rows: NDArray[np.intp]) -> float:
        chosen = true[rows][said[rows] == said[rows].max()].mean()
        return max(0.0, float((true[rows].max() - chosen) / scale)) if scale else 0.0  # a mean's rounding is no gain

    return grouped_statistic_ci(regret, groups, seed, N_RESAMPLES)


def larger_is_better(score: Score) -> float:
    """The figure, turned round where smaller is better."""
    return score.value if score.larger_is_better else -score.value


def _resampled(
    scores: Mapping[str, Mapping[str, Score]], runs: Sequence[str], names: Sequence[str], seed: int, n_resamples: int
) -> NDArray[np.float64]:
    """(P, S, 1 + R) figures, larger is better; the first is of all episodes, nan where a run has no such proxy."""
    figures = np.full((len(names), len(runs), 1 + n_resamples), np.nan)
    for p, name in enumerate(names):
        for s, run in enumerate(runs):
            if (score := scores[run].get(name)) is not None:
                figures[p, s] = _draws(score, name, seed, n_resamples)
    return figures


def _draws(score: Score, name: str, seed: int, n_resamples: int) -> NDArray[np.float64]:
    codes = group_codes(score.totals, score.groups)
    number = int(codes.max()) + 1
    sums = np.stack([np.bincount(codes, of, number) for of in (score.totals, score.counts)], axis=1)  # (G, 2)
    same = repr((name, seed, sorted(set(score.groups))))  # runs judged on the same groups draw the same ones
    (weights,) = group_weights(number, int(sha256(same.encode()).hexdigest()[:8], 16), n_resamples)
    totals = np.concatenate([sums.sum(axis=0, keepdims=True), weights @ sums])
    values = ratio(totals[:, 0], totals[:, 1])
    return values if score.larger_is_better else -values


def _mean_ranks(figures: NDArray[np.float64]) -> NDArray[np.float64]:
    """(S, 1 + R) mean over proxies of the share of the other runs that are better, ties half."""
    ranks = rankdata(-figures, axis=1, nan_policy="omit")
    judged = np.isfinite(figures).sum(axis=1, keepdims=True)
    shares = (ranks - 1) / np.maximum(judged - 1, 1)
    return np.asarray(np.nanmean(np.where(np.isfinite(figures), shares, np.nan), axis=0))
