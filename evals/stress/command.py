"""The command `medgemma-eval metrics`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medsiglip.command import Quiet, progress, say, whole_file

if TYPE_CHECKING:
    from evals.stress.preferences import StressCase

OWN = "written for this package"


def metrics(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="METRIC...", help="rouge_l_f1, radgraph_f1_partial, radeval:NAME; all here if none."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Holds iu-xray-reports, whose findings are edited; without it 32 own reports.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many reports of --data, drawn by --seed.")] = 500,
    seed: Annotated[int, typer.Option(help="Of the draw and the resampling.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder for metrics.json and metrics.html.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of the table.")] = False,
    quiet: Quiet = False,
) -> None:
    """Put metrics under stress: do they prefer a paraphrase of a report to the report with one thing wrong?

    A metric that prefers a flipped negation to a paraphrase is refused as a reward.
    """
    from evals.results.tables import aligned
    from evals.stress import page
    from evals.stress.metrics import installed, stress_metric
    from evals.stress.preferences import preferences
    from evals.stress.verdict import own_cases, verdict_of

    chosen = [stress_metric(name) for name in dict.fromkeys(names or installed())]
    cases = of_kit(data, limit, seed) if data else list(own_cases())
    source = f"iu-xray-reports, seed {seed}" if data else OWN
    verdicts = []
    with progress(len(chosen), "metrics", quiet) as advance:
        for metric in chosen:
            verdicts.append(verdict_of(metric, preferences(metric, cases, seed)))
            advance(1)
    told = json.dumps(page.as_json(verdicts, source, cases), indent=1, allow_nan=False)
    if out:
        out.mkdir(parents=True, exist_ok=True)
        examples = 0 if data else 2  # the kit's licence lets no derived text be handed on
        for name, text in (("metrics.json", told), ("metrics.html", page.page(verdicts, source, cases, examples))):
            with whole_file(out / name) as file:
                file.write(text)
        say(f"wrote {out / 'metrics.html'}")
    for line in [told] if as_json else aligned(page.rows_of(verdicts)):
        typer.echo(line)


def of_kit(data: Path, limit: int, seed: int) -> "list[StressCase]":
    """Return the cases of the Indiana reports: one a group of equal findings, those that can be put in other words.

    Raises:
        ValueError: The set is missing or broken, or no report can be edited.
    """
    import random

    from data_cards.readers.reports import read_iu_reports
    from data_cards.readers.tables import find_set
    from evals.stress.preferences import stress_case

    folder = find_set(data, "iu-xray-reports")
    reports = {r.group: r for r in (*read_iu_reports(folder, "train"), *read_iu_reports(folder, "val"))}
    drawn = [reports[group] for group in sorted(reports)]
    random.Random(seed).shuffle(drawn)
    made = (stress_case(report.item_id, report.group, report.findings) for report in drawn)
    found = [case for case in made if case is not None][:limit]
    if not found:
        raise ValueError(f"{folder}: no report can be edited; expected findings of several sentences")
    return found
