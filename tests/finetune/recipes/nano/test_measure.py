"""What goes on a card besides scores.json, by hand."""

import pytest

from evals.results.scores import Graded
from finetune.recipes.nano.measure import mean_fall

REAL = [Graded("a", "case 1", 1.0), Graded("b", "case 1", 1.0), Graded("c", "case 2", 0.0), Graded("d", "case 3", 1.0)]


def shuffle(*values: float) -> list[Graded]:
    """Graded in another order than the real ones: items are told by their name."""
    return [one._replace(value=value) for one, value in zip(REAL, values, strict=True)][::-1]


def test_the_fall_is_the_mean_over_shuffles_of_what_each_item_loses() -> None:
    fall = mean_fall(REAL, [shuffle(1, 0, 0, 1), shuffle(0, 0, 1, 0)])
    assert fall.value == pytest.approx((0.5 + 1.0 - 0.5 + 0.5) / 4)
    assert (fall.n, fall.n_groups) == (4, 3)
    assert fall.ci95.low == pytest.approx(-0.5) and fall.ci95.high == pytest.approx(0.75)  # case 2 alone; case 1 alone


def test_the_same_answers_to_any_picture_fall_by_nothing() -> None:
    fall = mean_fall(REAL, [REAL, REAL])
    assert fall.value == fall.ci95.low == fall.ci95.high == 0.0


def test_a_shuffle_that_lacks_an_item_is_refused() -> None:
    with pytest.raises(KeyError):
        mean_fall(REAL, [REAL[1:]])
