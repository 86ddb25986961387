"""What a user chooses where a series or a file holds several volumes: `--select echo=2`, `select={"time": 3}`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TypeAlias

Selection: TypeAlias = tuple[tuple[str, str], ...]
"""Pairs of a key of `SELECT_KEYS` and the value asked for."""

SELECT_KEYS = {
    "echo": "number of the echo, from 1",
    "echo_time": "echo time in ms",
    "inversion_time": "inversion time in ms",
    "time": "number of the time point, from 1",
    "phase": "cardiac phase: trigger time in ms, or nominal percentage",
    "acquisition": "Acquisition Number",
    "b_value": "diffusion b-value in s/mm2",
    "image_type": "one value of Image Type, such as WATER or PHASE",
    "kvp": "tube voltage in kV",
    "flip_angle": "flip angle in degrees",
    "thickness": "slice thickness in mm",
    "channel": "number of the channel of a file, from 1",
    "part": "number of the part, from 1, where only the order of the images tells them apart",
}
"""What volumes may be told apart by, and what each value means."""

_HINT = "name one as KEY=VALUE, such as echo=2; the keys are"


def parse_selection(pairs: Iterable[str]) -> Selection:
    """What was given on a command line.

    Args:
        pairs: each "KEY=VALUE".

    Raises:
        ValueError: no such pair, an unknown key, or one that is given twice.
    """
    given: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"--select {pair!r}: {_HINT} {', '.join(SELECT_KEYS)}")
        if key.strip() in given:
            raise ValueError(f"--select {pair!r}: {key.strip()} was given already; give each key once")
        given[key.strip()] = value
    return as_selection(given)


def as_selection(select: Mapping[str, object] | None) -> Selection:
    """Checked pairs, in the order given.

    Args:
        select: values by key of `SELECT_KEYS`; None for none.

    Raises:
        ValueError: an unknown key, or an empty value.
    """
    pairs = tuple((key, str(value).strip()) for key, value in (select or {}).items())
    for key, value in pairs:
        if key not in SELECT_KEYS or not value:
            raise ValueError(f"--select {key}={value}: {_HINT} {', '.join(SELECT_KEYS)}")
    return pairs


def is_value(asked: str, value: float | str) -> bool:
    """Whether a value of a file is the one asked for: numbers to a thousandth, words in any case."""
    if isinstance(value, str):
        return asked.upper() == value.upper()
    try:
        return math.isclose(float(asked), value, rel_tol=1e-3, abs_tol=1e-6)
    except ValueError:
        return False


def choice_of(select: Selection, key: str, count: int, alone: int | None = None) -> int | None:
    """The index, from 0, of what was chosen among `count` by its number from 1; None, or `alone`, if nothing was.

    Raises:
        ValueError: the value is no such number.
    """
    asked = dict(select).get(key)
    if asked is None:
        return alone if count == 1 else None
    if not (asked.isascii() and asked.isdigit() and 1 <= int(asked) <= count):
        there = f"are {key}=1 to {key}={count}" if count > 1 else f"is {key}=1 alone"
        raise ValueError(f"--select {key}={asked}: there {there}")
    return int(asked) - 1
