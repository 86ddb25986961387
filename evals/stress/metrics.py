"""The metrics that can be put under stress: ours, and those of the packages that are installed."""

import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from functools import cache, partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

from evals.metrics import reports
from evals.metrics.answers import exact_match_norm, token_f1_squad, token_recall
from evals.metrics.entailment import entailment_share, finding_recall, supports, uncontradicted_share
from evals.metrics.text_overlap import rouge_l_f1
from evals.stress.preferences import StressMetric
from medgemma.entailment.named import scorer_named

OF_A_PAIR = {
    "rouge_l_f1": rouge_l_f1,
    "token_f1_squad": token_f1_squad,
    "token_recall": token_recall,
    "exact_match_norm": exact_match_norm,
    "entailment": entailment_share,
    "no_contradiction": uncontradicted_share,
    "finding_recall": finding_recall,
}
"""Our metrics of two texts, by the names that scores.json has."""

RADEVAL: Mapping[str, str] = {
    "bleu": "do_bleu",
    "rouge1": "do_rouge",
    "rouge2": "do_rouge",
    "rougeL": "do_rouge",
    "bertscore": "do_bertscore",
    "radeval_bertscore": "do_radeval_bertscore",
    "f1chexbert_sample_acc_all": "do_f1chexbert",
    "radgraph_partial": "do_radgraph",
    "ratescore": "do_ratescore",
    "radcliq_v1": "do_radcliq",
    "srrbert_weighted_f1": "do_srrbert",
    "temporal_f1": "do_temporal",
    "green": "do_green",
}
"""RadEval's local metrics of one report, by their names there, to the flag that switches each on. Those that ask a paid
service are left out.

Source: RadEval 2 (github.com/jbdel/RadEval, docs/metrics.md): `RadEval(do_X=True, do_per_sample=True)` called with refs
    and hyps returns name to a list, one value a report.
"""


def stress_metric(name: str) -> StressMetric:
    """Return a metric by name.

    Args:
        name: One of OF_A_PAIR, `radgraph_f1_partial`, `radeval:` and one of RADEVAL, or `entailment:` and a scorer of
            medgemma.entailment.named.

    Raises:
        ValueError: There is none of this name, or its package is missing.
    """
    if name in OF_A_PAIR:
        return StressMetric(name, _own_version(), partial(_pair_by_pair, name))
    if name == "radgraph_f1_partial":
        _demand_package("radgraph", "radgraph")
        return StressMetric(name, _package_version("radgraph"), lambda said, truth: reports.radgraph_f1(said, truth)[1])
    kind, _, inner = name.partition(":")
    if kind == "radeval" and inner in RADEVAL:
        _demand_package("RadEval", "radeval")
        return StressMetric(name, _package_version("radeval"), partial(_radeval, inner))
    if kind == "entailment" and inner:
        scorer = scorer_named(inner)
        return StressMetric(name, inner, lambda said, truth: [one.entailment for one in supports(said, truth, scorer)])
    known = [*OF_A_PAIR, "entailment:MODEL", "radgraph_f1_partial", *(f"radeval:{inner}" for inner in RADEVAL)]
    raise ValueError(f"got metric {name!r}; expected one of {', '.join(known)}")


def installed() -> list[str]:
    """Return the names of the metrics that run here without a model of many gigabytes (RadEval's GREEN)."""
    radgraph = ["radgraph_f1_partial"] if find_spec("radgraph") else []
    radeval = [f"radeval:{name}" for name in RADEVAL if name != "green"] if find_spec("RadEval") else []
    return [*OF_A_PAIR, *radgraph, *radeval]


def _pair_by_pair(name: str, said: Sequence[str], truth: Sequence[str]) -> list[float]:
    return [OF_A_PAIR[name](one, other) for one, other in zip(said, truth, strict=True)]


def _radeval(name: str, said: Sequence[str], truth: Sequence[str]) -> list[float]:
    with redirect_stdout(sys.stderr):
        scored = _radeval_scorer(RADEVAL[name])(refs=list(truth), hyps=list(said))
    if name not in scored:
        raise ValueError(f"RadEval {_package_version('radeval')} gives no {name!r}; run `pip install -U radeval`")
    return [float(value) for value in scored[name]]


@cache
def _radeval_scorer(flag: str) -> Any:
    """One scorer a flag: it loads a model."""
    with redirect_stdout(sys.stderr):
        return import_module("RadEval").RadEval(**{flag: True, "do_per_sample": True})


def _demand_package(module: str, package: str) -> None:
    if not find_spec(module):
        raise ValueError(
            f"the metric needs the package {package}, which is not there; run `pip install {package}` in an "
            "environment of its own"
        )


def _own_version() -> str:
    return f"open-medgemma {_package_version('open-medgemma')}"


def _package_version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
