"""The labelled replies of the gauntlet and their check: replies.jsonl, described in README.md beside it."""

import hashlib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

Answer = Literal["letter", "yes_no", "number", "box", "json"]
Half = Literal["development", "held-back"]

FILE = Path(__file__).parent / "replies.jsonl"
_PREFIX = "gauntlet-45:"


class LabelledReply(BaseModel):
    """One line of the file: what was asked, what was replied, what a careful person reads."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(min_length=1)
    half: Half
    """development: a reader may be changed by it. held-back: a reader is scored on it once, unseen."""
    answer: Answer
    """What kind of answer was asked for."""
    difficulty: str = Field(min_length=1)
    """What makes it hard to read; README.md lists the kinds."""
    language: str
    """ISO 639-1 code of the reply's language."""
    question: str = ""
    options: dict[str, str] = {}
    """letter: the options given, letter to text."""
    unit: str = ""
    """number: the unit that the label is in; empty for a plain number."""
    possible_range: tuple[float, float] | None = None
    """number: what the value can be, in `unit`, where the question says so."""
    structure: str = ""
    """box: what was to be located."""
    json_schema: dict[str, Any] | None = None
    """json: the schema that the object must fit."""
    reply: str
    label: Any
    """letter: one of `options`; yes_no: "yes" or "no"; number: in `unit`; box: list of
    [y0, x0, y1, x1] in 0..1000, empty if the reply says that there is none; json: the object. None: no careful person
    could tell, so a reader must not either."""
    reason: str = ""
    """Why this label, where it is not obvious."""

    @model_validator(mode="after")
    def _label_is_one_that_was_asked_for(self) -> "LabelledReply":
        if (self.answer == "letter") != bool(self.options) or (self.answer == "json") != (self.json_schema is not None):
            raise ValueError("a letter has options, JSON has a schema, no other kind has")
        if self.half != half_of(self.id):
            raise ValueError(f"the half of this id is {half_of(self.id)}")
        if self.label is not None and not self._fits():
            raise ValueError(f"the label {self.label!r} is no {self.answer} that was asked for")
        return self

    def _fits(self) -> bool:
        if self.answer == "letter":
            return self.label in self.options
        if self.answer == "yes_no":
            return self.label in ("yes", "no")
        if self.answer == "number":
            low, high = self.possible_range or (float("-inf"), float("inf"))
            return type(self.label) in (int, float) and low <= self.label <= high
        if self.answer == "box":
            return all(_is_box(box) for box in self.label)
        return isinstance(self.label, dict)


def _is_box(numbers: list[float]) -> bool:
    y0, x0, y1, x1 = numbers
    return 0 <= y0 < y1 <= 1000 and 0 <= x0 < x1 <= 1000


def half_of(reply_id: str) -> Half:
    """Return the half that an id belongs to: by the first byte of the SHA-256 of a fixed prefix and the id."""
    first = hashlib.sha256((_PREFIX + reply_id).encode()).digest()[0]
    return "development" if first % 2 == 0 else "held-back"


def labelled_replies(half: Half | None = None, *, path: Path = FILE) -> list[LabelledReply]:
    """Return the replies of one half, or of both, in the file's order.

    Args:
        half: The half wanted; None for both.
        path: Another file of the same form.

    Raises:
        ValueError: A line is no labelled reply; the message names file, line and fault.
    """
    replies = []
    for number, line in enumerate(path.read_text(encoding="utf-8").rstrip("\n").split("\n"), start=1):
        try:
            replies.append(LabelledReply.model_validate_json(line))
        except ValidationError as fault:
            first = fault.errors()[0]
            where = ".".join(map(str, first["loc"])) or "row"
            raise ValueError(f"{path}: line {number}: {where}: {first['msg']}; README.md beside it says how") from None
    return [reply for reply in replies if half in (None, reply.half)]
