"""Rewards, with the signature that TRL gives them; what a reward does wrong is named, and never averaged away."""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune.on_policy.rollouts import PromptRow, Rollout
from finetune.training import named_places

RewardFunction = Callable[..., Sequence[float | None]]
"""f(prompts, completions, **columns) -> one number a completion, None where it does not apply.

As in TRL: prompts are lists of messages and completions lists of one assistant message, or both are texts where the
prompts are; the columns are the rows' own, one value a completion, and `completion_ids`."""


@dataclass(frozen=True)
class Reward:
    """One reward of several."""

    function: RewardFunction
    weight: float = 1.0
    name: str = ""
    """In log and errors; the function's own without it."""

    @property
    def called(self) -> str:
        """Its name."""
        return self.name or str(getattr(self.function, "__name__", type(self.function).__name__))


@dataclass(frozen=True)
class Graded:
    """What rollouts have earned."""

    total: tuple[float, ...]
    """The weighted sum of those that apply, a rollout."""
    by_name: dict[str, tuple[float | None, ...]]
    """Each reward before its weight; None where it does not apply."""

    def means(self) -> dict[str, float]:
        """Of each reward, over the rollouts that it applies to; those that apply to none are left out."""
        said = {name: [v for v in values if v is not None] for name, values in self.by_name.items()}
        return {name: sum(values) / len(values) for name, values in said.items() if values}


def graded(rewards: Sequence[Reward], rows: Sequence[PromptRow], rollouts: Sequence[Rollout]) -> Graded:
    """Call every reward on all rollouts.

    Args:
        rewards: with names of their own.
        rows: the prompts of the step; `Rollout.group` counts them.
        rollouts: what is graded.

    Raises:
        ValueError: a reward takes what is not there, gives another number of values, a value that is no finite number,
            or there is a rollout that none applies to. Every reward with such values is named, with the first places
            of its rows.
    """
    asked = _asked(rows, rollouts)
    by_name: dict[str, tuple[float | None, ...]] = {}
    faults: list[str] = []
    for reward in rewards if rollouts else ():
        _refuse_unmet(reward, asked)
        values = list(reward.function(**asked))
        if fault := _fault(reward.called, values, rollouts):
            faults.append(fault)
        else:
            by_name[reward.called] = tuple(None if value is None else float(value) for value in values)
    if faults:
        raise ValueError("; ".join(faults))
    total = []
    for place, rollout in enumerate(rollouts):
        said = [(r.weight, by_name[r.called][place]) for r in rewards]
        applying = [weight * value for weight, value in said if value is not None]
        if not applying:
            raise ValueError(f"{rollout.place or f'rollout {place}'}: no reward applies to it; give one that does")
        total.append(sum(applying))
    return Graded(tuple(total), by_name)


def _refuse_unmet(reward: Reward, asked: Mapping[str, Any]) -> None:
    try:
        inspect.signature(reward.function).bind(**asked)
    except TypeError as fault:
        raise ValueError(
            f"reward {reward.called}: {fault}; it is given {', '.join(asked)}, and columns by their names "
            "(of best-of: --column NAME=VALUE)"
        ) from fault


def _asked(rows: Sequence[PromptRow], rollouts: Sequence[Rollout]) -> dict[str, Any]:
    of = [rows[rollout.group] for rollout in rollouts]
    names = dict.fromkeys(name for row in rows for name in row.columns)
    columns = {name: [row.columns.get(name) for row in of] for name in names}
    said = [
        rollout.text if isinstance(row.messages, str) else [{"role": "assistant", "content": rollout.text}]
        for row, rollout in zip(of, rollouts, strict=True)
    ]
    ids = [list(rollout.completion_ids) for rollout in rollouts]
    return {"prompts": [row.messages for row in of], "completions": said, "completion_ids": ids, **columns}


def _fault(name: str, values: Sequence[Any], rollouts: Sequence[Rollout]) -> str:
    """What is wrong with what a reward gave; empty if nothing."""
    if len(values) != len(rollouts):
        return f"reward {name}: {len(values)} values for {len(rollouts)} completions; give one each, None to leave out"
    bad = [place for place, value in enumerate(values) if value is not None and not _is_finite(value)]
    if not bad:
        return ""
    rows = named_places([rollouts[place].place or f"rollout {place}" for place in bad])
    return (
        f"reward {name}: {values[bad[0]]!r} is no finite number, for {len(bad)} of {len(values)} completions ({rows}); "
        "give a number, or None where it does not apply"
    )


def _is_finite(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except TypeError:
        return False
