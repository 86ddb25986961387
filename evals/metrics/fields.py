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

import numpy as np
from numpy.typing import NDArray

from medsiglip.metrics.bootstrap import ratio
from medsiglip.metrics.statistics import ItemStatistic


class FieldCounts(NamedTuple):
    """How many fields of a document agree."""

    right: int
    predicted: int
    reference: int

    @property
    def f1(self) -> float:
        """2 right / (predicted + reference), 0 to 1; 1 if neither has a field."""
        return 2 * self.right / (self.predicted + self.reference) if self.predicted + self.reference else 1.0


def micro_f1(counts: Sequence[FieldCounts]) -> ItemStatistic:
    """F1 of the fields of all documents together, as a function of how often each document counts.

    Its macro counterpart is the mean of the documents' `FieldCounts.f1`.
    """
    columns = np.asarray(counts, dtype=np.float64)  # (n, 3)

    def f1(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        totals = weights @ columns
        return ratio(2 * totals[:, 0], totals[:, 1] + totals[:, 2])

    return f1


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
