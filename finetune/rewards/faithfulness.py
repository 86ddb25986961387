"""Summaries beside their sources, in one table: what is supported, contradicted and left out, and how long they are.

Support alone says little: "No acute abnormality." is supported by most sources. So what answers without looking stands
in the same table, and recall of the reference's findings beside support.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evals.metrics.entailment import recalled_findings
from evals.metrics.paired import paired_mean_difference
from evals.results.scores import as_json
from finetune.rewards.entailment import readable
from finetune.rewards.guards import coverage, density, words
from finetune.rewards.texts import text_of
from medgemma.entailment.scores import Scorer, entailments
from medsiglip.command import whole_file
from medsiglip.metrics.statistics import grouped_bootstrap_ci


@dataclass(frozen=True)
class Case:
    """A source and the summary that a person has written of it."""

    premise: str
    reference: str
    group: str
    """What dependent cases share; intervals resample groups."""


def contradiction_of(scorer: Scorer) -> Callable[..., list[float]]:
    """P(contradiction) of a completion by the column `premise`, to be logged."""

    def contradiction(completions: Sequence[Any], premise: Sequence[str], **_: Any) -> list[float]:
        pairs = [(source, readable(source, text_of(said))) for source, said in zip(premise, completions, strict=True)]
        return [answer.contradiction for answer in entailments(scorer, pairs)]

    return contradiction


def finding_recall(completions: Sequence[Any], answer: Sequence[str], **_: Any) -> list[float | None]:
    """Share of the findings of the reference, the column `answer`, that a completion says too; None where it has none.

    Those of chest reports, by rules, that are there or held possible.
    """
    return [recall(text_of(said), right) for said, right in zip(completions, answer, strict=True)]


def recall(said: str, reference: str) -> float | None:
    """Of one text."""
    recalled, asked = recalled_findings(said, reference)
    return recalled / asked if asked else None


def measured(cases: Sequence[Case], said: Sequence[str], scorer: Scorer) -> dict[str, list[float | None]]:
    """Every measure of every case; the likeliest label counts. What is empty, or not English, is neither of both."""
    premise, answer = [case.premise for case in cases], [case.reference for case in cases]
    pairs = [(source, readable(source, text)) for source, text in zip(premise, said, strict=True)]
    labels = [one.label for one in entailments(scorer, pairs)]
    return {
        "entailed": [float(label == "entailment") for label in labels],
        "contradicted": [float(label == "contradiction") for label in labels],
        "finding_recall": finding_recall(said, answer),
        "coverage": [*coverage(said, premise)],
        "density": [*density(said, premise)],
        "words": [*words(said)],
    }


def compared(
    cases: Sequence[Case], answers: Mapping[str, Sequence[str]], scorer: Scorer, part: str = "all"
) -> list[dict[str, Any]]:
    """A row a measure: the value of each that answers, and the last one minus each other, paired over groups.

    Args:
        cases: C of them.
        answers: name to C texts.
        scorer: of premises and hypotheses.
        part: what the cases are a part of, such as the abnormal ones.
    """
    found = {name: measured(cases, said, scorer) for name, said in answers.items()}
    *others, last = found
    rows = []
    for measure in found[last]:
        there = [place for place, value in enumerate(found[last][measure]) if value is not None]
        if not there:
            continue
        groups = [cases[place].group for place in there]
        values = {name: np.array([of[measure][place] for place in there], float) for name, of in found.items()}
        rows.append(
            {
                "part": part,
                "measure": measure,
                "values": {name: as_json(grouped_bootstrap_ci(of, groups)) for name, of in values.items()},
                "minus": {
                    name: as_json(paired_mean_difference(values[name], values[last], groups).estimate)
                    for name in others
                },
            }
        )
    return rows


def write_table(rows: Sequence[Mapping[str, Any]], out: Path) -> str:
    """Write OUT/faithfulness.json and .md, and return the Markdown."""
    text = markdown(rows)
    for name, content in (("md", text), ("json", json.dumps({"rows": list(rows)}, indent=1, allow_nan=False) + "\n")):
        with whole_file(out / f"faithfulness.{name}") as file:
            file.write(content)
    return text


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as `compared` makes them, as a table; 95 % intervals, whole groups resampled."""
    names = list(rows[0]["values"])
    head = ["cases", "measure", *names, *(f"{names[-1]} − {name}" for name in names[:-1]), "n, groups"]
    lines = [
        [
            *(row["part"], row["measure"]),
            *(f"{row['values'][name]['value']:.3f}" for name in names),
            *(_difference(row["minus"][name]) for name in names[:-1]),
            "{n}, {n_groups}".format(**row["values"][names[-1]]),
        ]
        for row in rows
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in (head, ["---"] * len(head), *lines))


def _difference(found: Mapping[str, Any]) -> str:
    low, high = found["ci95"]
    return f"{found['value']:+.3f}" + ("" if low is None else f" ({low:+.3f} to {high:+.3f})")
