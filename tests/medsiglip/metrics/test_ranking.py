"""AUROC, average precision, DeLong and reader studies: by hand, scikit-learn, and stored values of other packages."""

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from evals.metrics.reader_study import compare_with_readers, sensitivity_at_specificity
from medsiglip.metrics.delong import delong_auroc, delong_paired
from medsiglip.metrics.estimates import auroc_estimate, average_precision_estimate
from medsiglip.metrics.ranking import (
    auroc,
    auroc_of_weights,
    average_precision,
    average_precision_of_weights,
    macro_auroc_of_weights,
)
from medsiglip.metrics.statistics import grouped_weighted_ci


def two_models(n: int = 60) -> tuple[NDArray[np.bool_], NDArray[np.float64], NDArray[np.float64]]:
    """Truth and the scores, with ties, of two models that share errors."""
    rng = np.random.default_rng(7)
    truth = rng.random(n) < 0.4
    first = np.round(rng.normal(size=n) + 1.0 * truth, 1)
    return truth, first, np.round(rng.normal(size=n) + 0.6 * truth + 0.3 * first, 1)


def test_average_precision_by_hand() -> None:
    """Ranked: yes, no, yes, no. Precision 1 at recall 1/2, 2/3 at recall 1: 1/2 * 1 + 1/2 * 2/3 = 5/6."""
    assert average_precision([0.9, 0.8, 0.7, 0.1], [1, 0, 1, 0]) == pytest.approx(5 / 6)
    assert average_precision([1, 1, 1, 1], [1, 0, 0, 0]) == 1 / 4
    assert np.isnan(average_precision([1, 2], [0, 0]))
    with pytest.raises(ValueError, match="not finite"):
        average_precision([1, np.nan], [0, 1])


@pytest.mark.parametrize("seed", range(4))
def test_scikit_learn_agrees_with_ties(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, truth = rng.integers(0, 12, 150), rng.random(150) < 0.3
    assert auroc(scores, truth) == pytest.approx(roc_auc_score(truth, scores))
    assert average_precision(scores, truth) == pytest.approx(average_precision_score(truth, scores))
    assert auroc(-scores, truth) == pytest.approx(1 - auroc(scores, truth))
    assert auroc(scores, ~truth) == pytest.approx(1 - auroc(scores, truth))
    order = rng.permutation(150)
    assert auroc(scores[order], truth[order]) == pytest.approx(auroc(scores, truth))
    assert auroc(np.exp(scores / 5), truth) == pytest.approx(auroc(scores, truth))


def test_weights_are_repeats() -> None:
    """An item of weight 3 is the item three times over; of weight 0, left out."""
    truth, scores, _ = two_models(40)
    weights = np.random.default_rng(0).integers(0, 4, (5, 40)).astype(float)
    table = np.stack([-scores, scores], axis=1)
    names = np.where(truth, "yes", "no").tolist()
    macro = macro_auroc_of_weights(table, names, ("no", "yes"))(weights)
    for row, weight in enumerate(weights):
        repeated = np.repeat(np.arange(40), weight.astype(int))
        expected = roc_auc_score(truth[repeated], scores[repeated])
        assert auroc_of_weights(scores, truth)(weights)[row] == pytest.approx(expected)
        assert macro[row] == pytest.approx(expected)
        assert average_precision_of_weights(scores, truth)(weights)[row] == pytest.approx(
            average_precision_score(truth[repeated], scores[repeated])
        )


def test_delong_by_other_packages() -> None:
    """Made with MLstatkit (paired test, intervals) and confidenceinterval (intervals) on these 60 items."""
    truth, first, second = two_models()
    one, other = delong_auroc(first, truth), delong_auroc(second, truth)
    assert (one.value, other.value) == pytest.approx((0.7211428571428571, 0.7411428571428571))
    assert one.ci95 == pytest.approx((0.5854593169659036, 0.8568263973198106))
    assert other.ci95 == pytest.approx((0.6122830098633794, 0.8700027044223348))
    paired = delong_paired(first, second, truth)
    assert paired.standard_error**2 == pytest.approx(0.0054583273309323724)
    assert paired.p == pytest.approx(0.7866160466400023)
    assert delong_paired(second, first, truth).value == pytest.approx(-paired.value)


def test_delong_components_by_hand() -> None:
    """Positives 3, 1; negatives 2, 0. V10 = 1, 1/2; V01 = 1/2 (only 3 above 2), 1; AUROC 3/4.

    S10 = ((1/4)^2 + (1/4)^2) / 1 = 1/8, S01 = 1/8; variance = 1/8/2 + 1/8/2 = 1/8.
    """
    found = delong_auroc([3, 1, 2, 0], [1, 1, 0, 0])
    assert found.value == 0.75 and found.standard_error == pytest.approx(np.sqrt(1 / 8))
    assert (found.n_positive, found.n_negative, found.ci95.high) == (2, 2, 1.0)


def test_delong_for_patients_with_several_items() -> None:
    """Obuchowski's variance: items alone give DeLong's; every patient five times over, the patients' own."""
    truth, scores, other = two_models()
    alone = delong_auroc(scores, truth, [str(i) for i in range(60)])
    assert alone.standard_error == pytest.approx(delong_auroc(scores, truth).standard_error)
    copies = [np.repeat(values, 5) for values in (scores, other, truth)]
    patients = np.repeat([str(i) for i in range(60)], 5).tolist()
    grouped = delong_auroc(copies[0], copies[2], patients)
    assert grouped.standard_error == pytest.approx(alone.standard_error, rel=0.03)
    assert delong_auroc(copies[0], copies[2]).standard_error < 0.5 * alone.standard_error
    assert delong_paired(*copies, patients).p == pytest.approx(delong_paired(scores, other, truth).p, abs=0.01)


def test_delong_and_the_grouped_bootstrap_agree() -> None:
    rng = np.random.default_rng(3)
    patient = np.repeat(np.arange(80), 4)
    truth = np.repeat(rng.random(80) < 0.4, 4)
    scores = rng.normal(size=320) + truth + np.repeat(rng.normal(size=80), 4)
    patients = [str(p) for p in patient]
    boot, delong = auroc_estimate(scores, truth, patients)
    assert boot.value == delong.value == auroc(scores, truth)
    assert delong.ci95 == pytest.approx(boot.ci95, abs=0.015)
    assert boot.ci95 == pytest.approx(boot.ci95_bca, abs=0.02)
    precision = average_precision_estimate(scores, truth, patients)
    assert precision.value == pytest.approx(average_precision(scores, truth)) and precision.n_groups == 80
    assert precision.ci95.low < precision.value < precision.ci95.high


def test_delong_counts_what_a_patients_positives_and_negatives_share() -> None:
    """Every patient has films of both kinds and a shift of his own: without the cross terms it would be too wide."""
    rng = np.random.default_rng(6)
    truth = np.tile([True, True, False, False], 100)
    patient = np.repeat(np.arange(100), 4)
    scores = rng.normal(size=400) + truth + 2 * rng.normal(size=100)[patient]
    found = delong_auroc(scores, truth, [str(p) for p in patient])
    boot = grouped_weighted_ci(auroc_of_weights(scores, truth), [str(p) for p in patient])
    assert found.ci95 == pytest.approx(boot.ci95, abs=0.01)
    assert found.standard_error < 0.8 * delong_auroc(scores, truth).standard_error


def test_delong_degenerate_cases_speak() -> None:
    perfect = delong_auroc([1, 2, 3, 4], [0, 0, 1, 1])
    assert perfect.value == 1.0 and perfect.ci95 == (1.0, 1.0) and "no width" in perfect.note
    one_class = delong_auroc([1, 2], [1, 1])
    assert np.isnan(one_class.value) and "no positive or no negative" in one_class.note
    one_patient = delong_auroc([1, 3, 2, 0], [1, 1, 0, 0], ["a", "a", "b", "c"])
    assert np.isnan(one_patient.ci95).all() and "one group" in one_patient.note
    same = delong_paired([1, 3, 2, 0], [10, 30, 20, 0], [1, 1, 0, 0])
    assert (same.value, same.p) == (0.0, 1.0)


# Four cases with the finding, four without; the model ranks one positive below two negatives.
TRUTH = [1, 1, 1, 1, 0, 0, 0, 0]
SCORES = [0.9, 0.8, 0.7, 0.35, 0.4, 0.36, 0.2, 0.1]
CASES = [f"case {i}" for i in range(8)]


def test_sensitivity_at_specificity_by_hand() -> None:
    """ROC points (false alarms, sensitivity): (0, 3/4) at 0.7, (1/4, 3/4), (1/2, 3/4), then (1/2, 1), ..."""
    assert sensitivity_at_specificity(SCORES, TRUTH, 1.0) == 3 / 4
    assert sensitivity_at_specificity(SCORES, TRUTH, 0.75) == 3 / 4
    assert sensitivity_at_specificity(SCORES, TRUTH, 0.5) == 1.0
    assert sensitivity_at_specificity(SCORES, TRUTH, 0.0) == 1.0
    # ties of a positive and a negative: a slanted piece from (0, 0) to (1, 1)
    assert sensitivity_at_specificity([1, 1], [1, 0], 0.75) == pytest.approx(0.25)
    assert np.isnan(sensitivity_at_specificity([1, 2], [1, 1], 0.5))
    with pytest.raises(ValueError, match="expected 0 to 1"):
        sensitivity_at_specificity(SCORES, TRUTH, 75)


def test_readers_by_hand() -> None:
    """Reader 1: sensitivity 2/4, specificity 2/4; reader 2: 4/4 and 4/4 of which one case was not read (3/3).

    Means 3/4 and 3/4; the model has 3/4 at specificity 3/4: difference 0.
    """
    readings = np.array([[1, 1], [1, 1], [0, 1], [0, 1], [1, 0], [1, 0], [0, 0], [0, np.nan]])
    found = compare_with_readers(SCORES, readings, TRUTH, CASES)
    assert (found.readers_sensitivity.value, found.readers_specificity.value) == (0.75, 0.75)
    assert found.model_sensitivity.value == 0.75 and found.difference.estimate.value == 0.0
    assert found.non_inferiority is None


def simulated_readers(seed: int, n: int, gain: float) -> tuple[NDArray[np.float64], ...]:
    """Cases with scores; three readers who call by thresholds on noisy copies of the same evidence."""
    rng = np.random.default_rng(seed)
    truth = rng.random(n) < 0.4
    evidence = rng.normal(size=n) + 1.5 * truth
    scores = evidence + rng.normal(size=n) * (1 - gain)
    readings = np.stack([evidence + rng.normal(size=n) > 0.75 for _ in range(3)], axis=1).astype(float)
    return scores, readings, truth.astype(float)


def test_readers_when_the_model_is_better_and_when_it_is_one_of_them() -> None:
    scores, readings, truth = simulated_readers(0, 600, gain=1.0)
    patients = [str(i) for i in range(600)]
    better = compare_with_readers(scores, readings, truth, patients, margin=0.05)
    assert better.difference.estimate.ci95.low > 0 and better.difference.p_bootstrap < 0.05
    assert better.non_inferiority is not None and better.non_inferiority.is_non_inferior
    worse = compare_with_readers(-scores, readings, truth, patients, margin=0.05)
    assert worse.difference.estimate.ci95.high < 0 and not worse.non_inferiority.is_non_inferior  # type: ignore[union-attr]
    assert worse.non_inferiority.p_one_sided == pytest.approx(1.0, abs=0.01)  # type: ignore[union-attr]


def test_a_model_that_is_the_reader_differs_by_nothing() -> None:
    _, readings, truth = simulated_readers(1, 200, gain=1.0)
    same = compare_with_readers(readings[:, 0], readings[:, :1], truth, [str(i) for i in range(200)])
    assert same.difference.estimate.value == pytest.approx(0)
    assert same.difference.estimate.ci95 == pytest.approx((0, 0), abs=1e-9) and same.difference.p_bootstrap == 1.0


def test_reader_refusals() -> None:
    with pytest.raises(ValueError, match="other than 0, 1 and nan"):
        compare_with_readers(SCORES, np.full((8, 1), 0.5), TRUTH, CASES)
    with pytest.raises(ValueError, match="one row a case"):
        compare_with_readers(SCORES, np.ones((7, 1)), TRUTH, CASES)
    unread = np.array([[np.nan]] * 4 + [[1.0]] * 4)
    with pytest.raises(ValueError, match="reader 1 read no positive case"):
        compare_with_readers(SCORES, unread, TRUTH, CASES)
    with pytest.raises(ValueError, match="margin 0"):
        compare_with_readers(SCORES, np.array(TRUTH)[:, None], TRUTH, CASES, margin=0)


def test_auroc_is_the_share_of_pairs() -> None:
    truth, scores, _ = two_models(25)
    pairs = itertools.product(scores[truth], scores[~truth])
    wins = [1.0 if p > n else 0.5 if p == n else 0.0 for p, n in pairs]
    assert auroc(scores, truth) == pytest.approx(np.mean(wins))
