"""How many items a comparison needs, from a pilot run: paired where there are two, with groups as the unit of chance.

A mean over items is a ratio of sums over groups. With u_g = (sum of the group's values - mean x its items) / (items a
group), its standard error over G groups is the standard deviation of u over the square root of G, so that a difference
d is found at level a with power p by G = ((t(1 - a/2) + t(p)) x sd(u) / d)^2 groups, t with G - 1 degrees of freedom.

Sources: linearised variance of a ratio (Cochran, Sampling Techniques, 3rd ed., 6.3 and 9A); the sample size of a t test
    (Julious, Sample Sizes for Clinical Trials, 3).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from evals.measures import Measure
from evals.results.pairing import pair_runs, read_run, task_folders
from evals.results.scores import answered_of, measures
from evals.tasks.catalogue import task_named

FEWEST_GROUPS = 2


class Spread(NamedTuple):
    """What a pilot says of the values that are to be compared."""

    mean: float
    n_items: int
    n_groups: int
    sd_of_groups: float
    """Of u; see the file's head."""
    design_effect: float
    """How many times more items are needed than if no two shared a group."""

    @property
    def items_a_group(self) -> float:
        """Items over groups."""
        return self.n_items / self.n_groups


class Needed(NamedTuple):
    """A sample that finds the difference."""

    groups: int
    items: int
    groups_at_most: int
    """With the upper 95 % limit of the pilot's variance, normal theory: a small pilot may have been lucky."""


@dataclass(frozen=True)
class Plan:
    """One task's plan."""

    task: str
    metric: str
    is_paired: bool
    """From two pilots; from one, the other model is taken to be right or wrong independently of it, which asks for the
    most items."""
    spread: Spread
    needed: Needed


def spread_of(values: ArrayLike, groups: Sequence[str]) -> Spread:
    """Return how the values of a pilot spread over its groups.

    Args:
        values: (n,) one number an item; of two models the differences.
        groups: (n,) the group of each item.

    Raises:
        ValueError: There is one group, or all values or all groups are equal.
    """
    numbers = np.asarray(values, dtype=np.float64)
    names, codes = np.unique(np.asarray(groups), return_inverse=True)
    if len(names) < FEWEST_GROUPS:
        raise ValueError("the pilot has one group (patient): how groups differ cannot be told; run more items")
    if np.ptp(numbers) == 0:
        raise ValueError(f"all {len(numbers)} values are {numbers[0]:g}: no variance to plan with; run more items")
    counts, sums = np.bincount(codes), np.bincount(codes, weights=numbers)
    u = (sums - numbers.mean() * counts) / counts.mean()
    sd = float(np.std(u, ddof=1))
    if sd < 1e-12:
        raise ValueError(f"the {len(names)} groups are all alike: no variance to plan with; run more items")
    independent = float(np.var(numbers, ddof=1) / counts.mean())
    return Spread(float(numbers.mean()), len(numbers), len(names), sd, sd**2 / independent)


def needed(spread: Spread, difference: float, power: float = 0.8, level: float = 0.05) -> Needed:
    """Return the groups and items that find a difference.

    Args:
        spread: From a pilot.
        difference: To be found, in the metric's own units, above 0.
        power: Probability of finding it, above the level.
        level: Of the two-sided test.

    Raises:
        ValueError: A number is out of its range.
    """
    if not 0 < difference <= 1:
        raise ValueError(f"--difference {difference:g}: expected a share above 0 and at most 1, such as 0.05")
    if not 0 < level < power < 1:
        raise ValueError(f"--power {power:g} and --level {level:g}: expected 0 < level < power < 1")
    from scipy.stats import chi2

    freedom = spread.n_groups - 1
    most = spread.sd_of_groups * math.sqrt(freedom / chi2.ppf(0.05, freedom))
    groups = _groups(spread.sd_of_groups, difference, power, level)
    items = math.ceil(groups * spread.items_a_group)
    return Needed(groups, items, _groups(most, difference, power, level))


def plan(
    first: Path,
    second: Path | None,
    difference: float,
    power: float = 0.8,
    level: float = 0.05,
    metric: str = "",
) -> tuple[list[Plan], list[str]]:
    """Plan every task of a pilot, or every one that two pilots share.

    Args:
        first: The --out of a run.
        second: Another model's, on the same items; None if there is none yet.
        difference: See `needed`.
        power: Likewise.
        level: Likewise.
        metric: A metric that is a mean over items; each task's main one if empty.

    Returns:
        Plans, and a line a task that cannot be planned.

    Raises:
        ValueError: No task can be planned, or the runs cannot be paired.
    """
    folders = task_folders(first)
    others = task_folders(second) if second is not None else {}
    plans, refused = [], []
    for name, folder in folders.items():
        if second is not None and name not in others:
            refused.append(f"{name}: only {first} has it")
            continue
        try:
            found, values, groups = _values(name, folder, others.get(name), metric)
            spread = spread_of(values, groups)
        except ValueError as fault:
            refused.append(f"{name}: {fault}")
            continue
        plans.append(Plan(name, found, second is not None, spread, needed(spread, difference, power, level)))
    if not plans:
        raise ValueError("; ".join(refused))
    return plans, refused


def _values(name: str, first: Path, second: Path | None, metric: str) -> tuple[str, list[float], list[str]]:
    """The metric, and one value an item: the difference of two models, or what an independent one would add."""
    task = task_named(name.removesuffix(":shuffled"))
    wanted = metric or task.main_metric
    if second is None:
        run = read_run(first)
        one = _mean(measures(task, answered_of(task, run.items.values(), run.outputs)), wanted)
        # the difference of two independent models varies twice as much as one
        return wanted, [math.sqrt(2) * value for value in one.values], one.groups
    pair = pair_runs(read_run(first), read_run(second), common=True)
    one, other = (_mean(measures(task, answered), wanted) for answered in (pair.answered_first, pair.answered_second))
    return wanted, [b - a for a, b in zip(one.values, other.values, strict=True)], one.groups


def _mean(found: dict[str, Measure], wanted: str) -> Measure:
    if wanted not in found:
        raise ValueError(f"no metric {wanted}; it has {', '.join(found)}")
    if found[wanted].statistic is not None:
        means = [name for name, measure in found.items() if measure.statistic is None and "/" not in name]
        raise ValueError(f"{wanted} is no mean over items; give --metric {' or '.join(means) or 'of another task'}")
    return found[wanted]


def _groups(sd: float, difference: float, power: float, level: float) -> int:
    from scipy.stats import norm, t

    groups = max(FEWEST_GROUPS, math.ceil(float((norm.ppf(1 - level / 2) + norm.ppf(power)) * sd / difference) ** 2))
    while float((t.ppf(1 - level / 2, groups - 1) + t.ppf(power, groups - 1)) * sd / difference) ** 2 > groups:
        groups += 1
    return groups
