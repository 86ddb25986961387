"""F1 over the fields of JSON documents, such as lab reports read into rows of name, result, unit, range.

A document is flattened to fields: the path of keys, and the value. Rows of a list are told apart by their `row_key`
(the analyte's name), not by their order, so a missed row costs its own fields only. A field is right if path and value
are; empty and null values are no fields.

Source: the MedGemma 1.5 report's lab-report table gives macro F1 as the mean of the documents' F1 and micro F1 over
    all fields; how it aligns rows and compares values is not published, so this is a reading.
"""

import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from medsiglip.metrics.bootstrap import N_RESAMPLES, ratio
from medsiglip.metrics.statistics import Estimate, clustered_bootstrap_ci, clustered_totals_ci


class FieldCounts(NamedTuple):
    """How many fields of a document agree."""

    right: int
    predicted: int
    reference: int

    @property
    def f1(self) -> float:
        """2 right / (predicted + reference), 0 to 1; 1 if neither has a field."""
        return 2 * self.right / (self.predicted + self.reference) if self.predicted + self.reference else 1.0


class FieldF1(NamedTuple):
    """Both averages over documents."""

    macro: Estimate
    """Mean of the documents' F1."""
    micro: Estimate
    """F1 of the fields of all documents together."""
    n_unparsed: int
    """Answers without a JSON document: all their reference fields are missed."""


def field_f1(
    predicted: Sequence[Any],
    reference: Sequence[Any],
    clusters: Sequence[str],
    row_key: str = "name",
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
) -> FieldF1:
    """Compare documents field by field.

    Args:
        predicted: Parsed JSON, one an item; None if the answer held none.
        reference: Parsed JSON, one an item.
        clusters: The patient of each item.
        row_key: What tells the rows of a list apart.
        seed: Of the resampling.
        n_resamples: Number of resamples.

    Raises:
        ValueError: There are no items, or the lengths differ.
    """
    if len(predicted) != len(reference):
        raise ValueError(f"got {len(predicted)} predicted and {len(reference)} reference documents; expected as many")
    counts = [field_counts(guess, truth, row_key) for guess, truth in zip(predicted, reference, strict=True)]
    return FieldF1(
        clustered_bootstrap_ci([count.f1 for count in counts], clusters, seed, n_resamples),
        clustered_totals_ci(
            lambda totals: ratio(2 * totals[:, 0], totals[:, 1] + totals[:, 2]), counts, clusters, seed, n_resamples
        ),
        sum(guess is None for guess in predicted),
    )


def field_counts(predicted: Any, reference: Any, row_key: str = "name") -> FieldCounts:
    """Count the fields of one document that agree; two rows of the same name are matched as well as they can be."""
    guesses, truths = Counter(fields(predicted, row_key)), Counter(fields(reference, row_key))
    return FieldCounts((guesses & truths).total(), guesses.total(), truths.total())


def fields(document: Any, row_key: str = "name", path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield (path, value) of every field that is not empty.

    Keys and texts are compared in lower case with white space squeezed; numbers, and texts that are numbers, by value.
    """
    if isinstance(document, dict):
        for key, value in document.items():
            yield from fields(value, row_key, (*path, _text(key)))
    elif isinstance(document, list):
        for row in document:
            named = isinstance(row, dict) and row.get(row_key) not in (None, "")
            yield from fields(row, row_key, (*path, f"[{_text(row[row_key])}]" if named else "[]"))
    elif document is not None and _text(document):
        yield path, _text(document)


def parse_document(text: str) -> Any:
    """Return the JSON document in an answer, None if there is none.

    The whole text, or its first fenced block, or what stands from its first brace or bracket to its last.
    """
    fenced = text.split("```")[1].removeprefix("json") if text.count("```") >= 2 else text
    starts = [place for place in (text.find("{"), text.find("[")) if place >= 0]
    spans = [text[min(starts) : max(text.rfind("}"), text.rfind("]")) + 1]] if starts else []
    for candidate in (text, fenced, *spans):
        try:
            found = json.loads(candidate)
        except (json.JSONDecodeError, RecursionError):
            continue
        if isinstance(found, dict | list):
            return found
    return None


def _text(value: Any) -> str:
    """Return the form in which values are compared."""
    if isinstance(value, bool):
        return "true" if value else "false"
    text = " ".join(str(value).split()).casefold()
    try:
        number = float(text)
    except ValueError:
        return text
    return repr(number + 0.0) if math.isfinite(number) else text
