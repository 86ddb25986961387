"""Clinical metrics of generated reports: RadGraph F1 and CheXbert F1, through their own packages.

Neither is a dependency: both bring pinned packages of their own and fetch weights on first use. They answer one value a
report or a label, so that intervals over patients come from `statistics` like all others.
"""

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from functools import partial
from importlib import import_module
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_cards.readers.chest_releases import CHEXPERT_OBSERVATIONS
from medsiglip.metrics.bootstrap import ratio
from medsiglip.metrics.statistics import ItemStatistic, TotalsStatistic

RadGraphModel = Literal["radgraph", "radgraph-xl", "modern-radgraph-xl"]

CHEXBERT_14 = (*CHEXPERT_OBSERVATIONS[1:], CHEXPERT_OBSERVATIONS[0])
"""The labels in the order in which CheXbert gives them: CheXpert's, with No Finding last."""
CHEXBERT_5 = ("Cardiomegaly", "Edema", "Consolidation", "Atelectasis", "Pleural Effusion")


class RadGraphF1(NamedTuple):
    """RadGraph F1 of each report, 0 to 1, by three ways to say that an entity agrees."""

    simple: list[float]
    """Entities agree in words and label."""
    partial: list[float]
    """... and in whether they have a relation: RG_ER, the usual F1-RadGraph of Delbrouck et al. Yu et al. (Patterns 4,
    100802, 2023) mean another one by "RadGraph F1", the mean of an entity and a relation F1."""
    complete: list[float]
    """... and in every relation and its other end."""


def radgraph_f1(predicted: Sequence[str], references: Sequence[str], model: RadGraphModel = "radgraph") -> RadGraphF1:
    """Return RadGraph F1, report by report.

    Args:
        predicted: Generated reports (findings and impression); where either is empty, a pair scores 0 and stays in n.
        references: The radiologists' reports.
        model: Which RadGraph; report it, the values differ.

    Raises:
        ValueError: The package is missing, there are no reports, or the lengths differ.

    Source: Jain et al., NeurIPS Datasets 2021; Delbrouck et al., Findings of EMNLP 2022; the package radgraph.
    """
    _demand_pairs(predicted, references)
    scorer = _radgraph_scorer(model)
    with redirect_stdout(sys.stderr):
        levels = scorer(hyps=list(predicted), refs=list(references))[1]
    return RadGraphF1(*([float(value) for value in values] for values in levels))


def chexbert_f1(predicted: Sequence[str], references: Sequence[str], device: str = "cpu") -> dict[str, ItemStatistic]:
    """Return CheXbert F1 over 14 and over 5 labels, 0 to 1; an uncertain label counts as present.

    Args:
        predicted: Generated reports; an empty one has no label and stays in n.
        references: The radiologists' reports.
        device: Where CheXbert runs.

    Returns:
        `chexbert_f1_micro_14`, `..._macro_14`, `..._micro_5` and `..._macro_5` to the figure as a function of how often
        each report counts. A label that no reference has is left out of the macro averages.

    Raises:
        ValueError: The package is missing, there are no reports, or the lengths differ.

    Source: Smit et al., EMNLP 2020; Miura et al., NAACL 2021 (the 5 labels); the package f1chexbert, whose labeller is
        used and whose averages are computed here, so that they can be resampled by patient.
    """
    _demand_pairs(predicted, references)
    labeller = _chexbert_labeller(device)
    guesses, truths = (chexbert_labels(reports, labeller) for reports in (predicted, references))
    return {
        f"chexbert_f1_{name}_{number}": partial(_of_weights, average, columns)
        for number, columns in _columns_of(guesses, truths).items()
        for name, average in (("micro", _micro), ("macro", _macro))
    }


def chexbert_labels(reports: Sequence[str], labeller: Any) -> NDArray[np.bool_]:
    """Return (n, 14) which of CHEXBERT_14 are present or uncertain; an empty report has none."""
    with redirect_stdout(sys.stderr):
        rows = [labeller.get_label(report.strip()) if report.strip() else [0] * 14 for report in reports]
    return np.array(rows, dtype=bool)


def _radgraph_scorer(model: RadGraphModel) -> Any:
    try:
        scorer = import_module("radgraph").F1RadGraph
    except ImportError as missing:
        raise ValueError(
            f"RadGraph F1 needs the package radgraph, which is not there ({missing}); run `pip install radgraph`"
        ) from missing
    with redirect_stdout(sys.stderr):
        return scorer(reward_level="all", model_type=model)


def _chexbert_labeller(device: str) -> Any:
    try:
        labeller = import_module("f1chexbert").F1CheXbert
    except ImportError as missing:
        raise ValueError(
            f"CheXbert F1 needs the package f1chexbert, which is not there ({missing}); run `pip install f1chexbert`"
        ) from missing
    with redirect_stdout(sys.stderr):
        return labeller(device=device)


def _label_columns(guesses: NDArray[np.bool_], truths: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return (n, 3 * labels): hits, predicted, present."""
    return np.concatenate([guesses & truths, guesses, truths], axis=1).astype(np.float64)


def _columns_of(guesses: NDArray[np.bool_], truths: NDArray[np.bool_]) -> dict[int, NDArray[np.float64]]:
    five = [CHEXBERT_14.index(name) for name in CHEXBERT_5]
    return {14: _label_columns(guesses, truths), 5: _label_columns(guesses[:, five], truths[:, five])}


def _of_weights(
    average: TotalsStatistic, columns: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    return average(weights @ columns)


def _micro(totals: NDArray[np.float64]) -> NDArray[np.float64]:
    hits, predicted, present = (part.sum(axis=1) for part in np.split(totals, 3, axis=1))
    return ratio(2 * hits, predicted + present)


def _macro(totals: NDArray[np.float64]) -> NDArray[np.float64]:
    hits, predicted, present = np.split(totals, 3, axis=1)
    occurs = present > 0
    f1s = np.where(occurs, np.nan_to_num(ratio(2 * hits, predicted + present)), 0.0)
    return ratio(f1s.sum(axis=1), occurs.sum(axis=1).astype(np.float64))


def _demand_pairs(predicted: Sequence[str], references: Sequence[str]) -> None:
    if len(predicted) != len(references) or not references:
        raise ValueError(
            f"got {len(predicted)} generated and {len(references)} reference reports; expected as many of each, "
            "at least one"
        )
