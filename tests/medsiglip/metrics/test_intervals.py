"""Intervals: against scipy and stored statsmodels values, their coverage, and every degenerate case."""

import numpy as np
import pytest
from scipy.stats import binomtest, bootstrap

from medsiglip.metrics.bootstrap import MAX_BLOCKS, _acceleration, delete_group_weights, group_weights
from medsiglip.metrics.ranking import auroc_of_weights
from medsiglip.metrics.statistics import (
    grouped_bootstrap_ci,
    grouped_totals_ci,
    grouped_weighted_ci,
    paired_difference,
    wilson_interval,
)


@pytest.mark.parametrize("n", [80, 1500])
def test_bca_agrees_with_scipy_also_with_blocks(n: int) -> None:
    """Skewed values, so that BCa is not the percentile interval; more groups than MAX_BLOCKS in the second case."""
    values = np.random.default_rng(5).exponential(size=n) ** 2
    ours = grouped_bootstrap_ci(values, [str(i) for i in range(n)], n_resamples=9000)
    theirs = bootstrap((values,), np.mean, n_resamples=9000, method="BCa", rng=np.random.default_rng(1), batch=500)
    width = ours.ci95.high - ours.ci95.low
    assert n <= MAX_BLOCKS or n == 1500
    assert ours.ci95_bca == pytest.approx(tuple(theirs.confidence_interval), abs=0.06 * width)
    assert ours.ci95_bca.low > ours.ci95.low and ours.ci95_bca.high > ours.ci95.high


def test_bca_corrects_the_bias_of_a_biased_statistic() -> None:
    """The variance of 25 values (divided by n) is too low in resamples; scipy's BCa sees it, so must ours."""
    values = np.random.default_rng(8).normal(size=25)
    columns = np.stack([values, values**2, np.ones(25)], axis=1)

    def variance(totals: np.ndarray) -> np.ndarray:
        return totals[:, 1] / totals[:, 2] - (totals[:, 0] / totals[:, 2]) ** 2

    ours = grouped_totals_ci(variance, columns, [str(i) for i in range(25)], n_resamples=20_000)
    theirs = bootstrap((values,), np.var, n_resamples=20_000, method="BCa", rng=np.random.default_rng(1), batch=2000)
    assert ours.value == pytest.approx(np.var(values))
    assert ours.ci95_bca == pytest.approx(tuple(theirs.confidence_interval), rel=0.02)
    assert ours.ci95_bca.high > 1.1 * ours.ci95.high


def test_blocks_leave_every_group_out_once() -> None:
    weights = delete_group_weights(1234, 0)
    assert weights.shape == (MAX_BLOCKS, 1234) and ((weights == 0).sum(axis=0) == 1).all()
    assert (delete_group_weights(4, 0) == 1 - np.eye(4)).all()


def test_draws_do_not_depend_on_how_many_are_made_at_once() -> None:
    whole = np.concatenate(list(group_weights(7, 3, 50)))
    parts = np.concatenate(list(group_weights(7, 3, 50, rows_at_once=8)))
    assert (whole == parts).all() and (whole.sum(axis=1) == 7).all() and len(whole) == 50


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [  # statsmodels 0.15.0, proportion_confint(successes, n, method="wilson")
        (0, 10, 0.0, 0.27753279986288926),
        (10, 10, 0.7224672001371106, 1.0),
        (7, 12, 0.31951131254954973, 0.8067396863412435),
        (81, 263, 0.2552885198782742, 0.36620957698280004),
    ],
)
def test_wilson(successes: int, n: int, low: float, high: float) -> None:
    assert wilson_interval(successes, n) == pytest.approx((low, high), abs=1e-9)
    theirs = binomtest(successes, n).proportion_ci(method="wilson")
    assert wilson_interval(successes, n) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


def test_wilson_by_hand_and_refused() -> None:
    """1 of 2: z^2 = 3.8415; centre (0.5 + z^2/4) / (1 + z^2/2) = 0.5; half = z sqrt(1/8 + z^2/16) / (1 + z^2/2)."""
    z = 1.959964
    half = z * np.sqrt(1 / 8 + z * z / 16) / (1 + z * z / 2)
    assert wilson_interval(1, 2) == pytest.approx((0.5 - half, 0.5 + half), abs=1e-6)
    for wrong in ((3, 2), (-1, 2), (0, 0)):
        with pytest.raises(ValueError, match="expected n at least 1"):
            wilson_interval(*wrong)


def test_wilson_stands_beside_plain_proportions_only() -> None:
    assert grouped_bootstrap_ci([1, 0, 1], ["a", "b", "c"]).ci95_wilson == wilson_interval(2, 3)
    assert grouped_bootstrap_ci([0.5, 0, 1], ["a", "b", "c"]).ci95_wilson is None
    assert paired_difference([1, 0, 1], [0, 0, 1], ["a", "b", "c"]).ci95_wilson is None


def test_one_group_has_no_interval_and_says_so() -> None:
    found = grouped_bootstrap_ci([1.0, 0.0], ["a", "a"])
    assert found.value == 0.5 and np.isnan([*found.ci95, *found.ci95_bca]).all()
    assert found.note == "all items are of one group: no interval"


def test_equal_values_have_an_interval_without_width_and_say_so() -> None:
    found = grouped_bootstrap_ci([1, 1, 1, 1], ["a", "b", "c", "d"])
    assert found.ci95 == found.ci95_bca == (1.0, 1.0) and "no width" in found.note
    assert found.ci95_wilson is not None and found.ci95_wilson.low == pytest.approx(0.5101, abs=1e-4)


def test_one_class_in_a_resample_is_counted() -> None:
    """One positive patient among four: it is not drawn in (3/4)^4 = 31.6 % of the resamples."""
    truth, scores, patients = [1, 0, 0, 0], [0.5, 0.1, 0.9, 0.2], list("abcd")
    found = grouped_weighted_ci(auroc_of_weights(scores, truth), patients)
    assert found.value == pytest.approx(2 / 3) and 0 <= found.ci95.low <= found.ci95.high <= 1
    counted = int(found.note.split()[2])
    assert counted / 2000 == pytest.approx(0.316 + 0.004, abs=0.04)
    assert found.note.endswith("a class was not drawn): they are left out of the interval")


def test_a_class_that_is_rarely_drawn_gives_no_interval() -> None:
    found = grouped_totals_ci(
        lambda totals: np.where(totals[:, 0] >= 3, 1.0, np.nan), np.array([[3.0], [0], [0]]), ["a", "b", "c"]
    )
    assert np.isfinite(found.ci95).all()
    rare = grouped_totals_ci(
        lambda totals: np.where((totals > 0).all(axis=1), 1.0, np.nan), np.eye(4), ["a", "b", "c", "d"]
    )
    assert rare.value == 1.0 and np.isnan(rare.ci95).all() and rare.note.endswith("no interval")


def test_undefined_value_says_so() -> None:
    found = grouped_weighted_ci(auroc_of_weights([1, 2], [1, 1]), ["a", "b"])
    assert np.isnan(found.value) and np.isnan(found.ci95).all() and found.note.startswith("undefined on these items")


def test_order_of_the_items_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    values, patients = rng.random(50), [f"p{i % 20}" for i in range(50)]
    order = rng.permutation(50)
    mixed = grouped_bootstrap_ci(values[order], [patients[i] for i in order])
    assert mixed.ci95 == pytest.approx(grouped_bootstrap_ci(values, patients).ci95)


def grouped_answers(rng: np.random.Generator, n_patients: int = 60) -> tuple[np.ndarray, list[str]]:
    """Answers of patients with 1 to 12 questions each; a patient is easy or hard, true mean 0.6."""
    sizes = rng.integers(1, 13, n_patients)
    easy = rng.beta(1.2, 0.8, n_patients)
    patients = np.repeat(np.arange(n_patients), sizes)
    return (rng.random(sizes.sum()) < np.repeat(easy, sizes)).astype(float), [str(p) for p in patients]


@pytest.mark.slow
def test_coverage_over_patients_and_its_loss_without_them() -> None:
    """The 95 % interval holds the truth in about 95 % of 400 simulated studies; ignoring patients, in far fewer.

    400 studies of coverage 0.95 give 0.917 to 0.973 with 99.7 % probability; 60 patients cost a point or so.
    """
    rng = np.random.default_rng(11)
    covered = {"patients": 0, "bca": 0, "items": 0, "wilson": 0}
    for _ in range(400):
        values, patients = grouped_answers(rng)
        right = grouped_bootstrap_ci(values, patients, n_resamples=500)
        wrong = grouped_bootstrap_ci(values, [str(i) for i in range(len(values))], n_resamples=500)
        assert right.ci95_wilson is not None
        named = {"patients": right.ci95, "bca": right.ci95_bca, "items": wrong.ci95, "wilson": right.ci95_wilson}
        for name, interval in named.items():
            covered[name] += interval.low <= 0.6 <= interval.high
    assert 0.91 <= covered["patients"] / 400 <= 0.975 and 0.91 <= covered["bca"] / 400 <= 0.975
    assert covered["items"] / 400 < 0.80 and covered["wilson"] / 400 < 0.80


def test_ten_thousand_items_are_resampled_in_chunks_that_fit() -> None:
    """All 2,000 resamples of 10,000 patients; the whole table of weights would be 160 MB."""
    rng = np.random.default_rng(0)
    truth, scores = rng.random(10_000) < 0.3, rng.normal(size=10_000)
    patients = [str(i) for i in range(10_000)]
    found = grouped_weighted_ci(auroc_of_weights(scores + truth, truth), patients)
    assert found.ci95.high - found.ci95.low < 0.03 and found.ci95.low < found.value < found.ci95.high


def test_differences_too_small_to_square_have_an_interval() -> None:
    values = np.ones(40)
    values[0] = 1 - 1e-120
    found = grouped_bootstrap_ci(values, [str(i) for i in range(40)], n_resamples=999)
    assert found.ci95.low <= found.ci95.high == pytest.approx(1.0)
    small, plain = (_acceleration(scale * np.array([1.0, 2.0, 4.0, 8.0])) for scale in (1e-120, 1.0))
    assert small == pytest.approx(plain) != 0
