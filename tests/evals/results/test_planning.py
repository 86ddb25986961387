"""A plan's power, by simulation; what it is by hand; what cannot be planned."""

import math
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom, norm
from typer.testing import CliRunner

from evals.cli import app
from evals.items import Item
from evals.metrics.paired import paired_mean_difference
from evals.results.planning import needed, plan, spread_of
from tests.evals.runs import questions, write_run

NAMES = [f"g{number}" for number in range(5000)]


def differences(rng: np.random.Generator, n_groups: int, shift: float) -> tuple[np.ndarray, list[str]]:
    """Right minus right of two models, in groups of 1 to 6 items that lean the same way."""
    sizes = rng.integers(1, 7, n_groups)
    lean = np.repeat(rng.normal(0, 0.15, n_groups), sizes)
    p_better = np.clip(0.2 + lean + shift / 2, 0, 0.5)
    p_worse = np.clip(0.2 - lean - shift / 2, 0, 0.5)
    draw = rng.random(sizes.sum())
    values = np.where(draw < p_better, 1.0, np.where(draw > 1 - p_worse, -1.0, 0.0))
    return values, [name for name, size in zip(NAMES, sizes, strict=False) for _ in range(size)]


@pytest.mark.parametrize(("difference", "power"), [(0.15, 0.8), (0.12, 0.9)])
def test_the_power_is_what_was_asked_for_within_binomial_limits(difference: float, power: float) -> None:
    rng = np.random.default_rng(0)
    spread = spread_of(*differences(rng, 5000, difference))
    true = spread.mean  # what the generator's clipping leaves of the shift
    assert spread.design_effect > 1.2
    wanted = needed(spread, true, power)
    found = 0
    for _ in range(400):
        values, groups = differences(rng, wanted.groups, difference)
        compared = paired_mean_difference(np.zeros_like(values), values, groups, n_resamples=400)
        found += compared.estimate.ci95.low > 0 or compared.estimate.ci95.high < 0
    low, high = binom.interval(0.999, 400, power)
    assert low <= found <= high, f"{found} of 400 found; expected {low} to {high}"


def test_without_groups_it_is_the_textbooks_sample() -> None:
    values = [1.0, 0.0] * 500
    spread = spread_of(values, NAMES[:1000])
    assert spread.design_effect == pytest.approx(1)
    textbook = ((norm.ppf(0.975) + norm.ppf(0.8)) * math.sqrt(0.25) / 0.05) ** 2  # 785
    assert needed(spread, 0.05).groups == pytest.approx(textbook, abs=4)
    pairs = spread_of(np.repeat(values, 4), np.repeat(NAMES[:1000], 4).tolist())
    assert pairs.design_effect == pytest.approx(4, rel=0.01)
    assert needed(pairs, 0.05).items == 4 * needed(pairs, 0.05).groups
    assert needed(pairs, 0.05).groups == pytest.approx(textbook, abs=4)


def test_a_small_pilot_says_how_far_it_may_be_off() -> None:
    small, large = (spread_of([1.0, 0.0] * (n // 2), NAMES[:n]) for n in (10, 1000))
    assert needed(small, 0.1).groups_at_most > 2 * needed(small, 0.1).groups
    assert needed(large, 0.1).groups_at_most < 1.2 * needed(large, 0.1).groups


def test_what_cannot_be_planned_is_refused() -> None:
    with pytest.raises(ValueError, match="one group"):
        spread_of([0.0, 1.0], ["p", "p"])
    with pytest.raises(ValueError, match="all 3 values are 0: no variance"):
        spread_of([0.0, 0.0, 0.0], ["p", "q", "r"])
    with pytest.raises(ValueError, match="the 2 groups are all alike"):
        spread_of([0.0, 1.0, 1.0, 0.0], ["p", "p", "q", "q"])
    spread = spread_of([0.0, 1.0, 1.0], ["p", "q", "r"])
    for numbers, message in (
        ((0.0, 0.8, 0.05), "--difference 0"),
        ((2.0, 0.8, 0.05), "--difference 2"),
        ((0.1, 1.0, 0.05), "--power 1"),
        ((0.1, 0.01, 0.05), "0 < level < power < 1"),
    ):
        with pytest.raises(ValueError, match=message):
            needed(spread, *numbers)


def test_the_command_plans_from_one_pilot_and_from_two(tmp_path: Path) -> None:
    items = questions(40)

    def of(item: Item) -> str:
        return item.reference if int(item.item_id[1:]) % 3 else "unsure"

    first = write_run(tmp_path / "a" / "vqa-rad", items, of)
    second = write_run(tmp_path / "b" / "vqa-rad", items, lambda item: "no" if item.item_id == "q3" else of(item))
    ran = CliRunner().invoke(app, ["plan", str(first), str(second), "--difference", "0.05"])
    assert ran.exit_code == 0, ran.output
    assert "40 items of 20 groups" in ran.output and "one pilot" not in ran.output
    alone, _ = plan(first, None, 0.05)
    paired, _ = plan(first, second, 0.05)
    assert alone[0].metric == "closed_accuracy" and alone[0].needed.items > paired[0].needed.items
    with pytest.raises(ValueError, match="vqa-rad: all 40 values are 0: no variance"):
        plan(first, first, 0.05)
    with pytest.raises(ValueError, match="no metric f1; it has closed_accuracy"):
        plan(first, None, 0.05, metric="f1")
