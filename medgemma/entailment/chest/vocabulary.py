"""The words of chest reports: findings and their places, sizes and changes, as vocabulary.yaml has them.

Every pattern is matched on lower-case text. What a finding is one of says what follows from it: a nodule is an opacity,
so a nodule entails an opacity, and no opacity entails no nodule. Lungs that hold an opacity are unclear lungs.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml

Change = Literal["", "new", "increased", "decreased", "stable", "persistent"]
"""persistent: seen before, and the text does not say how it compares."""
Size = Literal["", "small", "moderate", "large"]
Side = Literal["left", "right"]
Count = Literal["", "one", "many"]
Zone = Literal["upper", "middle", "lower", "hilar"]

OPACITY = "lung opacity"
UNCLEAR = "unclear lungs"
ACUTE = "acute abnormality"
ANY = "abnormality"


class Kind(NamedTuple):
    """How a finding is said, and the wider findings that it is one of."""

    pattern: "re.Pattern[str]"
    wider: tuple[str, ...]


class NormalForm(NamedTuple):
    """How the normal is said, and the findings that are thereby absent."""

    pattern: "re.Pattern[str]"
    absent: tuple[str, ...]


def compiled(alternatives: Iterable[str]) -> "re.Pattern[str]":
    """A pattern of whole words."""
    return re.compile(rf"(?<!\w)(?:{'|'.join(alternatives)})(?!\w)")


def _spelled_out(said: Iterable[str]) -> list[str]:
    """Put the words that <be> and <normal> stand for."""
    words = _TABLE["words"]
    return [line.replace("<be>", words["be"]).replace("<normal>", words["normal"]) for line in said]


def _patterns(section: str) -> dict[Any, "re.Pattern[str]"]:
    return {name: compiled(said) for name, said in _TABLE[section].items()}


_TABLE: Mapping[str, Any] = yaml.safe_load(Path(__file__).with_name("vocabulary.yaml").read_text(encoding="utf-8"))

FINDINGS: Mapping[str, Kind] = {
    name: Kind(compiled(row["said"]), tuple(row.get("is", ()))) for name, row in _TABLE["findings"].items()
}
NORMAL_FORMS = tuple(NormalForm(compiled(_spelled_out(row["said"])), tuple(row["absent"])) for row in _TABLE["normal"])
SIDES: Mapping[Literal["left", "right", "both"], "re.Pattern[str]"] = _patterns("sides")
ZONES: Mapping[Zone, "re.Pattern[str]"] = _patterns("zones")
SIZES: Mapping[Size, "re.Pattern[str]"] = _patterns("sizes")
CHANGES: Mapping[Change, "re.Pattern[str]"] = _patterns("changes")
"""In the order in which they are looked for."""
COUNTS: Mapping[Count, "re.Pattern[str]"] = _patterns("counts")
PLAINER = tuple((compiled([pattern]), plain) for pattern, plain in _TABLE["plainer"])
"""What is put in other words before anything is read."""
FILLERS = frozenset(_TABLE["fillers"].split())
"""Words that a statement may hold without saying more of a finding."""

QUALIFIERS = (
    "calcified", "loculated", "displaced", "acute", "healed", "old", "large", "new", "definite", "overt",
    "significant", "focal", "residual", "visible", "suspicious", "noncalcified",
)  # fmt: skip
WEAK_QUALIFIERS = frozenset({"acute", "definite", "significant", "focal", "residual", "visible"})
"""Their denial denies the finding: no focal consolidation is no consolidation."""

OF_BOTH_LUNGS = frozenset({"hyperinflation", "low lung volumes"})
"""Findings that are of both lungs where no side is named."""

OPPOSITES: Mapping[str, str] = {"hyperinflation": "low lung volumes", "low lung volumes": "hyperinflation"}
"""Findings that exclude one another."""
