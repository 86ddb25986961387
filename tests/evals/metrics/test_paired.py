"""Two models on the same items: tests by hand, stored statsmodels values, and behaviour under simulation."""

import numpy as np
import pytest
from scipy.stats import binomtest

from evals.metrics.paired import (
    bootstrap_p,
    holm,
    mcnemar,
    non_inferiority,
    paired_mean_difference,
    paired_statistic_difference,
)
from medsiglip.metrics.ranking import auroc, auroc_of_weights
from medsiglip.metrics.statistics import resample_mean


def outcomes(only_first: int, only_second: int, both: int = 50, neither: int = 30) -> tuple[list[int], list[int]]:
    first = [1] * only_first + [0] * only_second + [1] * both + [0] * neither
    second = [0] * only_first + [1] * only_second + [1] * both + [0] * neither
    return first, second


def test_mcnemar_by_hand() -> None:
    """1 against 5: exact 2 (1 + 6) / 2^6 = 14/64; mid-p takes off P(X = 1) = 6/64."""
    found = mcnemar(*outcomes(1, 5))
    assert (found.only_first, found.only_second) == (1, 5)
    assert found.p_exact == pytest.approx(14 / 64) and found.p_mid == pytest.approx(8 / 64)


@pytest.mark.parametrize(
    ("only_first", "only_second", "p"),
    [  # statsmodels 0.15.0, mcnemar(table, exact=True).pvalue
        (1, 9, 0.021484375),
        (5, 5, 1.0),
        (12, 3, 0.03515625),
        (0, 4, 0.125),
        (40, 61, 0.046044066929342785),
    ],
)
def test_mcnemar_agrees_with_statsmodels_and_scipy(only_first: int, only_second: int, p: float) -> None:
    found = mcnemar(*outcomes(only_first, only_second))
    assert found.p_exact == pytest.approx(p)
    assert found.p_exact == pytest.approx(binomtest(only_first, only_first + only_second, 0.5).pvalue)
    assert found.p_mid <= found.p_exact and mcnemar(*outcomes(only_second, only_first)).p_mid == found.p_mid


def test_mcnemar_without_disagreement_and_refusals() -> None:
    assert mcnemar([1, 0], [1, 0]).p_exact == mcnemar([1, 0], [1, 0]).p_mid == 1.0
    for wrong in (([1, 0.5], [1, 0]), ([1], [1, 0])):
        with pytest.raises(ValueError, match="expected 0 or 1"):
            mcnemar(*wrong)


def test_holm_by_hand_and_by_statsmodels() -> None:
    """Sorted 0.005, 0.01, 0.03, 0.04, 0.9 times 5, 4, 3, 2, 1 = 0.025, 0.04, 0.09, 0.08 -> 0.09, 0.9."""
    assert holm([0.01, 0.04, 0.03, 0.005, 0.9]) == pytest.approx([0.04, 0.09, 0.09, 0.025, 0.9])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([0.02]) == [0.02] and holm([]) == []
    with_gap = holm([0.01, float("nan"), 0.02])
    assert with_gap[0] == 0.02 and np.isnan(with_gap[1]) and with_gap[2] == 0.02


def test_bootstrap_p_by_hand() -> None:
    """Of 9 resamples 1 is at or below 0: 2 (1 + 1) / (9 + 1)."""
    assert bootstrap_p(np.array([-1.0, 1, 2, 3, 4, 5, 6, 7, 8])) == pytest.approx(0.4)
    assert bootstrap_p(np.zeros(99)) == 1.0 and bootstrap_p(np.ones(1999)) == 2 / 2000


def test_p_and_interval_say_the_same() -> None:
    rng = np.random.default_rng(2)
    patients = [str(i // 3) for i in range(240)]
    first = rng.random(240) < 0.6
    for gain in (0.0, 0.03, 0.08, 0.15):
        second = first | (rng.random(240) < gain)
        found = paired_mean_difference(first, second, patients)
        outside = found.estimate.ci95.low > 0 or found.estimate.ci95.high < 0
        assert (found.p_bootstrap < 0.05) == outside
        swapped = paired_mean_difference(second, first, patients)
        assert swapped.estimate.value == -found.estimate.value and swapped.p_bootstrap == found.p_bootstrap


def test_the_difference_is_second_minus_first() -> None:
    """Means 1/4 and 3/4."""
    found = paired_mean_difference([1, 0, 0, 0], [1, 1, 1, 0], list("abcd"))
    assert found.estimate.value == 0.5


def test_a_model_against_itself_differs_by_nothing() -> None:
    values = np.random.default_rng(0).random(40)
    found = paired_mean_difference(values, values, [str(i) for i in range(40)])
    assert found.estimate.value == 0 and found.estimate.ci95 == (0, 0) and found.p_bootstrap == 1.0


def test_one_group_has_no_p() -> None:
    found = paired_mean_difference([1, 0], [0, 0], ["a", "a"])
    assert np.isnan(found.p_bootstrap) and "one group" in found.estimate.note
    with pytest.raises(ValueError, match="same items"):
        paired_mean_difference([1, 0], [0], ["a", "b"])


def test_pairing_narrows_the_interval_of_an_auroc_difference() -> None:
    rng = np.random.default_rng(1)
    truth = rng.random(200) < 0.4
    first = rng.normal(size=200) + truth
    second = first + 0.2 * rng.normal(size=200)
    patients = [str(i) for i in range(200)]
    one, other = auroc_of_weights(first, truth), auroc_of_weights(second, truth)
    paired = paired_statistic_difference(one, other, patients)
    assert paired.estimate.value == pytest.approx(auroc(second, truth) - auroc(first, truth))
    assert paired.estimate.ci95.high - paired.estimate.ci95.low < 0.05
    by_parts = paired_statistic_difference(lambda w: one(w) * 0, other, patients).estimate.ci95
    assert by_parts.high - by_parts.low > 0.1


@pytest.mark.slow
def test_false_alarms_of_the_paired_bootstrap_over_patients() -> None:
    """Two models of equal worth whose errors come by patient: about 5 % of 300 studies, far more without patients.

    300 studies at 5 % give 1.3 to 8.7 % with 99.7 % probability; 50 patients cost a point or so.
    """
    rng = np.random.default_rng(4)
    alarms = {"patients": 0, "items": 0}
    for _ in range(300):
        patient = np.repeat(np.arange(50), 6)
        first, second = ((rng.random(50) < 0.5)[patient] ^ (rng.random(300) < 0.1) for _ in range(2))
        by_patient = paired_mean_difference(first, second, [str(p) for p in patient], n_resamples=400)
        by_item = paired_mean_difference(first, second, [str(i) for i in range(300)], n_resamples=400)
        alarms["patients"] += by_patient.p_bootstrap < 0.05
        alarms["items"] += by_item.p_bootstrap < 0.05
    assert 0.01 <= alarms["patients"] / 300 <= 0.10 and alarms["items"] / 300 > 0.25


def test_non_inferiority() -> None:
    """A difference of -1 % with an interval of about +-2.4 %: within a margin of 5 %, not of 2 %."""
    rng = np.random.default_rng(0)
    differences = rng.permutation([-1.0] * 30 + [1.0] * 20 + [0.0] * 950)
    drawn = resample_mean(differences, [str(i) for i in range(1000)])
    wide, narrow = non_inferiority(drawn, 0.05), non_inferiority(drawn, 0.02)
    assert wide.is_non_inferior and wide.p_one_sided < 0.025
    assert not narrow.is_non_inferior and narrow.p_one_sided > 0.025
    assert wide.estimate.value == pytest.approx(-0.01)
    one_patient = non_inferiority(resample_mean([0.1, 0.2], ["a", "a"]), 0.05)
    assert not one_patient.is_non_inferior and np.isnan(one_patient.p_one_sided)
    with pytest.raises(ValueError, match="above 0"):
        non_inferiority(drawn, -0.05)
