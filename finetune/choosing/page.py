"""One self-contained HTML page of a choice: the runs in order, and each proxy over the steps."""

from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from evals.report.over_steps import plot
from finetune.selection.ranking import Ranked
from finetune.selection.scores import Score
from medsiglip.metrics.statistics import Estimate

MOST_LINES = 8
"""Of a chart: those of the first runs."""
MOST_LETTERS = 14
"""Of a run's name beside its line."""


def render(
    ranking: Sequence[Ranked],
    best: Mapping[str, int],
    scores: Mapping[str, Mapping[int, Mapping[str, Score]]],
    proxies: Sequence[str],
    chosen: Mapping[str, Any],
) -> str:
    """Render the page.

    Args:
        ranking: the best first.
        best: run to the step of its best checkpoint.
        scores: run to step to proxy.
        proxies: in the order in which they are shown.
        chosen: what chosen.json says.
    """
    from jinja2 import Environment

    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
        (Path(__file__).parent / "page.html").read_text(encoding="utf-8")
    )
    shown = {f"{place}: {_short(one.run)}": one.run for place, one in enumerate(ranking[:MOST_LINES], start=1)}
    found = {proxy: {name: _points(scores[run], proxy) for name, run in shown.items()} for proxy in proxies}
    charts = {
        proxy: Markup(plot({str(escape(name)): points for name, points in lines.items() if points}, proxy))
        for proxy, lines in found.items()
        if any(lines.values())
    }
    arrows = {p: "↑" if s.larger_is_better else "↓" for one in ranking for p, s in one.scores.items()}
    return template.render(
        ranking=ranking,
        best=best,
        proxies=proxies,
        arrows=arrows,
        chosen=chosen,
        charts=charts,
        num_hidden=len(ranking) - len(shown),
        text=lambda score: _text(score.estimate()),
    )


def _short(name: str) -> str:
    """What begins it and what ends it: names of runs often differ in the end."""
    half = MOST_LETTERS // 2
    return name if len(name) <= MOST_LETTERS else f"{name[: half - 1]}…{name[-half:]}"


def _text(estimate: Estimate) -> str:
    low, high = estimate.ci95
    return f"{estimate.value:.4g} ({low:.4g} to {high:.4g})" if isfinite(low) else f"{estimate.value:.4g}"


def _points(curve: Mapping[int, Mapping[str, Score]], proxy: str) -> list[dict[str, Any]]:
    points = []
    for step in sorted(step for step, of_step in curve.items() if proxy in of_step):
        estimate = curve[step][proxy].estimate()
        low, high = estimate.ci95
        points.append({"step": step, "value": estimate.value, "ci95": [low, high] if isfinite(low) else [None, None]})
    return points
