"""The one door for a user's own data: any table to rows of one kind.

    table = read_table("T.csv")              # columns guessed; table.described() says how
    table = read_table("T.csv", Columns(files=("image",), label=("dx",), group="patient"))
    for row in table.on("train"): ...        # row.files, row.labels["dx"], row.group, row.place

`cards.py` brings the data sets that have a card through the same door.
"""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from data_cards.table.conversations import conversation_of, is_conversation
from data_cards.table.files import Fault, Files
from data_cards.table.guess import guessed, profiles_of
from data_cards.table.labels import LabelColumns, as_one_class, label_columns, labels_of, targets_of
from data_cards.table.records import Record, Records, records_of
from data_cards.table.rows import NONE, Columns, Label, Row, Table, Target
from data_cards.table.sides import Draft, group_key, with_groups, with_sides
from data_cards.table.values import list_in, text_of


def read_table(source: str | Path, columns: Columns | None = None, *, labelled: bool = True) -> Table:
    """Read a user's table.

    Args:
        source: See `records.records_of`.
        columns: What the user says of its columns; the rest is guessed.
        labelled: Whether a row must say what is right (a label, an answer, a conversation). False for a table whose
            pictures are only to be asked about.

    Returns:
        The rows, those that cannot be used apart. Rows without a group are grouped by their files, files of equal bytes
        being one. Rows without a side are divided by group as data_cards/split.py divides: 25 % of the groups are
        kept from training, half of them for `validation`, half for `test`. Rows whose labels are all missing are left
        out; `Table.findings` counts them.

    Raises:
        ValueError: The source is no table or is empty, a column that is named is not there, the columns cannot be told,
            no row can be used, a label column has one class only, or a group lies on two sides.
    """
    path = Path(source)
    return table_of(path, records_of(path), columns or Columns(), labelled=labelled)


def table_of(source: Path, records: Records, columns: Columns, *, labelled: bool = True) -> Table:
    """Make the rows of records, as `read_table` does."""
    _demand_columns(source, records, columns)
    _demand_pattern(columns.group_pattern)
    profiles = profiles_of(records.columns, (record.cells for record in records.read()))
    if not any(profile.num_filled for profile in profiles.values()):
        raise ValueError(f"{source}: has no rows; expected one a picture, a question or a conversation")
    files = Files(records.folder, _unpack_to(source))
    used = guessed(columns, profiles, lambda cell: _is_file(files, cell))
    _demand_told(source, records, used, labelled)
    reading = _Reading(used, label_columns(used, profiles), files, labelled)
    read = [_draft(record, reading) for record in records.read()]
    drafts = [draft for draft in read if draft.row.fault or not labelled or _says_something(draft.row)]
    if all(draft.row.fault for draft in drafts):
        first = drafts[0].row.fault if drafts else f"every {', '.join(used.label)} is empty"
        raise ValueError(f"{source}: none of {len(read)} rows can be used; the first: {first}")
    drafts, reading = _one_hot(_one_a_picture(drafts), reading)
    drafts, group_findings = with_groups(drafts, records.folder, used)
    rows, given, split_findings = with_sides(source, drafts, used)
    usable = [row for row in rows if not row.fault]
    targets = targets_of(usable, reading.targets, used)
    for target in targets.values():
        _demand_two_classes(source, target, rows)
    return Table(
        source=source,
        rows=tuple(usable),
        faulty=tuple(row for row in rows if row.fault),
        columns=used,
        guessed=frozenset(f.name for f in fields(used) if getattr(used, f.name) != getattr(columns, f.name)),
        targets=targets,
        given_splits=given,
        findings=(*_left_out(len(read) - len(drafts), used), *_unknown(targets), *group_findings, *split_findings),
    )


class _Reading(NamedTuple):
    columns: Columns
    targets: list[LabelColumns]
    files: Files
    labelled: bool


def _demand_pattern(pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"--group-pattern {pattern!r} is no regular expression ({error}); mend it") from error


def _draft(record: Record, reading: _Reading) -> Draft:
    columns, cells = reading.columns, record.cells
    row, group = Row(record.place, (), "", "train"), ""
    side: str = record.split or ""
    if _named(columns.split) and columns.split in cells:
        side = text_of(cells[columns.split])
    try:
        if _named(columns.group):
            text = text_of(cells.get(columns.group))
            found = group_key(text, columns.group_pattern)
            if found is None:
                raise Fault(f"{columns.group} holds no group ({columns.group_pattern})")
            group = found
        row = replace(row, **_content(cells, reading))
    except Fault as fault:
        row = replace(row, fault=f"{record.place}: {fault}")
    return Draft(row, group, side)


def _content(cells: Mapping[str, Any], reading: _Reading) -> dict[str, Any]:
    columns = reading.columns
    names = [name for name in columns.files if name != NONE]
    pictures = tuple(path for name in names for path in reading.files.of(cells.get(name)))
    messages = _conversation_cell(cells, columns)
    if messages is not None:
        talk = conversation_of(messages, pictures, reading.files, answered=reading.labelled)
        return {"messages": talk.messages, "files": talk.files}
    if names and not pictures:
        raise Fault(f"{', '.join(names)} is empty; name a file, or drop the row")
    answer = text_of(cells.get(columns.answer))
    if _named(columns.answer) and not answer and reading.labelled:
        raise Fault(f"{columns.answer} is empty; write the answer, or drop the row")
    choices = _choices(cells, columns)
    return {
        "files": pictures,
        "question": text_of(cells[columns.question]) if columns.question in cells else _literal(columns.question),
        "answer": _chosen(answer, choices, columns),
        "choices": choices,
        "labels": labels_of(cells, reading.targets, columns),
    }


def _conversation_cell(cells: Mapping[str, Any], columns: Columns) -> Any:
    """A conversation column, or prompt and completion that are lists of messages; None if the row has neither."""
    if _named(columns.messages):
        return cells.get(columns.messages)
    prompt: Any = cells.get(columns.question)
    completion: Any = cells.get(columns.answer)
    return [*prompt, *completion] if is_conversation(prompt) and is_conversation(completion) else None


def _choices(cells: Mapping[str, Any], columns: Columns) -> tuple[str, ...]:
    if len(columns.choices) == 1:
        cell = cells.get(columns.choices[0])
        if isinstance(cell, Mapping):  # {"text": [...], "label": [...]} or {"A": ..., "B": ...}
            cell = cell.get("text") or list(cell.values())
        listed = cell if isinstance(cell, list) else list_in(text_of(cell)) or re.split("[|;]", text_of(cell))
    else:
        listed = [cells.get(name) for name in columns.choices]
    return tuple(text for choice in listed if (text := text_of(choice)))


def _chosen(answer: str, choices: tuple[str, ...], columns: Columns) -> str:
    """The choice that an answer means by its text, its letter, its column's name or its place."""
    if not choices or not answer or answer in choices:
        return answer
    by_name = dict(zip(columns.choices, choices, strict=False)) if len(columns.choices) == len(choices) else {}
    if answer in by_name:
        return by_name[answer]
    if re.fullmatch(r"[A-Za-z]", answer) and ord(answer.upper()) - ord("A") < len(choices):
        return choices[ord(answer.upper()) - ord("A")]
    if answer.isdigit() and int(answer) < len(choices):
        return choices[int(answer)]
    alike = [choice for choice in choices if choice.casefold() == answer.casefold()]
    if alike:
        return alike[0]
    raise Fault(f"{columns.answer} is {answer!r}; expected one of the choices {', '.join(choices)}, or its letter")


def _one_a_picture(drafts: list[Draft]) -> list[Draft]:
    """Put rows of one picture together whose boxes lie in rows of their own; each keeps the place of the first."""
    if not any(_is_box_row(draft.row) for draft in drafts):
        return drafts
    first: dict[Any, Draft] = {}
    for draft in drafts:
        key = draft.row.files if not draft.row.fault else draft.row.place
        if key not in first:
            first[key] = draft
            continue
        kept = first[key].row
        boxes: Label = (*kept.labels["boxes"], *draft.row.labels["boxes"])  # type: ignore[misc]
        first[key] = first[key]._replace(row=replace(kept, labels={**kept.labels, "boxes": boxes}))
    return list(first.values())


def _is_box_row(row: Row) -> bool:
    return not row.fault and row.labels.keys() == {"boxes"}


def _one_hot(drafts: list[Draft], reading: _Reading) -> tuple[list[Draft], _Reading]:
    """Columns of which one is 1 in every row are one class."""
    if reading.columns.kind or len(reading.targets) != 1:
        return drafts, reading
    usable = [draft.row for draft in drafts if not draft.row.fault]
    classes = as_one_class(usable, reading.targets[0])
    if classes is None:
        return drafts, reading
    as_class = {row.place: row for row in classes}
    target = LabelColumns("label", "class", reading.targets[0].columns)
    named = [draft._replace(row=as_class.get(draft.row.place, draft.row)) for draft in drafts]
    return named, reading._replace(targets=[target])


def _named(column: str) -> bool:
    return column not in ("", NONE)


def _literal(question: str) -> str:
    return question if _named(question) else ""


def _says_something(row: Row) -> bool:
    return bool(row.labels or row.answer or row.messages)


def _is_file(files: Files, cell: Any) -> bool:
    with suppress(Fault, OSError):
        return bool(files.of(cell))
    return False


def _unpack_to(source: Path) -> Path:
    return source.parent / f"{source.name}.pictures"


def _demand_columns(source: Path, records: Records, columns: Columns) -> None:
    asked = [*columns.files, *columns.label, columns.answer, *columns.choices, columns.messages, columns.group]
    asked += [columns.split]
    absent = [name for name in asked if _named(name) and name not in records.columns]
    if " " not in columns.question.strip() and _named(columns.question) and columns.question not in records.columns:
        absent.append(columns.question)
    if absent:
        raise ValueError(f"{source}: has no column {absent[0]!r}; it has {', '.join(records.columns)}")


def _demand_told(source: Path, records: Records, columns: Columns, labelled: bool) -> None:
    has_content = any(_named(name) for name in (*columns.files, columns.question, columns.messages))
    has_label = any(_named(name) for name in (*columns.label, columns.answer, columns.messages))
    if has_content and (has_label or not labelled):
        return
    untold = [] if has_content else ["files (--files COLUMN)"]
    untold += [] if has_label or not labelled else ["label (--label COLUMN, or --question and --answer)"]
    raise ValueError(
        f"{source}: cannot tell which column is the {' and which the '.join(untold)}; it has "
        f"{', '.join(records.columns)}"
    )


def _demand_two_classes(source: Path, target: Target, rows: Sequence[Row]) -> None:
    if target.kind == "class" and len(target.classes) < 2:
        faults = [row.fault for row in rows if row.fault]
        raise ValueError(
            f"{source}: {target.name} has one class, {target.classes[0]!r}, in all {len(rows) - len(faults)} rows; "
            "expected two or more; name another column (--label), or all classes there are (--classes)"
            + (f"; {len(faults)} rows cannot be used, the first: {faults[0]}" if faults else "")
        )


def _left_out(num_rows: int, columns: Columns) -> list[str]:
    return [f"{num_rows} rows say no {', '.join(columns.label) or columns.answer} and are left out"] if num_rows else []


def _unknown(targets: Mapping[str, Target]) -> list[str]:
    return [
        f"{finding}: {count} rows do not say (missing or uncertain) and are left out of it; --missing and --uncertain "
        "zero or one take them in"
        for target in targets.values()
        for finding, count in target.unknown.items()
    ]
