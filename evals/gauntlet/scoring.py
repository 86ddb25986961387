"""Scoring readers of answers on the gauntlet: how many replies they misread, how many of the readable they find."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from evals.gauntlet.replies import LabelledReply
from evals.tasks.final_answer import parse_letter, parse_yes_no, spoken
from medgemma.answers import final_number, json_answer, parse_boxes

Read = Callable[[LabelledReply], Any]
"""What a reader reads in a reply: a value as labels have it, None for nothing."""


@dataclass(frozen=True)
class GauntletScore:
    """Counts over replies; each share with its 95 % interval (Wilson)."""

    num_replies: int
    num_readable: int
    """Replies whose label is not null."""
    num_found: int
    """Readable ones read as labelled."""
    num_misread: int
    """Replies read as something that their label is not; of a null label, read at all."""
    misread_ids: tuple[str, ...]
    missed_ids: tuple[str, ...]

    @property
    def found(self) -> float:
        """Share of the readable."""
        return self.num_found / self.num_readable if self.num_readable else math.nan

    @property
    def found_ci95(self) -> tuple[float, float]:
        """Of `found`."""
        return _wilson(self.num_found, self.num_readable)

    @property
    def misread(self) -> float:
        """Share of all replies."""
        return self.num_misread / self.num_replies if self.num_replies else math.nan

    @property
    def misread_ci95(self) -> tuple[float, float]:
        """Of `misread`."""
        return _wilson(self.num_misread, self.num_replies)


def own_reader(reply: LabelledReply) -> Any:
    """Read a reply as this package's tasks do."""
    if reply.answer == "letter":
        return parse_letter(reply.reply, reply.options, reply.question) or None
    if reply.answer == "yes_no":
        return parse_yes_no(reply.reply, reply.question) or None
    said = spoken(reply.reply)
    if reply.answer == "number":
        return final_number(said, reply.unit, reply.possible_range, reply.question).value
    if reply.answer == "json":
        return json_answer(said, schema=reply.json_schema).value
    parsed = parse_boxes(said)
    if not parsed.boxes and parsed.reason:
        return None
    return [[round(edge * 1000, 6) for edge in box[1:]] for box in parsed.boxes]


def score(read: Read, replies: Iterable[LabelledReply]) -> GauntletScore:
    """Score one reader on some replies."""
    rows = list(replies)
    said = {reply.id: read(reply) for reply in rows}
    readable = [reply for reply in rows if reply.label is not None]
    found = [reply.id for reply in readable if _same(said[reply.id], reply.label)]
    misread = [r.id for r in rows if said[r.id] is not None and not _same(said[r.id], r.label)]
    missed = [reply.id for reply in readable if said[reply.id] is None]
    return GauntletScore(len(rows), len(readable), len(found), len(misread), tuple(misread), tuple(missed))


def score_by_answer(read: Read, replies: Iterable[LabelledReply]) -> Mapping[str, GauntletScore]:
    """Score one reader on each kind of answer, and on all under "all"."""
    rows = list(replies)
    kinds = dict.fromkeys(reply.answer for reply in rows)
    return {kind: score(read, [r for r in rows if r.answer == kind]) for kind in kinds} | {"all": score(read, rows)}


def _same(said: Any, label: Any) -> bool:
    if isinstance(said, int | float) and isinstance(label, int | float) and not isinstance(said, bool):
        return math.isclose(said, label, rel_tol=1e-9)
    return bool(said == label) and said is not None


def _wilson(count: int, total: int) -> tuple[float, float]:
    from scipy.stats import binomtest

    if total == 0:
        return math.nan, math.nan
    interval = binomtest(count, total).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)
