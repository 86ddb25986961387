"""What must hold for a set of items before a figure on it means anything."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_cards.split import SIDES
from data_cards.split import side as side_of
from evals.items import Item

if TYPE_CHECKING:
    from evals.tasks.task import Task


def check_items(items: Sequence[Item], record: Mapping[str, Any], where: Path | str) -> None:
    """Refuse items that would make a figure wrong without showing.

    Args:
        items: Of one run.
        record: Its run.json: `side` and `condition` are read.
        where: For the message.

    Raises:
        ValueError: An item is there twice, a picture is of two groups (patients), or a group is not on the run's side.
    """
    demand_each_once(items, where)
    if record.get("condition", "real") == "real":
        demand_one_group_a_picture(items, where)
    if _is_ours(record):
        demand_on_side(items, str(record.get("side", "")), where)


def divides_by_group(task: "Task") -> bool:
    """Say whether `train` is our own division, not the owners' split of that name."""
    return "held-out" in task.sides


def _is_ours(record: Mapping[str, Any]) -> bool:
    from evals.tasks.catalogue import TASKS

    task = TASKS.get(str(record.get("task", "")))
    return task is None or divides_by_group(task)


def demand_each_once(items: Sequence[Item], where: Path | str) -> None:
    """Refuse an item that counts double because its id is there twice."""
    twice = [name for name, count in Counter(item.item_id for item in items).items() if count > 1]
    if twice:
        raise ValueError(f"{where}: {named(twice)} there more than once; expected each item once; make the items anew")


def repeated(items: Sequence[Item]) -> list[str]:
    """Return the items that ask the same of the same pictures, with the same reference, as an item before them.

    Some published sets have such copies (PathVQA), so they are counted and shown, not refused; they share their
    picture's group, so no interval is narrower for them.
    """
    seen: set[tuple[object, ...]] = set()
    copies = []
    for item in items:
        asked = (item.files, item.prompt, item.reference)
        if asked in seen:
            copies.append(item.item_id)
        seen.add(asked)
    return copies


def demand_one_group_a_picture(items: Sequence[Item], where: Path | str) -> None:
    """Refuse a picture that two groups (patients) have: its copies would count as independent."""
    groups: dict[str, set[str]] = defaultdict(set)
    for item in items:
        for file in item.files:
            groups[file].add(item.group)
    shared = [file for file, names in groups.items() if len(names) > 1]
    if shared:
        raise ValueError(
            f"{where}: the picture {Path(shared[0]).name} is of {len(groups[shared[0]])} groups; expected one patient "
            "(group) a picture; correct the group column"
        )


def demand_on_side(items: Iterable[Item], side: str, where: Path | str) -> None:
    """Refuse items of groups (patients) that belong to another side of the split."""
    if side not in SIDES:
        return
    astray = [item.item_id for item in items if side_of(item.group) != side]
    if astray:
        raise ValueError(
            f"{where}: {named(astray)} not of the side {side!r} that run.json says: the patient is on another side; "
            "make the items anew from the right split"
        )


def demand_disjoint_groups(train: Iterable[Item], held_out: Iterable[Item]) -> None:
    """Refuse a patient (group) on both sides of a split: learnt from or shown as an example, and asked about.

    Raises:
        ValueError: Names how many groups, not which: a group may be a patient's number.
    """
    trained = {item.group for item in train}
    both = [item.item_id for item in held_out if item.group in trained]
    if both:
        raise ValueError(
            f"{named(both)} of a patient (group) that is also on the side that is learnt from or shown as examples; "
            "expected every patient on one side; split by patient"
        )


def named(item_ids: Sequence[str]) -> str:
    """Return the first few ids and how many more, with the verb: "q1, q2 and 7 others are"."""
    shown = ", ".join(item_ids[:3])
    more = len(item_ids) - 3
    if more > 0:
        return f"{shown} and {more} other{'s' if more > 1 else ''} are"
    return f"{shown} {'is' if len(item_ids) == 1 else 'are'}"
