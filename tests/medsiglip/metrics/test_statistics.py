import numpy as np
import pytest
from scipy.stats import bootstrap
from sklearn.metrics import f1_score, roc_auc_score

from medsiglip.metrics.classification import accuracy, macro_f1
from medsiglip.metrics.ranking import auroc, macro_auroc_one_vs_rest
from medsiglip.metrics.statistics import grouped_bootstrap_ci, grouped_statistic_ci, paired_difference


def test_singletons_agree_with_scipy() -> None:
    values = np.random.default_rng(0).random(150)
    ours = grouped_bootstrap_ci(values, [str(i) for i in range(150)], n_resamples=5000)
    theirs = bootstrap((values,), np.mean, n_resamples=5000, method="percentile", random_state=1)
    assert (ours.value, ours.n, ours.n_groups) == (pytest.approx(values.mean()), 150, 150)
    assert ours.ci95 == pytest.approx(tuple(theirs.confidence_interval), abs=0.005)


def test_copies_of_an_item_do_not_narrow_the_interval() -> None:
    values = np.random.default_rng(0).random(60)
    groups = [str(i) for i in range(60)]
    once = grouped_bootstrap_ci(values, groups)
    copied = grouped_bootstrap_ci(np.repeat(values, 10), np.repeat(groups, 10).tolist())
    naive = grouped_bootstrap_ci(np.repeat(values, 10), [str(i) for i in range(600)])
    assert copied.ci95 == pytest.approx(once.ci95)
    assert naive.ci95.high - naive.ci95.low < 0.5 * (once.ci95.high - once.ci95.low)


def test_uneven_groups_by_hand() -> None:
    """Two groups, (1, 1) and (0): a resample's mean is 1, 2/3 or 0."""
    estimate = grouped_bootstrap_ci([1, 1, 0], ["a", "a", "b"])
    assert estimate.value == pytest.approx(2 / 3) and estimate.ci95 == (0.0, 1.0)


def test_same_seed_same_interval_and_one_group_none() -> None:
    values, groups = [1.0, 0.0, 1.0], ["a", "b", "c"]
    assert grouped_bootstrap_ci(values, groups, seed=3) == grouped_bootstrap_ci(values, groups, seed=3)
    assert np.isnan(grouped_bootstrap_ci([1.0, 0.0], ["a", "a"]).ci95).all()


def test_paired_difference_is_narrower_than_unpaired() -> None:
    rng = np.random.default_rng(0)
    hard = rng.random(300) < 0.5
    a, b = hard.astype(float), hard.astype(float)
    a[:15] = 1.0
    groups = [str(i) for i in range(300)]
    paired = paired_difference(a, b, groups)
    assert paired.value == pytest.approx((a - b).mean())
    assert paired.ci95.high - paired.ci95.low < 0.05
    with pytest.raises(ValueError, match="same items"):
        paired_difference(a, b[:-1], groups)


def test_statistic_bootstrap_of_a_mean_agrees_with_the_vectorised_one() -> None:
    values = np.random.default_rng(0).random(80)
    groups = [str(i // 2) for i in range(80)]
    slow = grouped_statistic_ci(lambda chosen: float(values[chosen].mean()), groups, n_resamples=3000)
    fast = grouped_bootstrap_ci(values, groups, n_resamples=3000)
    assert slow.value == pytest.approx(fast.value) and slow.ci95 == pytest.approx(fast.ci95, abs=0.01)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="n at least 1"):
        grouped_bootstrap_ci([], [])
    with pytest.raises(ValueError, match="not finite"):
        grouped_bootstrap_ci([1.0, float("nan")], ["a", "b"])
    with pytest.raises(ValueError, match="as many of each"):
        accuracy(["a"], [])


def test_auroc_by_hand_and_by_sklearn() -> None:
    assert auroc([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1]) == 0.75
    assert auroc([1, 1, 1, 1], [0, 1, 0, 1]) == 0.5
    assert np.isnan(auroc([0.1, 0.2], [1, 1]))
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(0, 9, 200), rng.random(200) < 0.3
    assert auroc(scores, labels) == pytest.approx(roc_auc_score(labels, scores))


def test_macro_metrics_by_sklearn() -> None:
    rng = np.random.default_rng(1)
    table = rng.dirichlet(np.ones(3), 120)
    labels = rng.choice(["a", "b", "c"], 120).tolist()
    predicted = [["a", "b", "c"][i] for i in table.argmax(axis=1)]
    assert macro_f1(predicted, labels) == pytest.approx(f1_score(labels, predicted, average="macro"))
    theirs = roc_auc_score(labels, table, multi_class="ovr", average="macro")
    assert macro_auroc_one_vs_rest(table, labels, ["a", "b", "c"]) == pytest.approx(theirs)
    assert accuracy(predicted, labels) == np.mean([p == q for p, q in zip(predicted, labels, strict=True)])


def test_macro_f1_leaves_out_classes_without_an_item() -> None:
    assert macro_f1(["a", "z"], ["a", "b"]) == pytest.approx((1.0 + 0.0) / 2)
