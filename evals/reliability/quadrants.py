"""Stable or not, looking or not: the four quadrants of a task's items, with accuracy in each, and two models' moves."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evals.items import Item
from evals.metrics.paired import PairedDifference, paired_mean_difference
from evals.outputs import Output
from evals.reliability.probes import RELIANCE, STABILITY, item_of, kind_of, meaning
from evals.tasks.final_answer import parse_letter
from evals.tasks.option_orders import words_of
from evals.tasks.task import Task
from medsiglip.metrics.statistics import Estimate, grouped_bootstrap_ci

Texts = Mapping[str, str | None]

QUADRANTS = ("stable and looking", "stable, not looking", "unstable, looking", "unstable, not looking")


@dataclass(frozen=True)
class ItemReliability:
    """What an item's probes say of the answer to it."""

    item_id: str
    group: str
    right: bool
    stable: bool
    """It means the same in every order and wording; an answer that cannot be read is not stable."""
    looks: bool | None
    """Another, a blank or no picture changes it; None for an item without a picture."""
    keeps_letter: bool | None
    """The same letter in every order, whatever stands under it; None without lettered options."""

    @property
    def quadrant(self) -> str:
        """One of QUADRANTS; an item without a picture is under `looking`, since there is nothing to look at."""
        looks = self.looks is not False
        return QUADRANTS[(0 if self.stable else 2) + (0 if looks else 1)]


@dataclass(frozen=True)
class Quadrant:
    """One quadrant of a task."""

    share: Estimate
    """Of all items; whole groups are resampled, as in every interval here."""
    accuracy: Estimate | None
    """Of its items; None for none."""


@dataclass(frozen=True)
class Reliability:
    """A task's reliability."""

    items: tuple[ItemReliability, ...]
    quadrants: Mapping[str, Quadrant]
    stable: Estimate
    looks: Estimate | None
    """Share of the items with pictures whose answer needs theirs; None without any."""
    position_bias: Estimate | None
    """Share of the items with options whose letter stays when the options move."""


def item_reliability(probes: Sequence[Item], texts: Texts, task: Task) -> list[ItemReliability]:
    """Read the answers to items and their probes.

    Args:
        probes: From `probes.probes`.
        texts: Probe id to the text that came back, None for one that failed. A probe that is not there was not asked:
            see `due`.
        task: Reads and grades.
    """
    return [_of_item(together, texts, task) for together in _by_item(probes)]


def due(probes: Sequence[Item], texts: Texts, task: Task) -> list[Item]:
    """Return the probes asked so far and those to ask next: none whose answer could not change its item's place.

    An item that one wording has shown to be unstable is asked in no other, and one that a picture has shown to look is
    given no other. After the first answer one is asked, then all that are left, so that three rounds are the most.
    """
    return [probe for together in _by_item(probes) for probe in _due(together, texts, task)]


def reliability(items: Sequence[ItemReliability], seed: int = 0) -> Reliability:
    """Count the quadrants.

    Raises:
        ValueError: There is no item.
    """
    groups = [item.group for item in items]
    found = {}
    for name in QUADRANTS:
        inside = [item for item in items if item.quadrant == name]
        share = grouped_bootstrap_ci([float(item.quadrant == name) for item in items], groups, seed)
        right = [float(item.right) for item in inside]
        accuracy = grouped_bootstrap_ci(right, [item.group for item in inside], seed) if inside else None
        found[name] = Quadrant(share, accuracy)
    looking = [(float(item.looks), item.group) for item in items if item.looks is not None]
    keeping = [(float(item.keeps_letter), item.group) for item in items if item.keeps_letter is not None]
    stable = grouped_bootstrap_ci([float(item.stable) for item in items], groups, seed)
    return Reliability(tuple(items), found, stable, _share(looking, seed), _share(keeping, seed))


@dataclass(frozen=True)
class Moves:
    """From one model to another, over the same items."""

    counts: Mapping[tuple[str, str], int]
    """(quadrant of the first, quadrant of the second) to items."""
    differences: Mapping[str, PairedDifference]
    """Quadrant to the difference of its share, second minus first."""
    changed: tuple[str, ...]
    """Items whose quadrant changed."""


def moves(first: Sequence[ItemReliability], second: Sequence[ItemReliability], seed: int = 0) -> Moves:
    """Compare two models item by item.

    Raises:
        ValueError: They do not have the same items.
    """
    other = {item.item_id: item for item in second}
    if {item.item_id for item in first} != other.keys():
        raise ValueError("the two runs do not have the same items; run both with the same --side, --limit and --seed")
    pairs = [(item, other[item.item_id]) for item in first]
    groups = [item.group for item in first]
    differences = {
        name: paired_mean_difference(
            [float(one.quadrant == name) for one, _ in pairs],
            [float(two.quadrant == name) for _, two in pairs],
            groups,
            seed,
        )
        for name in QUADRANTS
    }
    counts = Counter((one.quadrant, two.quadrant) for one, two in pairs)
    changed = tuple(one.item_id for one, two in pairs if one.quadrant != two.quadrant)
    return Moves(counts, differences, changed)


def _by_item(probes: Sequence[Item]) -> list[list[Item]]:
    found: dict[str, list[Item]] = {}
    for probe in probes:
        found.setdefault(item_of(probe), []).append(probe)
    return list(found.values())


def _due(together: Sequence[Item], texts: Texts, task: Task) -> list[Item]:
    asked = together[0]
    found = [asked]
    for kinds, is_open in ((STABILITY, _may_be_stable), (RELIANCE, _may_not_look)):
        chain = [probe for probe in together if kind_of(probe) in kinds]
        for place, probe in enumerate(chain):
            if place and not is_open(asked, chain[:place], texts, task):
                break
            found.append(probe)
            if probe.item_id not in texts and place < 2:
                break  # its answer may spare the others
    return found


def _may_be_stable(asked: Item, chain: Sequence[Item], texts: Texts, task: Task) -> bool:
    """Whether a further wording or order can change anything; with options, also whether the letter has stayed."""
    first = _meant(asked, texts, task)
    letters = {_said(probe, texts, task) for probe in (asked, *chain)} if kind_of(chain[0]) == "order" else set("12")
    return bool(first) and (all(_meant(p, texts, task) == first for p in chain) or len(letters) == 1)


def _may_not_look(asked: Item, chain: Sequence[Item], texts: Texts, task: Task) -> bool:
    return not any(_changes(asked, probe, texts, task) for probe in chain)


def _changes(asked: Item, probe: Item, texts: Texts, task: Task) -> bool:
    """Whether another picture changed the answer; one that failed shows nothing."""
    return texts.get(probe.item_id) is not None and _meant(probe, texts, task) != _meant(asked, texts, task)


def _said(probe: Item, texts: Texts, task: Task) -> str:
    """A letter where there are lettered options, else what the task reads; empty for none."""
    text = texts.get(probe.item_id) or ""
    words = words_of(probe)
    assert task.parse is not None or words, f"{task.name} reads no answers"
    return parse_letter(text, words, probe.prompt) if words or task.parse is None else task.parse(probe, text)


def _meant(probe: Item, texts: Texts, task: Task) -> str:
    return meaning(probe, _said(probe, texts, task))


def _of_item(together: Sequence[Item], texts: Texts, task: Task) -> ItemReliability:
    asked = together[0]
    first, mine = _meant(asked, texts, task), _said(asked, texts, task)
    probes = [probe for probe in together[1:] if probe.item_id in texts]
    stability = [probe for probe in probes if kind_of(probe) in STABILITY]
    reliance = [probe for probe in probes if kind_of(probe) in RELIANCE]
    letters = [_said(probe, texts, task) for probe in probes if kind_of(probe) == "order"]
    return ItemReliability(
        item_of(asked),
        asked.group,
        right=bool(first) and _is_right(asked, texts.get(asked.item_id) or "", first, task),
        stable=bool(first) and all(_meant(probe, texts, task) == first for probe in stability),
        looks=any(_changes(asked, probe, texts, task) for probe in reliance) if reliance else None,
        keeps_letter=bool(mine) and all(letter == mine for letter in letters) if letters else None,
    )


def _is_right(asked: Item, text: str, meant: str, task: Task) -> bool:
    """By the task's main metric where an item has it and a text is graded, else by the reference."""
    output = Output(asked.item_id, "", "", text=text)
    found = task.grade(asked, output).get(task.main_metric) if task.answers == "text" else None
    return meant == meaning(asked, asked.reference) if found is None else found == 1


def _share(values: Sequence[tuple[float, str]], seed: int) -> Estimate | None:
    return grouped_bootstrap_ci([v for v, _ in values], [g for _, g in values], seed) if values else None
