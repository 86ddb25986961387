"""A data card: what a set is, its licence, how to get it, what is in it, and how to know one's copy."""

from importlib import resources
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Split(_Frozen):
    """One table of the set."""

    file: str
    """Its path inside the set's folder."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Of the table's bytes; a copy that differs is another set and its figures do not compare."""
    items: int = Field(gt=0)
    groups: int = Field(gt=0)
    """Distinct values of the card's group column."""


class ReferenceFigure(_Frozen):
    """A figure to compare one's own with."""

    metric: str
    value: float
    of: str
    """Model, protocol and part of the data."""


class DataCard(_Frozen):
    """Everything one must know of a data set before using it. The YAML files in cards/ are of this shape."""

    name: str
    """Also the name of the folder that holds the set under `--data`."""
    title: str
    version: str
    licence: str
    licence_allows_training_shipped_weights: bool
    """Whether weights that ship with this package may be trained on the set."""
    citation: str
    source: str
    how_to_get: str
    splits: dict[str, Split]
    columns: dict[str, str]
    """Column name to definition."""
    group_column: str
    """What items that are not independent share; divide and resample by it, never by item."""
    pictures: int = 0
    """Distinct files in the column `file`; 0 for a text set."""
    counts: dict[str, dict[str, int]] = {}
    """Column to value to number of items, over all splits."""
    leaks: tuple[str, ...] = ()
    """Ways in which one side of a division can know the other."""
    notes: tuple[str, ...] = ()
    reference_figures: tuple[ReferenceFigure, ...] = ()


def list_cards() -> list[str]:
    """Return the names of all cards, sorted."""
    files = resources.files("data_cards.cards").iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))


def load_card(name: str) -> DataCard:
    """Return the card of a data set.

    Raises:
        ValueError: There is no such card, or its YAML file is broken.
    """
    if name not in list_cards():
        raise ValueError(f"got {name!r}; expected one of the cards {', '.join(list_cards())}")
    text = (resources.files("data_cards.cards") / f"{name}.yaml").read_text(encoding="utf-8")
    fields: dict[str, Any] = yaml.safe_load(text)
    card = DataCard.model_validate(fields)
    if card.name != name:
        raise ValueError(f"{name}.yaml: holds the card {card.name!r}; expected {name!r}; rename the file or the card")
    return card
