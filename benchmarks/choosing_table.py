"""The tables of the study of choosing, from its results: how well each proxy orders settings, and what it loses.

A setting counts by the mean over its seeds, at the last checkpoint. Intervals draw settings with replacement.
"""

import json
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from finetune.selection.ranking import normalised_regret, spearman
from medsiglip.metrics.statistics import Estimate

RESULTS = Path(__file__).parent / "results" / "choosing.jsonl"
LARGER_IS_BETTER = {"action_error": False, "state_distance": False, "support": True, "imitation_return": True}


class Case(NamedTuple):
    """The settings of a task and algorithm."""

    task: str
    algorithm: str
    draws: list[int]
    """D settings, ascending; 0 is the default one."""
    proxies: dict[str, Any]
    """Proxy to (D,) means over seeds, larger is better."""
    returns: Any
    """(D,) mean true returns."""
    runs: list[dict[str, Any]]

    @property
    def groups(self) -> list[str]:
        """(D,)."""
        return [str(one) for one in self.draws]


def page(path: Path = RESULTS) -> str:
    """Return all tables as Markdown."""
    facts, *lines = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    cases = cases_of(lines)
    parts = [
        f"Proxies' SHA-256 before any return was looked at: `{facts['proxies_sha256']}`.",
        table_of(
            ["task", "algorithm", "settings × seeds", "random actions", "expert", "worst, best setting", "default"],
            [[*_earned(case, facts["tasks"][case.task])] for case in cases],
        ),
        "Spearman's correlation with the true return, over settings:",
        _by_proxy(cases, lambda case, said: spearman(said, case.returns, case.groups)),
        "Normalised regret of the setting that a proxy chooses (0 the best, 1 the worst), beside a random choice and "
        "the default:",
        _by_proxy(cases, lambda case, said: normalised_regret(said, case.returns, case.groups), regret_of_others=True),
        "Chosen on one task, used on another: normalised regret there:",
        _transfer(cases),
        "Early stopping: mean over runs of the return, as a share of the expert's over random actions, of the "
        "checkpoint that a proxy likes best:",
        _stopping(cases, facts["tasks"]),
    ]
    return "\n\n".join(parts)


def cases_of(lines: Sequence[Mapping[str, Any]]) -> list[Case]:
    """Gather lines by task and algorithm; a setting of which a seed is missing is left out."""
    found = []
    for algorithm, task in sorted({(line["algorithm"], line["task"]) for line in lines}):
        runs = [dict(line) for line in lines if (line["algorithm"], line["task"]) == (algorithm, task)]
        seeds = {run["seed"] for run in runs}
        by_draw = {draw: [run for run in runs if run["draw"] == draw] for draw in sorted({run["draw"] for run in runs})}
        whole = {draw: of for draw, of in by_draw.items() if {run["seed"] for run in of} == seeds}
        proxies = {
            name: np.array([np.mean([signed(name, _last(run["proxies"])) for run in of]) for of in whole.values()])
            for name in LARGER_IS_BETTER
        }
        returns = np.array([np.mean([np.mean(_last(run["returns"])) for run in of]) for of in whole.values()])
        kept = [run for of in whole.values() for run in of]
        found.append(Case(task, algorithm, list(whole), proxies, returns, kept))
    return found


def signed(name: str, said: Mapping[str, float]) -> float:
    """What a proxy says of a checkpoint, larger is better."""
    return said[name] if LARGER_IS_BETTER[name] else -said[name]


def _last(by_step: Mapping[str, Any]) -> Any:
    return by_step[max(by_step, key=int)]


def _earned(case: Case, facts: Mapping[str, Sequence[float]]) -> list[str]:
    default = f"{case.returns[case.draws.index(0)]:.0f}" if 0 in case.draws else ""
    span = f"{case.returns.min():.0f}, {case.returns.max():.0f}"
    size = f"{len(case.draws)} × {len(case.runs) // len(case.draws)}"
    earned = [f"{facts[who][0]:.0f} ± {facts[who][1]:.0f}" for who in ("random", "expert")]
    return [case.task, case.algorithm, size, *earned, span, default]


def _by_proxy(cases: Sequence[Case], measured: Any, *, regret_of_others: bool = False) -> str:
    rows = []
    for case in cases:
        row = [case.task, case.algorithm, *(_said(measured(case, case.proxies[name])) for name in LARGER_IS_BETTER)]
        if regret_of_others:
            regrets = _regrets(case)
            row += [f"{regrets.mean():.2f}", f"{regrets[case.draws.index(0)]:.2f}" if 0 in case.draws else ""]
        rows.append(row)
    return table_of(
        ["task", "algorithm", *LARGER_IS_BETTER, *(["random", "default"] if regret_of_others else [])], rows
    )


def _regrets(case: Case) -> Any:
    return (case.returns.max() - case.returns) / max(float(np.ptp(case.returns)), 1e-12)


def _transfer(cases: Sequence[Case]) -> str:
    rows = []
    for one, other in product(cases, cases):
        common = [draw for draw in one.draws if draw in other.draws]
        if one.algorithm == other.algorithm and one.task != other.task and common:
            places = [one.draws.index(draw) for draw in common]
            chosen = [common[int(np.argmax(one.proxies[name][places]))] for name in LARGER_IS_BETTER]
            best = common[int(np.argmax(one.returns[places]))]
            regrets = _regrets(other)
            lost = [f"{regrets[other.draws.index(draw)]:.2f}" for draw in [*chosen, best]]
            rows.append([f"{one.task} → {other.task}", one.algorithm, *lost])
    return table_of(["chosen → used", "algorithm", *LARGER_IS_BETTER, "true return"], rows)


def _stopping(cases: Sequence[Case], facts: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    rows = []
    for case in cases:
        low, high = facts[case.task]["random"][0], facts[case.task]["expert"][0]
        shares = []  # a run's: step to its share
        for run in case.runs:
            shares.append({step: (np.mean(of) - low) / (high - low) for step, of in run["returns"].items()})
        row = [case.task, case.algorithm]
        for name in LARGER_IS_BETTER:
            chosen = [max(run["proxies"], key=lambda step: signed(name, run["proxies"][step])) for run in case.runs]  # noqa: B023 (used at once)
            row.append(f"{np.mean([of[step] for of, step in zip(shares, chosen, strict=True)]):.2f}")
        row += [f"{np.mean([_last(of) for of in shares]):.2f}", f"{np.mean([max(of.values()) for of in shares]):.2f}"]
        rows.append(row)
    return table_of(["task", "algorithm", *LARGER_IS_BETTER, "last", "best"], rows)


def _said(estimate: Estimate) -> str:
    return f"{estimate.value:.2f} [{estimate.ci95[0]:.2f}, {estimate.ci95[1]:.2f}]"


def table_of(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table as Markdown."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])
