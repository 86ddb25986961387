"""Two encoders on held-out pairs: retrieval both ways, and zero-shot where the captions are labels.

Letters: N rows, M different captions, C classes or findings, D width.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from data_cards.table import Target
from evals.metrics.paired import PairedDifference, paired_mean_difference, paired_statistic_difference
from evals.results.scores import as_json
from finetune.tables.contrastive import image_vectors
from finetune.tables.examples import SeenPictures
from finetune.tables.pairs import Captioned, Pairs, caption_of
from medsiglip.command import whole_file
from medsiglip.encoder import MedSigLIP
from medsiglip.metrics.ranking import auroc_of_weights, macro_auroc_of_weights
from medsiglip.metrics.statistics import Estimate, ItemStatistic, grouped_bootstrap_ci, grouped_weighted_ci

RECALLED = (1, 5, 10)
ROWS_AT_ONCE = 256

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Seen:
    """What an encoder makes of held-out pairs."""

    images: Floats
    """(N, D) unit vectors."""
    texts: Floats
    """(M, D), of `Pairs.texts`."""
    labels: Floats
    """(C, D), of the captions of each class or finding; C may be 0."""


@dataclass(frozen=True)
class Labels:
    """What is right of the rows where classes or findings are asked for by their captions."""

    names: tuple[str, ...]
    captions: tuple[str, ...]
    is_class: bool
    values: Floats
    """(N, C): 1 present, 0 absent, NaN not known."""

    @classmethod
    def of(cls, rows: Sequence[Captioned], target: Target | None, template: str) -> "Labels":
        """Of rows that a target of classes or findings has; none for another target."""
        if target is None or target.kind not in ("class", "multi-label"):
            return cls((), (), True, np.zeros((len(rows), 0), np.float32))
        values = [[_value(row, target.name, name) for name in target.classes] for row in rows]
        captions = tuple(caption_of([name], template) for name in target.classes)
        return cls(target.classes, captions, target.kind == "class", np.array(values, np.float32))


@torch.inference_mode()
def seen_by(
    encoder: MedSigLIP, pairs: Pairs, labels: Labels, pictures: SeenPictures, advance: Callable[[int], object]
) -> Seen:
    """Embed held-out pairs; `advance` is called with the rows done."""
    found = []
    for start in range(0, len(pairs), ROWS_AT_ONCE // 16):
        numbers = pairs.pictures[start : start + ROWS_AT_ONCE // 16]
        pixels = torch.stack([pictures.pixel_values(number) for row in numbers for number in row])
        owners = torch.tensor([place for place, row in enumerate(numbers) for _ in row])
        device = encoder.model.device
        found.append(image_vectors(encoder.model, pixels.to(device), owners.to(device), len(numbers)).cpu().numpy())
        advance(len(numbers))
    return Seen(np.concatenate(found), encoder.encode_texts(pairs.texts), encoder.encode_texts(labels.captions))


def ranks_of(seen: Seen, pairs: Pairs) -> Mapping[str, NDArray[np.int64]]:
    """Way to (N,) ranks from 1: of the best true caption of each picture, and of the best picture of its caption.

    What is equally near counts as nearer if it is false; what is neither known as true nor as false counts as false.
    """
    first = torch.tensor([pairs.captions.tolist().index(number) for number in range(len(pairs.texts))])
    everyone = torch.arange(len(pairs))
    by_picture = _ranks(seen.images, seen.texts, lambda some: pairs.relations(everyone[some], first) > 0)
    by_caption = _ranks(seen.texts, seen.images, lambda some: (pairs.relations(everyone, first[some]) > 0).T)
    return {"picture to caption": by_picture, "caption to picture": by_caption[pairs.captions.numpy()]}


def mean_reciprocal_rank(seen: Seen, pairs: Pairs) -> float:
    """Over both ways: what decides which weights are the best."""
    return float(np.mean([np.mean(1 / ranks) for ranks in ranks_of(seen, pairs).values()]))


def compare(path: Path, before: Seen, after: Seen, pairs: Pairs, labels: Labels) -> list[str]:
    """Write scores.json: each figure of the base and of the tuned encoder, and their paired difference over groups.

    Returns:
        Its figures as lines.
    """
    figures = _retrieval(before, after, pairs) | _zero_shot(before, after, pairs.groups, labels)
    with whole_file(path) as file:
        file.write(json.dumps(figures, indent=1, allow_nan=False) + "\n")
    return [_line(name, figure) for name, figure in figures.items()]


def _retrieval(before: Seen, after: Seen, pairs: Pairs) -> dict[str, Any]:
    ranks, candidates = [ranks_of(seen, pairs) for seen in (before, after)], (len(pairs.texts), len(pairs))
    figures = {}
    for way, count in zip(ranks[0], candidates, strict=True):
        for k in (k for k in RECALLED if k < count):
            base, tuned = (np.asarray(of[way] <= k, np.float64) for of in ranks)
            figures[f"{way}, recall@{k}"] = _of_means(base, tuned, pairs.groups)
    return figures


def _zero_shot(before: Seen, after: Seen, groups: Sequence[str], labels: Labels) -> dict[str, Any]:
    if not labels.names:
        return {}
    scores = [np.asarray(seen.images @ seen.labels.T, np.float64) for seen in (before, after)]
    if not labels.is_class:
        return _findings(scores, groups, labels)
    known = np.flatnonzero(~np.isnan(labels.values).any(1)).tolist()
    if not known:
        return {}
    scores, groups, truth = [one[known] for one in scores], [groups[n] for n in known], labels.values[known].argmax(1)
    base, tuned = (np.asarray(one.argmax(1) == truth, np.float64) for one in scores)
    named = [labels.names[n] for n in truth]
    first, second = (macro_auroc_of_weights(one, named, labels.names) for one in scores)
    return {
        "zero-shot accuracy": _of_means(base, tuned, groups),
        "zero-shot macro AUROC": _of_statistics(first, second, groups),
    }


def _findings(scores: Sequence[NDArray[np.float64]], groups: Sequence[str], labels: Labels) -> dict[str, Any]:
    figures = {}
    for place, name in enumerate(labels.names):
        known = np.flatnonzero(~np.isnan(labels.values[:, place])).tolist()
        truth = labels.values[known, place] == 1
        if 0 < truth.sum() < len(truth):
            first, second = (auroc_of_weights(one[known, place], truth) for one in scores)
            figures[f"zero-shot AUROC of {name}"] = _of_statistics(first, second, [groups[n] for n in known])
    return figures


def _ranks(asked: Floats, candidates: Floats, is_true: Callable[[slice], torch.Tensor]) -> NDArray[np.int64]:
    """(n,) of the best true candidate, some rows at a time."""
    found = []
    for start in range(0, len(asked), ROWS_AT_ONCE):
        some = slice(start, min(start + ROWS_AT_ONCE, len(asked)))
        scores, true = asked[some] @ candidates.T, is_true(some).numpy()
        best = np.where(true, scores, -np.inf).max(1, keepdims=True)
        found.append(1 + ((scores >= best) & ~true).sum(1))
    return np.concatenate(found)


def _of_means(base: NDArray[np.float64], tuned: NDArray[np.float64], groups: Sequence[str]) -> dict[str, Any]:
    before, after = (grouped_bootstrap_ci(values, groups) for values in (base, tuned))
    return _figure(before, after, paired_mean_difference(base, tuned, groups))


def _of_statistics(base: ItemStatistic, tuned: ItemStatistic, groups: Sequence[str]) -> dict[str, Any]:
    before, after = (grouped_weighted_ci(statistic, groups) for statistic in (base, tuned))
    return _figure(before, after, paired_statistic_difference(base, tuned, groups))


def _figure(base: Estimate, tuned: Estimate, gain: PairedDifference) -> dict[str, Any]:
    p = None if np.isnan(gain.p_bootstrap) else gain.p_bootstrap
    return {
        "base": as_json(base),
        "tuned": as_json(tuned),
        "tuned minus base": {**as_json(gain.estimate), "p_bootstrap": p},
    }


def _value(row: Captioned, target: str, name: str) -> float:
    label = row.row.labels.get(target)
    if isinstance(label, str):
        return float(label == name)
    return float(label[name]) if isinstance(label, dict) and name in label else float("nan")


def _line(name: str, figure: Mapping[str, Any]) -> str:
    shown = []
    for which, one in figure.items():
        value, (low, high) = one["value"], one["ci95"]
        numbers = ["-" if number is None else f"{number:.3f}" for number in (value, low, high)]
        shown.append(f"{which} {numbers[0]} ({numbers[1]} to {numbers[2]})")
    return f"{name}: {', '.join(shown)}, n {figure['base']['n']} of {figure['base']['n_groups']} groups"
