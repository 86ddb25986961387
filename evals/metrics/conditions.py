"""Yes/no questions about named conditions (one item a condition and film), and their macro F1 over the conditions.

Source: MedGemma technical report (arXiv:2507.05201), section 3: one question a condition, macro F1 over named
    conditions (MIMIC-CXR, CheXpert: atelectasis, cardiomegaly, consolidation, edema, pleural effusion; CXR14: lung
    opacity, pneumothorax, fracture). Uncertain and missing labels are the reader's business: leave such items out, or
    pass them as negative; the two give different figures.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medsiglip.metrics.bootstrap import N_RESAMPLES, ratio
from medsiglip.metrics.statistics import Estimate, grouped_totals_ci

CHEXPERT_5 = ("atelectasis", "cardiomegaly", "consolidation", "edema", "pleural effusion")
"""The report's conditions on MIMIC-CXR and CheXpert."""
CXR14_3 = ("lung opacity", "pneumothorax", "fracture")
"""The report's conditions on CXR14."""

Rate = Literal["f1", "precision", "recall"]


class ConditionAnswer(NamedTuple):
    """One question about one condition of one study."""

    condition: str
    present: bool
    """What the reference says."""
    answer: bool | None
    """What the model says; None if its answer is neither yes nor no."""
    group: str
    """The patient."""


class MacroOverConditions(NamedTuple):
    """A macro average and what it is made of."""

    estimate: Estimate
    per_condition: dict[str, float]
    """In the order asked for; 0 for a condition never hit."""
    without_positive: tuple[str, ...]
    """Conditions that no item has: they are left out of the mean, so name them beside it."""
    n_unparsed: int
    """Answers that are neither yes nor no; they count as not having said yes."""


def macro_f1_over_conditions(
    answers: Sequence[ConditionAnswer],
    conditions: Sequence[str],
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
) -> MacroOverConditions:
    """Return the unweighted mean over `conditions` of the F1 of "present", 0 to 1, with intervals over patients.

    An unparsed answer is a miss where the condition is present, and no false alarm where it is not. A condition with
    no positive item is left out of the mean and named; in a resample without a positive, likewise.

    Args:
        answers: One an item.
        conditions: The named conditions; answers about others are not used.
        seed: Of the resampling.
        n_resamples: Number of resamples.

    Raises:
        ValueError: A condition was never asked about, or is named twice.
    """
    return macro_over_conditions(answers, conditions, "f1", seed, n_resamples)


def macro_over_conditions(
    answers: Sequence[ConditionAnswer],
    conditions: Sequence[str],
    rate: Rate,
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
) -> MacroOverConditions:
    """Return the same mean for `precision` or `recall` (CT-RATE's table has all three).

    The precision of a condition that is never predicted is 0, as in scikit-learn with zero_division=0.
    """
    used = [answer for answer in answers if answer.condition in conditions]
    _demand_all_asked(used, conditions)
    columns = _columns(used, conditions)  # (n, 3 * C)

    def macro(totals: NDArray[np.float64]) -> NDArray[np.float64]:
        return rate_of_columns(totals, len(conditions), rate)

    whole = _rates(columns.sum(axis=0).reshape(1, 3, len(conditions)), rate)[0]
    return MacroOverConditions(
        grouped_totals_ci(macro, columns, [answer.group for answer in used], seed, n_resamples),
        {name: float(value) for name, value in zip(conditions, whole, strict=True) if np.isfinite(value)},
        tuple(name for name, value in zip(conditions, whole, strict=True) if not np.isfinite(value)),
        sum(answer.answer is None for answer in used),
    )


def rate_of_columns(totals: NDArray[np.float64], num_conditions: int, rate: Rate) -> NDArray[np.float64]:
    """Return the macro average of (R, 3 * C) sums: hits, predicted and present, a column a condition each.

    nan where no condition has a positive.
    """
    rates = _rates(totals.reshape(len(totals), 3, num_conditions), rate)
    defined = np.isfinite(rates)
    return ratio(np.where(defined, rates, 0.0).sum(axis=1), defined.sum(axis=1).astype(np.float64))


def _columns(answers: Sequence[ConditionAnswer], conditions: Sequence[str]) -> NDArray[np.float64]:
    """Return (n, 3 * C): hits, predicted and present, a column a condition each."""
    table = np.zeros((len(answers), 3, len(conditions)))
    for row, answer in enumerate(answers):
        said = answer.answer is True
        table[row, :, conditions.index(answer.condition)] = (said and answer.present, said, answer.present)
    return table.reshape(len(answers), -1)


def _rates(totals: NDArray[np.float64], rate: Rate) -> NDArray[np.float64]:
    """Return (R, C) rates from (R, 3, C) sums; nan for a condition with no positive."""
    hits, predicted, present = totals[:, 0], totals[:, 1], totals[:, 2]
    below = {"f1": (predicted + present) / 2, "precision": predicted, "recall": present}[rate]
    return np.where(present > 0, np.nan_to_num(ratio(hits, below)), np.nan)


def _demand_all_asked(answers: Sequence[ConditionAnswer], conditions: Sequence[str]) -> None:
    if len(set(conditions)) != len(conditions):
        raise ValueError(f"got the conditions {', '.join(conditions)}; expected each once")
    missing = [name for name in conditions if name not in {answer.condition for answer in answers}]
    if missing:
        raise ValueError(f"got no question about {', '.join(missing)}; expected at least one a named condition")
