"""What `medgemma-eval metrics` prints and writes: table rows, JSON, one HTML page."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

from evals.results.scores import interval_as_json
from evals.stress.edits import EDIT_KINDS, VERSION, EditKind
from evals.stress.preferences import Preference, StressCase
from evals.stress.verdict import REQUIRED, StressVerdict

WHAT: Mapping[EditKind, str] = {
    "negation": "a finding denied or stated against the report",
    "side": "left for right",
    "severity": "the opposite size or degree",
    "omission": "an abnormal sentence left out",
    "invention": "a finding added",
    "unit": "cm for mm",
    "prior_study": "a comparison turned round or made up",
    "template": "the usual normal report in place of an abnormal one",
}


def rows_of(verdicts: Sequence[StressVerdict]) -> list[tuple[str, ...]]:
    """Return table rows: metric, edit, share that prefers the paraphrase, ties, n; then the verdicts."""
    rows: list[tuple[str, ...]] = [
        (verdict.metric, kind, _shown(found), f"ties {found.ties:.3f}", f"n={found.right.n}")
        for verdict in verdicts
        for kind, found in verdict.preferences.items()
    ]
    return rows + [(v.metric, "as a reward", "accepted" if v.is_accepted else "refused", "", "") for v in verdicts]


def as_json(verdicts: Sequence[StressVerdict], source: str, cases: Sequence[StressCase]) -> dict[str, Any]:
    """Return everything as JSON values; no text of a report is in it."""
    return {
        "reports": source,
        "n_reports": len(cases),
        "n_groups": len({case.group for case in cases}),
        "edits_version": VERSION,
        "required": REQUIRED,
        "metrics": {
            verdict.metric: {
                "version": verdict.version,
                "is_accepted_as_reward": verdict.is_accepted,
                "reason": verdict.reason,
                "prefers_paraphrase": {
                    kind: {
                        "value": found.right.value,
                        "ci95": interval_as_json(found.right.ci95),
                        "ties": found.ties,
                        "n": found.right.n,
                        "n_groups": found.right.n_groups,
                    }
                    for kind, found in verdict.preferences.items()
                },
            }
            for verdict in verdicts
        },
    }


def page(verdicts: Sequence[StressVerdict], source: str, cases: Sequence[StressCase], examples: int = 2) -> str:
    """Return one HTML page: a row a metric, a column an edit, and examples of each edit.

    Args:
        verdicts: What was found.
        source: Where the reports are from.
        cases: The reports.
        examples: How many of each edit are shown; 0 for reports whose text may not be handed on.
    """
    head = "".join(f"<th title='{WHAT[kind]}'>{kind}" for kind in EDIT_KINDS)
    body = "".join(_row(verdict) for verdict in verdicts)
    kinds = "".join(f"<li><b>{kind}</b>: {text}" for kind, text in WHAT.items())
    return (
        f"<!doctype html><meta charset=utf-8><title>Metrics under stress</title>{_STYLE}<h1>Metrics under stress</h1>"
        f"<p>{len(cases)} reports ({html.escape(source)}). Each cell is the share of reports for which the metric "
        "gives a paraphrase more than the report with one thing wrong; ties count half; 95 % intervals resample "
        "groups. "
        f"A metric whose interval for <i>negation</i> does not lie above {REQUIRED} is refused as a reward.</p>"
        f"<table><tr><th>metric{head}<th>as a reward{body}</table><ul>{kinds}</ul>"
        + "".join(_examples(kind, cases, examples) for kind in EDIT_KINDS if examples)
        + "\n"
    )


_STYLE = (
    "<style>body{font:15px sans-serif;max-width:80em;margin:2em auto}td,th{padding:.3em .6em;text-align:left;"
    "vertical-align:top}small{color:#555}</style>"
)


def _row(verdict: StressVerdict) -> str:
    cells = []
    for kind in EDIT_KINDS:
        found = verdict.preferences.get(kind)
        text = f"{_shown(found)}<br><small>ties {found.ties:.2f}, n={found.right.n}</small>" if found else ""
        cells.append(f"<td>{text}")
    decided = "accepted" if verdict.is_accepted else "refused"
    name = f"{html.escape(verdict.metric)}<br><small>{html.escape(verdict.version)}</small>"
    return f"<tr><td>{name}{''.join(cells)}<td>{decided}"


def _examples(kind: EditKind, cases: Sequence[StressCase], number: int) -> str:
    shown = [case for case in cases if kind in case.wrong][:number]
    told = "".join(
        f"<dt>report<dd>{html.escape(case.report)}<dt>paraphrase<dd>{html.escape(case.paraphrase)}"
        f"<dt>{kind}<dd>{html.escape(case.wrong[kind])}"
        for case in shown
    )
    return f"<details><summary>{kind}</summary><dl>{told}</dl></details>" if told else ""


def _shown(found: Preference) -> str:
    low, high = found.right.ci95
    ends = "" if low != low else f" [{low:.3f}, {high:.3f}]"  # nan: no interval
    return f"{found.right.value:.3f}{ends}"
