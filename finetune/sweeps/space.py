"""What a sweep varies: a YAML with a list of values, or a range, a setting."""

from itertools import product
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from finetune.configuration import Section, load_config

FOLDER = Path(__file__).parent


class Range(Section):
    """Numbers to draw from."""

    low: float
    high: float
    log: bool = False
    """Drawn evenly by their logarithm."""


class Space(Section):
    """What is varied, and how long."""

    settings: dict[str, list[Any] | Range]
    """A recipe's setting, as `--set` names it, to its values."""
    trials: int = Field(default=20, ge=1)
    seed: int = 0
    larger_is_better: bool = True
    full_trials: int = Field(default=2, ge=1)
    """So many run to their end before any is stopped early."""

    @property
    def places(self) -> list[dict[str, str]]:
        """Of the grid, each setting's value as `--set` takes it; empty if a setting is drawn from a range."""
        if any(isinstance(values, Range) for values in self.settings.values()):
            return []
        values = [choices(values) for values in self.settings.values() if isinstance(values, list)]
        return [dict(zip(self.settings, place, strict=True)) for place in product(*values)]

    @property
    def num_trials(self) -> int:
        """The grid's places, or `trials`."""
        return len(self.places) or self.trials


def read_space(name: str) -> Space:
    """A space that ships, by its name, or one of your own, by its path.

    Raises:
        ValueError: there is none, or it does not fit; what is wrong is named.
    """
    path = FOLDER / f"{name}.yaml" if (FOLDER / f"{name}.yaml").is_file() else Path(name)
    if not path.is_file():
        shipped = ", ".join(sorted(file.stem for file in FOLDER.glob("*.yaml")))
        raise ValueError(f"space {name!r}: no such file; give a YAML of settings, or one of {shipped}")
    try:
        space = load_config(Space, [path], [])
    except ValueError as fault:
        raise ValueError(f"{path}: {fault}") from fault
    for key, values in space.settings.items():
        if isinstance(values, list) and not values:
            raise ValueError(f"{path}: {key} has no values; give some, or leave it out")
        if isinstance(values, Range) and not (values.low < values.high and (values.low > 0 or not values.log)):
            raise ValueError(f"{path}: {key} is drawn from {values.low:g} to {values.high:g}; give low below high")
    if not space.settings:
        raise ValueError(f"{path}: varies nothing; name a setting and its values")
    return space


def choices(values: list[Any]) -> list[str]:
    """Values as `--set` takes them."""
    return [yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip() for value in values]
