"""Labelled pairs about findings of chest films: pairs_written.jsonl, and pairs_of_reports.jsonl over the kit's reports.

A report's text is not here, since its licence lets none be handed on: a pair names report, section and sentence, with a
hash of the text. docs/entailment.md says how the labels were set.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from data_cards.readers.reports import ChestReport, read_iu_reports
from data_cards.readers.tables import find_set
from medgemma.entailment.scores import Label
from medgemma.entailment.sentences import sentences

Half = Literal["development", "held-back"]
"""development: rules may be changed by it. held-back: a scorer is measured on it once, unseen."""

PHENOMENA = ("negation", "uncertainty", "side", "change", "anatomy", "size", "finding")
"""What makes a pair hard; `finding` is the rest: another word, a kind of something, the normal and the abnormal."""

CARD = "iu-xray-reports"
_HERE = Path(__file__).parent


@dataclass(frozen=True)
class LabelledPair:
    """A text, a statement, and what a careful reader of the first alone says of the second."""

    pair_id: str
    premise: str
    hypothesis: str
    label: Label
    phenomenon: str
    """One of PHENOMENA."""
    half: Half
    group: str
    """Pairs over one report, or one written text, have one group, and lie in one half."""


def written_pairs(half: Half | None = None) -> list[LabelledPair]:
    """Return the pairs whose both texts were written for this file; of both halves if None."""
    return [_pair(row, row["premise"], row["premise"]) for row in _rows("pairs_written.jsonl", half)]


def report_pairs(data_dir: str | Path, half: Half | None = None) -> list[LabelledPair]:
    """Return the pairs over the Indiana reports; of both halves if None.

    Args:
        data_dir: Holds iu-xray-reports, or is it.
        half: Which pairs.

    Raises:
        ValueError: The set is missing or broken, or its text is not the one that was labelled.
    """
    folder = find_set(data_dir, CARD)
    reports = {report.item_id: report for split in ("train", "val") for report in _read(folder, split)}
    return [_pair(row, _premise(row, reports, folder), row["report"]) for row in _rows("pairs_of_reports.jsonl", half)]


def digest(text: str) -> str:
    """The first 16 hexadecimal digits of SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _rows(name: str, half: Half | None) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (_HERE / name).read_text(encoding="utf-8").splitlines()]
    return [row for row in rows if half in (None, row["half"])]


def _pair(row: Mapping[str, Any], premise: str, group: str) -> LabelledPair:
    return LabelledPair(row["id"], premise, row["hypothesis"], row["label"], row["phenomenon"], row["half"], group)


def _premise(row: Mapping[str, Any], reports: Mapping[str, ChestReport], folder: Path) -> str:
    """The section, or its sentence."""
    report = reports.get(row["report"])
    section = report.findings if report else ""
    parts = [section] if row["sentence"] is None else sentences(section)
    found = next((part for part in parts if digest(part) == row["sha256"]), None)
    if found is None:
        raise ValueError(
            f"{folder}: {row['report']} has not the text that pair {row['id']} is about; fetch the set again"
        )
    return found


def _read(folder: Path, split: str) -> list[ChestReport]:
    return read_iu_reports(folder, "train" if split == "train" else "val")
