"""Whether a judge may grade: its agreement with people's labels, kept in a file that a run demands.

medgemma-eval judge labelled.jsonl --judge http://host/v1#name --required 0.8 --out judges/name
medgemma-eval run healthbench ... --role judge=http://host/v1#name --accepted judges/name
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evals.judging.judge import VERSION, Backend, Verdict, judge_text
from medsiglip.metrics.bootstrap import Interval, ratio
from medsiglip.metrics.statistics import Estimate, grouped_bootstrap_ci, grouped_totals_ci

SYSTEM = "You decide whether a text meets one criterion."
RESULT, VERDICTS = "judge.json", "verdicts.jsonl"


@dataclass(frozen=True)
class LabelledText:
    """A text with what people decided of it."""

    text: str
    question: str
    label: bool
    group: str
    reference: str = ""
    """What the text is compared with: a conversation, a right answer; empty for none."""


@dataclass(frozen=True)
class Acceptance:
    """Whether a judge may grade."""

    agreement: Estimate
    """An unparsed verdict agrees with nothing."""
    interval: Interval
    """Of the agreement, 95 %: Wilson's where every text is a group of its own, else over resampled groups."""
    kappa: Estimate
    """Cohen's, unparsed verdicts as a third answer that people never give; undefined if all labels are one."""
    unparsed: float
    """Share of the verdicts that could not be read."""
    required: float
    is_accepted: bool
    """The lower end of `interval` reaches what is required, and kappa's lies above 0: a judge that says yes to all
    agrees with labels that are mostly yes."""


def labelled_texts(path: Path) -> list[LabelledText]:
    """Read a JSONL of {"text", "question", "label", "group"} and, where there is one, "reference".

    Raises:
        ValueError: The file is missing or holds no line, or a line is none; the message names file, line and fault.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected lines of text, question, label and group")
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if not isinstance(row["label"], bool):
                raise ValueError("label is neither true nor false")
            reference = str(row.get("reference", ""))
            found = LabelledText(str(row["text"]), str(row["question"]), row["label"], str(row["group"]), reference)
            rows.append(found)
        except (KeyError, TypeError, ValueError) as fault:
            raise ValueError(f"{path}: line {number}: {fault}; a line has text, question, label and group") from None
    if not rows:
        raise ValueError(f"{path}: holds no labelled text; a line has text, question, label and group")
    return rows


def accept(verdicts: Sequence[Verdict], labels: Sequence[bool], groups: Sequence[str], required: float) -> Acceptance:
    """Compare a judge with people on labelled texts.

    Args:
        verdicts: The judge's.
        labels: The people's, of the same texts.
        groups: The group of each; whole groups are resampled.
        required: Agreement that the interval must lie above, 0 to 1.

    Raises:
        ValueError: There is no verdict, or the lengths differ.
    """
    agrees = [float(verdict.met == label) for verdict, label in zip(verdicts, labels, strict=True)]
    found = grouped_bootstrap_ci(agrees, groups)
    interval = found.ci95_wilson if found.ci95_wilson and found.n_groups == found.n else found.ci95
    cells = np.zeros((len(labels), 2, 3))  # label no, yes; verdict no, yes, unparsed
    for row, (verdict, label) in enumerate(zip(verdicts, labels, strict=True)):
        cells[row, int(label), 2 if verdict.met is None else int(verdict.met)] = 1
    kappa = grouped_totals_ci(_kappa, cells.reshape(len(labels), 6), groups)
    unparsed = sum(verdict.met is None for verdict in verdicts) / len(labels)
    is_accepted = interval.low >= required and kappa.ci95.low > 0  # nan is above nothing
    return Acceptance(found, interval, kappa, unparsed, required, is_accepted)


def _kappa(totals: NDArray[np.float64]) -> NDArray[np.float64]:
    table = totals.reshape(-1, 2, 3)  # (R, label, verdict)
    n = table.sum(axis=(1, 2))
    observed = ratio(table[:, 0, 0] + table[:, 1, 1], n)
    of_labels, of_verdicts = table.sum(axis=2), table.sum(axis=1)[:, :2]
    by_chance = ratio((of_labels * of_verdicts).sum(axis=1), n * n)
    return ratio(observed - by_chance, 1 - by_chance)


def judged_texts(
    judge: Backend, identity: str, texts: Sequence[LabelledText], folder: Path, advance: Callable[[int], object]
) -> list[Verdict]:
    """Ask a judge about labelled texts; verdicts are appended as they come, so that a stopped run goes on.

    Args:
        judge: What answers.
        identity: Of the judge; another judge's verdicts are not taken for its own.
        texts: What is judged.
        folder: Holds verdicts.jsonl.
        advance: Told of every text.

    Raises:
        ValueError: A line of verdicts.jsonl is broken, or a text holds its nonce.
        Exception: What the judge raises; what it answered before is kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / VERDICTS
    kept = dict(_kept(path, identity))
    found = []
    with path.open("a", encoding="utf-8") as file:
        for text in texts:
            key = _key(text)
            if key not in kept:
                kept[key] = judge_text(
                    judge, system=SYSTEM, question=text.question, text=text.text, reference=text.reference
                )
                row = {"judge": identity, "version": VERSION, "text_sha256": key, "met": kept[key].met}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                file.flush()
            found.append(kept[key])
            advance(1)
    return found


def _kept(path: Path, identity: str) -> Iterator[tuple[str, Verdict]]:
    """The verdicts of this judge under this frame; a line that a killed run did not finish is cut off."""
    if not path.is_file():
        return
    whole, _, torn = path.read_text(encoding="utf-8").rpartition("\n")
    if torn:
        path.write_text(f"{whole}\n" if whole else "", encoding="utf-8")
    for number, line in enumerate(whole.split("\n") if whole else [], 1):
        try:
            row = json.loads(line)
            if (row["judge"], row["version"]) == (identity, VERSION):
                yield row["text_sha256"], Verdict(row["met"], "")
        except (KeyError, TypeError, ValueError) as fault:
            raise ValueError(f"{path}: line {number} is no verdict ({fault}); delete the line and run again") from None


def _key(text: LabelledText) -> str:
    return sha256(json.dumps([text.question, text.reference, text.text]).encode()).hexdigest()


def as_json(identity: str, found: Acceptance, labels: Path) -> dict[str, Any]:
    """Return what judge.json holds."""

    def figure(value: Estimate, interval: Interval) -> dict[str, Any]:
        return {"value": _finite(value.value), "ci95": [_finite(end) for end in interval]}

    return {
        "judge": identity,
        "frame_version": VERSION,
        "is_accepted": found.is_accepted,
        "required": found.required,
        "agreement": figure(found.agreement, found.interval),
        "kappa": figure(found.kappa, found.kappa.ci95),
        "unparsed": found.unparsed,
        "n": found.agreement.n,
        "n_groups": found.agreement.n_groups,
        "labels_sha256": sha256(labels.read_bytes()).hexdigest(),
    }


def demand_accepted(path: Path, identity: str) -> Mapping[str, Any]:
    """Return what judge.json says, if it accepts this judge under this frame.

    Args:
        path: judge.json, or its folder.
        identity: Of the judge that is to grade.

    Raises:
        ValueError: There is no such file, it is of another judge or frame, or it refuses the judge.
    """
    file = path / RESULT if path.is_dir() else path
    if not file.is_file():
        raise ValueError(f"{file}: no such file; make it: medgemma-eval judge LABELLED.jsonl --out {path}")
    try:
        told: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        judge, version, accepted = told["judge"], told["frame_version"], told["is_accepted"]
    except (KeyError, TypeError, ValueError) as fault:
        raise ValueError(f"{file}: is no acceptance of a judge ({fault}); run `medgemma-eval judge` again") from None
    if judge != identity:
        raise ValueError(f"{file}: is of the judge {judge}; got {identity}; run `medgemma-eval judge` with this one")
    if version != VERSION:
        raise ValueError(f"{file}: is of frame {version}, now {VERSION}; run `medgemma-eval judge` again")
    if not accepted:
        raise ValueError(
            f"{file}: refuses the judge: its agreement is {told['agreement']['value']} {told['agreement']['ci95']}, "
            f"required above {told['required']}, its kappa {told['kappa']['ci95']}, required above 0; take another one"
        )
    return told


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
