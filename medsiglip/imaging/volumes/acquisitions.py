"""One acquisition of a stack that holds several: echoes, time points, b-values, phases, water and fat, ...

Images at one position are told apart by what the file says of each, then by the order in which they were made; what
nothing tells apart is refused, never mixed by chance. Acquisitions at other positions are parts of one stack: scans of
the head are often made in steps.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from ..frame import Array, Finding
from .select import Selection, choice_of, is_value
from .slices import NotAStack, SeriesSlice, Stack, without
from .stack import SAME_POSITION_MM, mostly_even, projections_mm
from .traits import TRAITS, Trait

_SHARED_POSITIONS = 0.5  # of the smaller acquisition; fewer are the seam of two that were meant to meet
_LEAST_COUNTED = 4  # positions: identifiers that count through fewer may do so by chance
_LEAST_TIMED = 2


class _Placed(NamedTuple):
    slices: list[SeriesSlice]
    positions: Array  # (S,) mm along the normal
    places: list[int]  # number of the position, counted along the normal


class _Part(NamedTuple):
    """Slices at different positions that one acquisition, or several that follow each other, made."""

    numbers: list[int]  # places in the stack
    num_acquisitions: int


class _Told(NamedTuple):
    """All parts of a stack, and what told them apart."""

    parts: list[_Part]
    traits: frozenset[str]  # names of TRAITS; "" for the order


def one_acquisition(stack: Stack, select: Selection, applied: set[str]) -> Stack | NotAStack:
    """Keep the chosen acquisition, else the largest, and sort its slices along their normal.

    Args:
        stack: parallel slices of one pixel spacing.
        select: what the user chose, applied already but for "part".
        applied: takes "part" where there is more than one.
    """
    positions = projections_mm([item.plane for item in stack.slices])
    placed = _Placed(stack.slices, positions, _places(positions))
    told = _told_apart(placed, list(range(len(stack.slices))))
    if isinstance(told, NotAStack):
        return told
    if len(told.parts) > 1:
        applied.add("part")
    chosen = _chosen(placed, told, select)
    if isinstance(chosen, NotAStack):
        return chosen
    kept, repeats = _first_at_each_place(chosen, placed.places)
    joined = sum(part.num_acquisitions for part in chosen)
    if joined > 1:
        finding = Finding("joined-acquisitions", f"the stack is joined from {joined} acquisitions")
        stack = stack._replace(findings=[*stack.findings, finding])
    used = {*kept, *repeats}
    others = [item for number, item in enumerate(placed.slices) if number not in used]
    in_order = [placed.slices[number] for number in sorted(kept, key=lambda number: positions[number])]
    text = "{n} left out: other acquisitions (or echoes, time points, b-values, image types) of the same region"
    stack = without(stack, in_order, others, "other-acquisition", f"{text}{_choices(placed, told)}")
    text = "{n} left out: where a slice of another acquisition of the stack lies"
    return without(stack, in_order, [placed.slices[number] for number in repeats], "repeated-position", text)


# Telling apart


def _places(positions: Array) -> list[int]:
    """For each slice the number of its position."""
    places = [0] * len(positions)
    place, first_mm = -1, -math.inf
    for number in np.argsort(positions, kind="stable").tolist():
        if positions[number] - first_mm > SAME_POSITION_MM:
            place, first_mm = place + 1, float(positions[number])
        places[number] = place
    return places


def _told_apart(placed: _Placed, numbers: list[int]) -> _Told | NotAStack:
    """Split until no part has two images at one position."""
    counts = Counter(placed.places[number] for number in numbers)
    most = max(counts.values())
    if most == 1:
        return _Told(_acquisitions(placed, numbers), frozenset())
    for trait in TRAITS:
        groups = _groups(numbers, [trait.key(placed.slices[number]) for number in numbers])
        # More values than images at a position differ from slice to slice: they tell no acquisitions apart.
        if 2 <= len(groups) <= most + 1 and sum(_num_ties(placed, group) for group in groups) < len(numbers) - len(
            counts
        ):
            return _together(trait.name, [_told_apart(placed, group) for group in groups])
    for order in _ORDERS:
        if (parts := _by_order(order, placed, numbers)) is not None:
            return _Told([_Part(part, 1) for part in parts], frozenset([""]))
    num_tied = sum(count > 1 for count in counts.values())
    reason = f"{num_tied} of {len(counts)} positions hold several images that nothing in the files tells apart"
    return NotAStack(f"{reason}; give the files of one acquisition alone")


def _together(name: str, told: list[_Told | NotAStack]) -> _Told | NotAStack:
    parts: list[_Part] = []
    traits = {name}
    for group in told:
        if isinstance(group, NotAStack):
            return group
        parts += group.parts
        traits |= group.traits
    return _Told(parts, frozenset(traits))


def _num_ties(placed: _Placed, numbers: Sequence[int]) -> int:
    return len(numbers) - len({placed.places[number] for number in numbers})


def _groups(numbers: Sequence[int], keys: Iterable[Hashable]) -> list[list[int]]:
    """Numbers of one key together, in the order of the keys."""
    found: dict[Hashable, list[int]] = defaultdict(list)
    for number, key in zip(numbers, keys, strict=True):
        found[key].append(number)
    return [found[key] for key in sorted(found, key=_sortable)]


def _sortable(key: Hashable) -> tuple[object, ...]:
    return tuple(map(_sortable, key)) if isinstance(key, tuple) else (key is not None, 0 if key is None else key)


def _acquisitions(placed: _Placed, numbers: list[int]) -> list[_Part]:
    """Parts without ties; slices of other acquisitions join where they do not lie unevenly between."""
    groups = _groups(numbers, [_acquisition(placed.slices[number]) for number in numbers])
    groups.sort(key=lambda group: _rank(placed, group))
    parts: list[_Part] = []
    while groups:
        joined = _evenly_joined(groups, placed.positions)
        parts.append(_Part([number for group in joined for number in group], len(joined)))
        taken = set(map(id, joined))
        groups = [group for group in groups if id(group) not in taken]
    return parts


def _acquisition(item: SeriesSlice) -> tuple[Hashable, ...]:
    header, moment = item.header, item.moment
    numbers = (header.acquisition_number, header.echo_number, header.temporal_position, header.diffusion_b_value)
    of_frame = moment[:4] if header.frame_moments else ()
    return (*numbers, *of_frame, header.image_type, moment.frame_type)


def _rank(placed: _Placed, numbers: Sequence[int]) -> tuple[int, float, tuple[object, ...]]:
    """The largest first, then the first by instance number."""
    first = min(_instance_number(placed.slices[number]) for number in numbers)
    return -len(numbers), first, _sortable(_acquisition(placed.slices[numbers[0]]))


def _instance_number(item: SeriesSlice) -> float:
    return math.inf if item.header.instance_number is None else item.header.instance_number


def _evenly_joined(parts: list[list[int]], positions: Array) -> list[list[int]]:
    if mostly_even(positions[np.concatenate(parts)]):
        return parts
    return _joined(parts, positions, _interleaves)


def _joined(parts: list[list[int]], positions: Array, conflict: Callable[[Array, Array], bool]) -> list[list[int]]:
    """The first part, and each further one that does not conflict with those before."""
    joined, taken = parts[:1], positions[parts[0]]
    for part in parts[1:]:
        if not conflict(taken, positions[part]):
            joined.append(part)
            taken = np.concatenate([taken, positions[part]])
    return joined


def _meets(taken: Array, added: Array) -> bool:
    """Whether more positions are in both than a seam would have."""
    shared = (np.abs(taken[:, None] - added) <= SAME_POSITION_MM).any(axis=0).sum()
    return bool(shared >= max(_SHARED_POSITIONS * min(len(taken), len(added)), 1))


def _interleaves(taken: Array, added: Array) -> bool:
    """Whether slices of a second phase lie among those of the first; one slice alone is none."""
    return bool(len(added) > 1 and added.min() < taken.max() and added.max() > taken.min())


# By the order of the images


class _Order(NamedTuple):
    """What counts on from image to image."""

    key: Callable[[SeriesSlice], tuple[float, ...] | None]
    is_time: bool  # else an identifier, which may be random or given out anew


def _by_number(item: SeriesSlice) -> tuple[float, ...] | None:
    number = item.header.instance_number
    return None if number is None else (number, item.frame)


def _by_time(item: SeriesSlice) -> tuple[float, ...] | None:
    return None if item.moment.acquired_s is None else (item.moment.acquired_s, item.moment.content_s or 0.0)


def _by_content_time(item: SeriesSlice) -> tuple[float, ...] | None:
    return None if item.moment.content_s is None else (item.moment.content_s,)


def _by_uid(item: SeriesSlice) -> tuple[float, ...] | None:
    uid = item.header.instance_uid or ""
    return (*(int(part) for part in uid.split(".")), item.frame) if re.fullmatch(r"\d+(\.\d+)+", uid) else None


_ORDERS = (_Order(_by_number, False), _Order(_by_time, True), _Order(_by_content_time, True), _Order(_by_uid, False))


def _by_order(order: _Order, placed: _Placed, numbers: list[int]) -> list[list[int]] | None:
    """Parts by an order that walks through the positions once for each, or takes all images of a position in turn.

    An order that does neither says nothing, and one of few positions may do so by chance.
    """
    keys = [order.key(placed.slices[number]) for number in numbers]
    known = [key for key in keys if key is not None]
    counts = Counter(placed.places[number] for number in numbers)
    if len(set(known)) < len(numbers) or len(counts) < (_LEAST_TIMED if order.is_time else _LEAST_COUNTED):
        return None
    in_order = [number for _, number in sorted(zip(known, numbers, strict=True))]
    most = max(counts.values())
    turns = _cut(in_order, placed.places, lambda place, run: place not in run)
    if (
        len(turns) == len(counts)
        and set(map(len, turns)) == {most}
        and _is_monotone([turn[0] for turn in turns], placed)
    ):
        return [list(part) for part in zip(*turns, strict=True)]
    walks = _cut(in_order, placed.places, lambda place, run: place in run)
    covers = order.is_time and len(walks) == most and {len(walk) for walk in walks} == {len(counts)}
    few_ties = len(numbers) - len(counts) < _SHARED_POSITIONS * len(counts)
    long_walks = few_ties and min(map(len, walks[:-1])) >= _LEAST_COUNTED
    in_steps = (len(walks) == most or long_walks) and all(_is_monotone(walk, placed) for walk in walks)
    return walks if covers or in_steps else None


def _cut(in_order: list[int], places: list[int], begins: Callable[[int, set[int]], bool]) -> list[list[int]]:
    """Cut before each image at whose place a new run begins, given the places of the present one."""
    runs: list[list[int]] = []
    seen: set[int] = set()
    for number in in_order:
        if not runs or begins(places[number], seen):
            runs.append([])
            seen = set()
        runs[-1].append(number)
        seen.add(places[number])
    return runs


def _is_monotone(numbers: list[int], placed: _Placed) -> bool:
    steps = np.diff([placed.places[number] for number in numbers])
    return bool((steps > 0).all() or (steps < 0).all())


# The one that is kept


def _chosen(placed: _Placed, told: _Told, select: Selection) -> list[_Part] | NotAStack:
    """The part that was asked for; else the largest, and those that follow it."""
    try:
        part = choice_of(select, "part", len(told.parts))
    except ValueError as error:
        return NotAStack(str(error))
    if part is not None:
        return [told.parts[part]]
    largest_first = sorted(told.parts, key=lambda part: _rank(placed, part.numbers))
    joined = _joined([part.numbers for part in largest_first], placed.positions, _meets)
    together = set(map(id, _evenly_joined(joined, placed.positions)))
    return [part for part in largest_first if id(part.numbers) in together]


class _Kept(NamedTuple):
    kept: list[int]
    repeats: list[int]


def _first_at_each_place(parts: list[_Part], places: list[int]) -> _Kept:
    """Where two parts meet, the larger one's slice stays."""
    kept: dict[int, int] = {}
    repeats: list[int] = []
    for number in (number for part in parts for number in part.numbers):
        if places[number] in kept:
            repeats.append(number)
        else:
            kept[places[number]] = number
    return _Kept(list(kept.values()), repeats)


# Choosing


def _choices(placed: _Placed, told: _Told) -> str:
    """How to choose another one."""
    if len(told.parts) < 2:
        return ""
    traits = [trait for trait in TRAITS if trait.name in told.traits and trait.select]
    listed = [_listed(placed.slices, trait) for trait in traits]
    if not told.traits or len(traits) < len(told.traits) or "" in listed:
        return f"; choose one by --select part=1 to part={len(told.parts)}"
    return f"; choose one by --select {' and '.join(listed)}"


def _listed(slices: Sequence[SeriesSlice], trait: Trait) -> str:
    """Such as "echo=1 or echo=2"; "" where an image does not say."""
    values = selectable_values(slices, trait.select)
    if any(not found for found in values):
        return ""
    return " or ".join(f"{trait.select}={as_text(value)}" for value in sorted(set().union(*values), key=_sort_key))


def _sort_key(value: float | str) -> tuple[bool, float, str]:
    return (True, 0.0, value) if isinstance(value, str) else (False, value, "")


def as_text(value: float | str) -> str:
    """A value as a user types it."""
    return value if isinstance(value, str) else f"{value:g}"


def selectable_values(slices: Sequence[SeriesSlice], key: str) -> list[set[float | str]]:
    """For each slice the values that a key of `SELECT_KEYS` may have."""
    if key == "image_type":
        types = [{value for value in (*item.header.image_type, *item.moment.frame_type) if value} for item in slices]
        common: set[str] = set.intersection(*types) if types else set()
        return [{*(found - common or common)} for found in types]
    traits = [trait for trait in TRAITS if trait.select == key]
    values = [{value for trait in traits if (value := trait.value(item)) is not None} for item in slices]
    if key == "echo" and len(set().union(*values)) < 2:
        return _ranks([item.moment.echo_time_ms for item in slices])  # GE numbers all echoes 1
    return [{*found} for found in values]


def _ranks(values: Sequence[float | None]) -> list[set[float | str]]:
    """1 for the smallest value, 2 for the next, ..."""
    in_order = sorted({value for value in values if value is not None})
    return [set() if value is None else {in_order.index(value) + 1.0} for value in values]


def selected(stack: Stack, select: Selection, applied: set[str]) -> Stack | NotAStack:
    """The slices with the values that were asked for; a key that tells nothing apart here leaves all.

    Args:
        stack: of one series.
        select: what the user chose.
        applied: takes the keys that tell these slices apart.

    Returns:
        The stack, or that no slice has such a value; the reason then lists those there are.
    """
    for key, asked in select:
        values = selectable_values(stack.slices, key)
        known = set().union(*values)
        if len(known) < 2:
            continue
        applied.add(key)
        kept = [number for number, found in enumerate(values) if any(is_value(asked, value) for value in found)]
        if not kept:
            there = ", ".join(f"{key}={as_text(value)}" for value in sorted(known, key=_sort_key))
            return NotAStack(f"--select {key}={asked}: there are {there}")
        chosen = set(kept)
        left_out = [item for number, item in enumerate(stack.slices) if number not in chosen]
        text = f"{{n}} left out by --select {key}={asked}"
        stack = without(stack, [stack.slices[number] for number in kept], left_out, "not-selected", text)
    return stack
