"""The label columns of a table: what each row says, and what all rows say together."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from data_cards.table.files import Fault
from data_cards.table.guess import Profile, box_columns, described, kind_of
from data_cards.table.rows import NONE, Box, Columns, Kind, Label, Policy, Row, Target
from data_cards.table.values import (
    UNCERTAIN,
    boxes_in,
    class_of,
    is_missing,
    labels_in,
    number_of,
    presence_of,
    text_of,
)

Value = TypeVar("Value")


@dataclass(frozen=True)
class LabelColumns:
    """One target and the columns it is read from."""

    name: str
    kind: Kind
    columns: tuple[str, ...]
    findings: tuple[str, ...] = ()
    """Of a multi-label target, all of them."""


def label_columns(columns: Columns, profiles: Mapping[str, Profile]) -> list[LabelColumns]:
    """Put the label columns together to targets."""
    if columns.label in ((), (NONE,)):
        return []
    if columns.kind in (None, "boxes") and (boxes := box_columns(columns.label)):
        return [LabelColumns("boxes", "boxes", boxes)]
    kinds = {name: columns.kind or kind_of(profiles[name]) for name in columns.label}
    present = tuple(name for name in columns.label if kinds[name] == "multi-label" and profiles[name].is_presence)
    found = [LabelColumns(present[0] if len(present) == 1 else "labels", "multi-label", present, present)]
    others = [name for name in columns.label if name not in present]
    found = found if present else []
    return found + [
        LabelColumns(name, kinds[name], (name,), _joined_names(profiles[name], columns, kinds[name])) for name in others
    ]


def labels_of(cells: Mapping[str, Any], targets: Sequence[LabelColumns], columns: Columns) -> dict[str, Label]:
    """Read the labels of a row; one that is missing is left out.

    Raises:
        Fault: A cell says nothing that its kind knows, or a label is outside the classes given.
    """
    read = {target.name: _label(cells, target, columns) for target in targets}
    return {name: label for name, label in read.items() if label is not None}


def targets_of(rows: Sequence[Row], label_columns: Sequence[LabelColumns], columns: Columns) -> dict[str, Target]:
    """Count what the usable rows say."""
    return {target.name: _target(rows, target, columns) for target in label_columns}


def as_one_class(rows: Sequence[Row], target: LabelColumns) -> list[Row] | None:
    """Read columns of which exactly one is 1 in every row as one class (one-hot); None if they are not so."""
    if len(target.columns) < 2 or len(rows) < 2:
        return None
    said = [row.labels.get(target.name) for row in rows]
    present = [[name for name, is_there in label.items() if is_there] for label in said if isinstance(label, Mapping)]
    is_one_hot = len(present) == len(rows) and all(len(names) == 1 for names in present)
    if not is_one_hot or any(len(label) < len(target.columns) for label in said if isinstance(label, Mapping)):
        return None
    return [replace(row, labels={"label": names[0]}) for row, names in zip(rows, present, strict=True)]


def _label(cells: Mapping[str, Any], target: LabelColumns, columns: Columns) -> Label | None:
    if target.kind == "boxes" and len(target.columns) == 4:
        return _box_of_columns(cells, target.columns)
    cell = cells.get(target.columns[0])
    if target.kind == "multi-label":
        if target.columns == target.findings:
            return _presence(cells, target.findings, columns) or None
        return _joined(cell, target, columns)
    if is_missing(cell):
        return () if target.kind == "boxes" else None
    if target.kind == "number":
        number = number_of(cell)
        return _demanded(number, cell, target, "a number, without commas between thousands")
    if target.kind == "boxes":
        return _demanded(boxes_in(cell), cell, target, 'boxes, [{"box_2d": [y0, x0, y1, x1], "label": ...}]')
    if target.kind == "text":
        return text_of(cell)
    _demand_class(class_of(cell), target, columns)
    return class_of(cell)


def _presence(cells: Mapping[str, Any], findings: Sequence[str], columns: Columns) -> dict[str, bool]:
    said: dict[str, bool] = {}
    for name in findings:
        cell = cells.get(name)
        found = presence_of(cell)
        if found is None and not is_missing(cell):
            raise Fault(f"{name} is {described(cell)}; expected 1, 0, -1 (uncertain) or nothing")
        policy: Policy | None = columns.missing if found is None else columns.uncertain if found == UNCERTAIN else None
        if policy is None:
            said[name] = found is True
        elif policy != "left-out":
            said[name] = policy == "one"
    return said


def _joined(cell: Any, target: LabelColumns, columns: Columns) -> dict[str, bool] | None:
    if is_missing(cell) and not isinstance(cell, list):
        if columns.missing == "left-out":
            return None
        return dict.fromkeys(target.findings, columns.missing == "one")
    names = labels_in(cell, _marks(columns))
    for name in names:
        _demand_class(name, target, columns)
    return {name: name in names for name in target.findings}


def _joined_names(profile: Profile, columns: Columns, kind: Kind) -> tuple[str, ...]:
    if kind != "multi-label":
        return ()
    found = {name for value in profile.values for name in labels_in(value, _marks(columns))}
    return columns.classes or tuple(sorted(found))


def _marks(columns: Columns) -> str:
    return "|;," if columns.kind == "multi-label" else "|;"


def _box_of_columns(cells: Mapping[str, Any], names: Sequence[str]) -> tuple[Box, ...]:
    numbers = [number_of(cells.get(name)) for name in names]
    if all(is_missing(cells.get(name)) for name in names):
        return ()
    if any(number is None for number in numbers):
        raise Fault(f"{', '.join(names)} are no four numbers; expected a box in pixels, or four empty cells")
    x0, y0, third, fourth = (number or 0.0 for number in numbers)
    is_size = names[2].lower() == "width"
    x1, y1 = (x0 + third, y0 + fourth) if is_size else (third, fourth)
    if x1 <= x0 or y1 <= y0:
        raise Fault(f"{', '.join(names)} give a box without an area; expected x and y of two corners, or width, height")
    label = next(
        (class_of(cells[name]) for name in ("class_name", "label", "class") if not is_missing(cells.get(name))), ""
    )
    return (Box(label, y0, x0, y1, x1, "px"),)


def _demanded(value: Value | None, cell: Any, target: LabelColumns, expected: str) -> Value:
    if value is None:
        raise Fault(f"{target.name} is {described(cell)}; expected {expected}")
    return value


def _demand_class(name: str, target: LabelColumns, columns: Columns) -> None:
    if columns.classes and name not in columns.classes:
        raise Fault(f"{target.name} is {name!r}; expected one of {', '.join(columns.classes)}; mend it")


def _target(rows: Sequence[Row], target: LabelColumns, columns: Columns) -> Target:
    said = [row.labels[target.name] for row in rows if target.name in row.labels]
    counts: Counter[str] = Counter()
    unknown: Counter[str] = Counter()
    for label in said:
        if isinstance(label, Mapping):
            counts.update(name for name, is_there in label.items() if is_there)
            unknown.update(name for name in target.findings if name not in label)
        elif isinstance(label, tuple):
            counts.update(box.label for box in label)
        elif isinstance(label, str) and target.kind == "class":
            counts[label] += 1
    names = columns.classes or target.findings or tuple(sorted(counts, key=_by_number))
    return Target(target.name, target.kind, names, {name: counts[name] for name in names}, dict(unknown))


def _by_number(name: str) -> tuple[float, str]:
    number = number_of(name)
    return (float("inf") if number is None else number, name)
