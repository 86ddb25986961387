"""The commands `medgemma-eval entailment` and `medgemma-eval agreement`: how good a scorer, or a metric, is."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medsiglip.command import Quiet, progress, say, whole_file

if TYPE_CHECKING:
    from evals.entailment.agreement import Agreement
    from evals.entailment.measuring import ScorerAccuracy
    from medsiglip.metrics.statistics import Estimate

Seed = Annotated[int, typer.Option(help="Of the resampling.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of the table.")]
Out = Annotated[Path | None, typer.Option(help="File; stdout without it.")]
AGREED = ("rouge_l_f1", "token_f1_squad", "entailment", "no_contradiction", "finding_recall")


def entailment(
    scorer: Annotated[str, typer.Argument(help="rules, or a folder or Hub id of a model of inference.")] = "rules",
    half: Annotated[
        str, typer.Option(help="held-back, or development, by which the rules were written.")
    ] = "held-back",
    data: Annotated[Path | None, typer.Option(help="Holds iu-xray-reports: the pairs over its reports too.")] = None,
    seed: Seed = 0,
    as_json: AsJson = False,
    out: Out = None,
) -> None:
    """Put labelled pairs about findings to a scorer of entailment: how often is it right?"""
    from evals.entailment.measuring import measure
    from evals.entailment.pairs import report_pairs, written_pairs
    from evals.results.tables import aligned
    from medgemma.entailment.named import scorer_named

    if half not in ("held-back", "development"):
        raise ValueError(f"--half {half}: give held-back or development")
    chosen: Any = half
    pairs = [*written_pairs(chosen), *(report_pairs(data, chosen) if data else [])]
    if not data:
        say("note: the pairs written for this package alone; --data DIR adds those over the Indiana reports")
    found = measure(scorer_named(scorer), pairs, seed)
    _write([json.dumps(_accuracy_json(found), indent=1)] if as_json else aligned(_accuracy_rows(found)), out)


def agreement(
    metrics: Annotated[
        list[str] | None, typer.Argument(metavar="METRIC...", help="As medgemma-eval metrics has them.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Holds mts-dialog with its factuality scores.")] = None,
    seed: Seed = 0,
    as_json: AsJson = False,
    out: Out = None,
    quiet: Quiet = False,
) -> None:
    """Correlate metrics of summaries with people's scores of how factual 300 of them are (MTS-Dialog)."""
    from data_cards.readers.tables import find_set
    from data_cards.readers.text import read_factuality_scores
    from evals.entailment.agreement import agreement as agreement_of
    from evals.results.tables import aligned
    from evals.stress.metrics import stress_metric

    if data is None:
        raise ValueError("give --data DIR, the folder that holds mts-dialog")
    summaries = read_factuality_scores(find_set(data, "mts-dialog"))
    chosen = [stress_metric(name) for name in metrics or AGREED]
    found = []
    with progress(2 * len(chosen), "metrics", quiet) as advance:
        for metric in chosen:
            for against in ("reference", "dialogue"):
                found.append(agreement_of(metric, summaries, against, seed))
                advance(1)
    rows = aligned(_agreement_rows(found))
    _write([json.dumps(list(map(_agreement_json, found)), indent=1)] if as_json else rows, out)


def _write(lines: Any, out: Path | None) -> None:
    with whole_file(out) as file:
        file.writelines(f"{line}\n" for line in lines)


def _accuracy_rows(found: "ScorerAccuracy") -> list[tuple[str, ...]]:
    return [(name, _shown(estimate), f"n={estimate.n}") for name, estimate in _parts(found)]


def _accuracy_json(found: "ScorerAccuracy") -> dict[str, Any]:
    confused = [{"label": label, "said": said, "n": n} for (label, said), n in found.confused.items()]
    return {**{name: _as_json(estimate) for name, estimate in _parts(found)}, "confused": confused}


def _parts(found: "ScorerAccuracy") -> "list[tuple[str, Estimate]]":
    return [("all", found.accuracy), *found.by_label.items(), *found.by_phenomenon.items()]


def _agreement_rows(found: "list[Agreement]") -> list[tuple[str, ...]]:
    head = ("metric", "against", *(f"with {name}" for name in found[0].spearman))
    return [head, *((one.metric, one.against, *map(_shown, one.spearman.values())) for one in found)]


def _agreement_json(one: "Agreement") -> dict[str, Any]:
    spearman = {name: _as_json(estimate) for name, estimate in one.spearman.items()}
    return {"metric": one.metric, "against": one.against, "spearman": spearman}


def _as_json(estimate: "Estimate") -> dict[str, Any]:
    from evals.results.scores import interval_as_json

    value = estimate.value if estimate.value == estimate.value else None
    return {"value": value, "n": estimate.n, "n_groups": estimate.n_groups, "ci95": interval_as_json(estimate.ci95)}


def _shown(estimate: "Estimate") -> str:
    low, high = estimate.ci95
    if estimate.value != estimate.value:
        return "undefined"
    return f"{estimate.value:.3f}" + ("" if low != low else f" [{low:.3f}, {high:.3f}]")
