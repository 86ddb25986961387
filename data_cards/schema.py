"""A data card: what a set is, its licence, how to get it, what is in it, and how to know one's copy."""

from collections.abc import Mapping
from importlib import resources
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

Access = Literal["open", "request", "credentialed", "private"]
"""Open: anyone downloads it. Request: terms are agreed to first. Credentialed: training and a signed data use
agreement. Private: its owners do not hand it out."""

Task = Literal[
    "classification",
    "visual-question-answering",
    "multiple-choice",
    "question-answering",
    "report",
    "longitudinal",
    "localisation",
    "volume",
    "entailment",
    "dialogue",
    "record",
    "agent",
    "extraction",
    "fixture",
]
"""What the set can measure or train; `fixture` holds files to test software with, nothing to evaluate on."""

ReportModel = Literal["MedGemma 1", "MedGemma 1.5", "MedSigLIP"]
Stage = Literal[
    "vision encoder",
    "decoder pre-training",
    "post-training",
    "reinforcement learning",
    "fine-tuning",
    "training (stage not said)",
    "evaluation",
]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Split(_Frozen):
    """One table of the set, or one folder of class folders."""

    file: str
    """Its path inside the set's folder."""
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """Of the table's bytes; a copy that differs is another set and its figures do not compare. None: not known."""
    items: int | None = Field(default=None, gt=0)
    groups: int | None = Field(default=None, gt=0)
    """Distinct keys in the group column."""
    side: str = ""
    """Side of the division it belongs to, where several tables make one side; its own name by default, `*` where the
    table belongs to no side."""
    side_column: str = ""
    """Column that says the side, where one table holds several."""
    group_column: str = ""
    """The card's by default."""
    item_column: str = ""
    """The card's by default."""
    columns: dict[str, str] = {}
    """The card's by default."""
    picture: str = ""
    """Where the picture of a row lies, `{column}` standing for the row's cell (`{column:.2}` for its first two
    characters); empty where the column `file` says it, or where pictures may lie in several places."""
    counts: dict[str, dict[str, int]] = {}
    """Column to value to number of items, in this table."""


class ReferenceFigure(_Frozen):
    """A figure to compare one's own with."""

    metric: str
    value: float
    model: str
    protocol: str
    """Part of the data, prompt, parser, setting: as far as it was published."""
    source: str
    """Report and table; TR is arXiv:2507.05201 v4, TR15 arXiv:2604.05081, CARD15 the card of MedGemma 1.5."""


class ReportUse(_Frozen):
    """A stage of MedGemma or MedSigLIP that used the set."""

    model: ReportModel
    stage: Stage
    examples: int | None = None
    source: str


class DataCard(_Frozen):
    """Everything one must know of a data set before using it. The YAML files in cards/ are of this shape."""

    name: str
    """Also the name of the folder that holds the set under `--data`."""
    title: str
    description: str
    version: str
    tasks: tuple[Task, ...] = Field(min_length=1)
    access: Access
    licence: str
    licence_allows_training_shipped_weights: bool
    """Whether weights that ship with this package may be trained on the set."""
    citation: str
    year: int | None = Field(default=None, ge=1990)
    """Of the publication cited; None where there is none."""
    url: str
    """The owners' page."""
    source: str
    how_to_get: str
    splits: dict[str, Split] = {}
    columns: dict[str, str] = {}
    """Column name to definition."""
    list_columns: tuple[str, ...] = ()
    """Columns that hold lists of texts or numbers."""
    object_columns: tuple[str, ...] = ()
    """Columns that hold objects, or lists of them; Croissant cannot type them and leaves them out."""
    item_column: str = ""
    """A column that no two items share; empty where there is none."""
    group_column: str = ""
    """What items that are not independent share; divide and resample by it, never by item. For folders of class
    folders the columns are `file` and `label`. Empty only where no layout is known."""
    group_pattern: str = ""
    """Regular expression that finds the key in the group column, where the column holds more than the key."""
    group_is: str
    """What a group is: patient, MedPix case, source tile, ..."""
    shared_groups: int = 0
    """Groups that lie on more than one side in the owners' own division."""
    pictures: int = 0
    """Distinct files in the column `file`; 0 for a text set, or where the pictures come apart from the table."""
    counts: dict[str, dict[str, int]] = {}
    """Column to value to number of items, over all splits."""
    label_definitions: dict[str, str] = {}
    preprocessing: tuple[str, ...] = ()
    """What was done to the owners' files, or what must be done before they can be used."""
    used_by: tuple[ReportUse, ...] = ()
    overlaps: dict[str, str] = {}
    """Name of another card to what the two share."""
    leaks: tuple[str, ...] = ()
    """Ways in which one side of a division can know the other."""
    notes: tuple[str, ...] = ()
    reader: str = ""
    """`module:function` that reads a copy; empty where there is none."""
    reader_checked_on: str = ""
    """The real file or public file list that the reader was run on; empty means unverified."""
    reference_figures: tuple[ReferenceFigure, ...] = ()
    fact_sources: tuple[str, ...] = ()
    """Where the facts of this card were read, apart from the set's own files."""

    @property
    def reader_state(self) -> Literal["verified", "unverified", "none"]:
        """Whether the reader was run on a real file or a public file list."""
        if not self.reader:
            return "none"
        return "verified" if self.reader_checked_on else "unverified"

    @property
    def items(self) -> int | None:
        """Items of all splits; None where one of them is not known."""
        known = [split.items for split in self.splits.values() if split.items is not None]
        return sum(known) if known and len(known) == len(self.splits) else None

    def columns_of(self, split: Split) -> Mapping[str, str]:
        """Return the columns of one table."""
        return split.columns or self.columns


def list_cards() -> list[str]:
    """Return the names of all cards, sorted."""
    files = resources.files("data_cards.cards").iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))


def load_card(name: str) -> DataCard:
    """Return the card of a data set.

    Raises:
        ValueError: There is no such card, or its YAML file is broken.
    """
    try:
        text = (resources.files("data_cards.cards") / f"{name}.yaml").read_text(encoding="utf-8")
    except OSError as fault:
        raise ValueError(f"got {name!r}; expected one of the cards {', '.join(list_cards())}") from fault
    fields: dict[str, Any] = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    card = DataCard.model_validate(fields)
    if card.name != name:
        raise ValueError(f"{name}.yaml: holds the card {card.name!r}; expected {name!r}; rename the file or the card")
    return card
