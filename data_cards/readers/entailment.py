"""Pairs of texts with a judgement: SNLI, ConTRoL, WiCE, SummEdits, K-QA."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data_cards.readers.fields import cells, one_of, text_group, texts
from data_cards.readers.tables import read_json_lines

THREE_WAY = ("entailment", "neutral", "contradiction")
WICE_LABELS = ("supported", "partially_supported", "not_supported")
SUMMEDITS_DOMAINS = ("qmsumm", "sales_call", "scitldr")


@dataclass(frozen=True)
class EntailmentPair:
    """A text, a statement about it, and what the first says of the second."""

    item_id: str
    premise: str
    hypothesis: str
    label: str
    """As the set gives it; the reader's docstring names the values."""
    group: str
    """Pairs with the same premise (K-QA: the same question) have one group."""


def read_snli(folder: Path, split: Literal["train", "val"] = "val") -> list[EntailmentPair]:
    """Read one part of snli; labels: entailment, neutral, contradiction.

    Raises:
        ValueError: The file or a field is missing or empty, or a label is unknown.
    """
    return _read(folder / f"{split}.jsonl.gz", "snli", THREE_WAY)


def read_control_nli(folder: Path, split: Literal["dev"] = "dev") -> list[EntailmentPair]:
    """Read control-nli; labels: entailment, neutral, contradiction.

    Raises:
        ValueError: As `read_snli`.
    """
    return _read(folder / f"{split}.jsonl.gz", "control", THREE_WAY)


def read_wice(folder: Path, split: Literal["dev"] = "dev") -> list[EntailmentPair]:
    """Read wice; labels: supported, partially_supported, not_supported. The premise is the evidence, one line each.

    Raises:
        ValueError: As `read_snli`.
    """
    table = folder / f"{split}.jsonl.gz"
    pairs = []
    for number, row in enumerate(read_json_lines(table, ("id", "claim", "evidence", "label")), start=1):
        found = cells(table, number, row, ("id", "claim"))
        pairs.append(
            EntailmentPair(
                item_id=found["id"],
                premise="\n".join(texts(table, number, row, "evidence")),
                hypothesis=found["claim"],
                label=one_of(table, number, row, "label", WICE_LABELS),
                group=text_group("wice", found["claim"]),
            )
        )
    return pairs


def read_summedits(folder: Path, split: Literal["qmsumm", "sales_call", "scitldr"] = "qmsumm") -> list[EntailmentPair]:
    """Read one domain of summedits; labels: consistent, inconsistent. The hypothesis is the summary.

    Raises:
        ValueError: As `read_snli`, or `consistent` is not true or false.
    """
    table = folder / f"{split}.jsonl.gz"
    pairs = []
    for number, row in enumerate(read_json_lines(table, ("id", "document", "summary", "consistent")), start=1):
        found = cells(table, number, row, ("id", "document", "summary"))
        if not isinstance(row["consistent"], bool):
            raise ValueError(f"{table}: record {number} has consistent {row['consistent']!r}; expected true or false")
        label = "consistent" if row["consistent"] else "inconsistent"
        group = text_group("summedits", found["document"])
        pairs.append(EntailmentPair(found["id"], found["document"], found["summary"], label, group))
    return pairs


def read_k_qa_pairs(folder: Path) -> list[EntailmentPair]:
    """Read k-qa's labelled pairs of a system's answer and a statement; labels: entailment, neutral, contradiction.

    Raises:
        ValueError: As `read_snli`.
    """
    return _read(folder / "nli.jsonl.gz", "kqa", THREE_WAY, group="question")


def _read(table: Path, prefix: str, labels: tuple[str, ...], group: str = "premise") -> list[EntailmentPair]:
    pairs = []
    for number, row in enumerate(read_json_lines(table, ("id", "premise", "hypothesis", "label", group)), start=1):
        found = cells(table, number, row, ("id", "premise", "hypothesis", group))
        label = one_of(table, number, row, "label", labels)
        key = text_group(prefix, found[group])
        pairs.append(EntailmentPair(found["id"], found["premise"], found["hypothesis"], label, key))
    return pairs
