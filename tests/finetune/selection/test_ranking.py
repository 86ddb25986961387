"""Order, its uncertainty, and what a choice loses."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from finetune.selection.ranking import normalised_regret, rank, spearman
from finetune.selection.scores import Score
from finetune.selection.stopping import best_checkpoint


def score(*values: float, larger: bool = True, groups: str = "abcdefgh") -> Score:
    return Score(np.array(values), np.ones(len(values)), tuple(groups[: len(values)]), larger)


def test_a_score_is_a_ratio_of_sums() -> None:
    found = Score(np.array([2.0, 9.0]), np.array([1.0, 3.0]), ("a", "b"), True)
    assert found.value == 11 / 4 and found.per_episode.tolist() == [2, 3]
    assert found.estimate().value == 11 / 4 and found.estimate().ci95 == (2, 3)


def test_runs_are_ordered_by_mean_rank() -> None:
    """Of three runs a is first by both, b and c share what is left."""
    error = {"a": score(0.1, 0.1, larger=False), "b": score(0.2, 0.2, larger=False), "c": score(0.3, 0.3, larger=False)}
    distance = {"a": score(1, 1, larger=False), "b": score(3, 3, larger=False), "c": score(2, 2, larger=False)}
    found = rank({run: {"error": error[run], "distance": distance[run]} for run in "abc"})
    assert [(one.run, one.mean_rank) for one in found] == [("a", 0), ("b", 0.75), ("c", 0.75)]
    assert found[0].first == 1 and found[0].ci95 == (0, 0)


def test_the_same_groups_are_drawn_for_all() -> None:
    """b is better in every episode, by little beside what episodes differ by: paired, that is certain."""
    wide = np.array([0.0, 10, 20, 30, 40, 50, 60, 70])
    found = rank({"a": {"return": score(*wide)}, "b": {"return": score(*(wide + 0.1))}})
    assert [one.run for one in found] == ["b", "a"] and found[0].first == 1
    unpaired = rank({"a": {"return": score(*wide)}, "b": {"return": score(*(wide + 0.1), groups="ijklmnop")}})
    assert 0.3 < unpaired[0].first < 0.7 and unpaired[0].ci95 == (0, 1)


def test_a_missing_proxy_leaves_the_others() -> None:
    found = rank(
        {
            "a": {"error": score(3, larger=False), "return": score(5)},
            "b": {"error": score(2, larger=False)},
            "c": {"error": score(1, larger=False), "return": score(4)},
        }
    )
    assert {one.run: one.mean_rank for one in found} == {"a": 0.5, "b": 0.5, "c": 0.5}
    assert "return" not in found[1].scores
    assert all(np.isnan([one.first, *one.ci95]).all() for one in found)  # one group alone cannot be drawn again


def test_equal_runs_share_the_first_place() -> None:
    found = rank({run: {"return": score(1, 2)} for run in "ab"})
    assert [(one.run, one.mean_rank, one.first) for one in found] == [("a", 0.5, 0.5), ("b", 0.5, 0.5)]


def test_spearman_is_scipys() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=40)
    proxy = np.round(truth + rng.normal(size=40), 1)
    found = spearman(proxy, truth, [f"setting-{n // 2}" for n in range(40)])
    assert found.value == pytest.approx(spearmanr(proxy, truth).statistic) and found.n_groups == 20
    assert found.ci95.low < found.value < found.ci95.high


def test_regret_by_hand() -> None:
    truth = [0.0, 10.0, 4.0, 8.0]
    settings = list("abcd")
    assert normalised_regret([0, 3, 1, 2], truth, settings).value == 0
    assert normalised_regret([0, 1, 2, 3], truth, settings).value == pytest.approx(0.2)
    assert normalised_regret([3, 1, 2, 0], truth, settings).value == 1
    assert normalised_regret([5, 5, 1, 1], truth, settings).value == pytest.approx(0.5)  # ties: their mean


def test_the_best_checkpoint_is_the_earliest_of_equals() -> None:
    curve = {300: score(2), 100: score(1), 200: score(2)}
    assert best_checkpoint(curve) == 200
    assert best_checkpoint({step: one._replace(larger_is_better=False) for step, one in curve.items()}) == 100
    with pytest.raises(ValueError, match="got no checkpoint"):
        best_checkpoint({})
