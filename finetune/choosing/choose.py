"""Choosing among runs: every checkpoint judged by proxies, the best one of each run, the runs in order.

OUT/chosen.json names the run and the checkpoint, OUT/scores.jsonl has a line a checkpoint and proxy, OUT/ranking.md the
table, OUT/choice.html the page with the curves.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from finetune.choosing.judging import Judge, Judging, Proxy
from finetune.choosing.page import render
from finetune.choosing.runs import Checkpoint, Run
from finetune.selection.ranking import Ranked, rank
from finetune.selection.scores import Score
from medsiglip.command import one_line, progress, say, whole_file
from medsiglip.metrics.statistics import Estimate

Scores = Mapping[str, Mapping[int, Mapping[str, Score]]]
"""Run to step to proxy."""


@dataclass(frozen=True)
class Choice:
    """What was found."""

    ranking: tuple[Ranked, ...]
    """Runs by their best checkpoints, the best first; those without any proxy are not there."""
    best: Mapping[str, int]
    """Run to the step of its best checkpoint."""
    scores: Scores
    left_out: tuple[str, ...]
    """A line for each proxy of a run that could not be computed, and why."""


def choose(runs: Sequence[Run], proxies: Sequence[Proxy], asked: Judging, out: Path, quiet: bool = False) -> Choice:
    """Judge all checkpoints, write what OUT gets, and return it.

    Raises:
        ValueError: The demonstrations cannot be read, or no proxy can be computed for any run.
    """
    judge = Judge(asked)
    scores, left_out = judged(runs, proxies, judge, quiet)
    if not any(of_step for curve in scores.values() for of_step in curve.values()):
        raise ValueError(f"no proxy can be computed for any run: {'; '.join(left_out)}")
    choice = chosen(scores, left_out)
    _write(choice, runs, proxies, asked, out)
    return choice


def judged(runs: Sequence[Run], proxies: Sequence[Proxy], judge: Judge, quiet: bool = False) -> tuple[Any, list[str]]:
    """Scores of all checkpoints, and a line for each proxy of a run that could not be computed."""
    scores: dict[str, dict[int, dict[str, Score]]] = {}
    faults: dict[tuple[str, str, str], list[int]] = {}
    with progress(sum(len(run.checkpoints) for run in runs) * len(proxies), "proxies", quiet) as advance:
        for run in runs:
            for checkpoint in run.checkpoints:
                of_step = scores.setdefault(run.name, {}).setdefault(checkpoint.step, {})
                for proxy in proxies:
                    try:
                        of_step[proxy] = judge.score(proxy, run, checkpoint)
                    except (ValueError, OSError) as fault:
                        faults.setdefault((run.name, proxy, one_line(fault)), []).append(checkpoint.step)
                    advance(1)
    return scores, [_left_out(*key, steps, len(scores[key[0]])) for key, steps in faults.items()]


def chosen(scores: Scores, left_out: Sequence[str] = ()) -> Choice:
    """The best checkpoint of each run by all its proxies, and the runs in order."""
    best: dict[str, int] = {}
    for run, curve in scores.items():
        of_steps = {f"{step:020}": of_step for step, of_step in curve.items() if of_step}
        if of_steps:
            best[run] = int(rank(of_steps, n_resamples=1)[0].run)  # of equal ones the earliest
    ranking = rank({run: scores[run][step] for run, step in best.items()})
    return Choice(tuple(ranking), best, scores, tuple(left_out))


def table_of(choice: Choice, proxies: Sequence[str]) -> str:
    """Markdown: runs in their order, each with its best checkpoint and every proxy of it."""
    lines = [
        f"| | run | step | {' | '.join(_heading(choice, proxy) for proxy in proxies)} | mean rank | first |",
        f"|---|---|---|{'---|' * len(proxies)}---|---|",
    ]
    for place, one in enumerate(choice.ranking, start=1):
        figures = [_figure(one.scores[proxy].estimate()) if proxy in one.scores else "–" for proxy in proxies]
        interval = f" [{one.ci95.low:.2f}, {one.ci95.high:.2f}]" if isfinite(one.first) else ""
        first = f"{100 * one.first:.0f} %" if isfinite(one.first) else "–"
        row = [str(place), one.run, str(choice.best[one.run]), *figures, f"{one.mean_rank:.2f}{interval}", first]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def _heading(choice: Choice, proxy: str) -> str:
    found = next((one.scores[proxy] for one in choice.ranking if proxy in one.scores), None)
    return proxy if found is None else f"{proxy} {'↑' if found.larger_is_better else '↓'}"


def _figure(estimate: Estimate) -> str:
    low, high = estimate.ci95
    return f"{estimate.value:.4g} [{low:.4g}, {high:.4g}]" if isfinite(low) else f"{estimate.value:.4g}"


def _left_out(run: str, proxy: str, reason: str, steps: Sequence[int], of: int) -> str:
    where = "" if len(steps) == of else f" at step {', '.join(map(str, steps))}"
    return f"{run}: no {proxy}{where}: {reason}"


def _write(choice: Choice, runs: Sequence[Run], proxies: Sequence[Proxy], asked: Judging, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    first = choice.ranking[0]
    path = _checkpoint(runs, first.run, choice.best[first.run]).path
    source = asked.data if isinstance(asked.data, Path) else asked.data.source
    found = {
        "run": first.run,
        "step": choice.best[first.run],
        "checkpoint": str(path),
        "first_in_resamples": first.first if isfinite(first.first) else None,
        "proxies": {name: _as_row(score) for name, score in first.scores.items()},
        "judged_by": {
            "demonstrations": str(source),
            "held_out_share": asked.share,
            "seed": asked.seed,
            "group": asked.group,
            "embed_with": asked.embed_with,
        },
        "left_out": list(choice.left_out),
    }
    lines = [
        json.dumps({"run": run, "step": step, "proxy": proxy, **_as_row(score)})
        for run, curve in choice.scores.items()
        for step, of_step in curve.items()
        for proxy, score in of_step.items()
    ]
    files = {
        "scores.jsonl": "".join(f"{line}\n" for line in lines),
        "ranking.md": table_of(choice, proxies) + "\n",
        "choice.html": render(choice.ranking, choice.best, choice.scores, proxies, found),
        "chosen.json": json.dumps(found, indent=1, ensure_ascii=False) + "\n",
    }
    for name, text in files.items():
        with whole_file(out / name) as file:
            file.write(text)


def _checkpoint(runs: Sequence[Run], name: str, step: int) -> Checkpoint:
    return next(one for run in runs if run.name == name for one in run.checkpoints if one.step == step)


def _as_row(score: Score) -> dict[str, Any]:
    estimate = score.estimate()
    low, high = estimate.ci95
    return {
        "value": estimate.value,
        "ci95": [low, high] if isfinite(low) else None,
        "n": estimate.n,
        "n_groups": estimate.n_groups,
        "larger_is_better": score.larger_is_better,
    }


def say_choice(choice: Choice, out: Path) -> None:
    """What the command says beside its table."""
    for line in choice.left_out:
        say(line)
    first = choice.ranking[0]
    say(f"chosen: {first.run} after {choice.best[first.run]} steps; {out / 'choice.html'} has the curves")
