"""Stable or not, looking or not: the four quadrants of a task's items, with accuracy in each, and two models' moves."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from evals.items import Item
from evals.metrics.paired import PairedDifference, paired_mean_difference
from evals.reliability.probes import RELIANCE, STABILITY, item_of, kind_of, meaning
from medsiglip.metrics.statistics import Estimate, grouped_bootstrap_ci

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


def item_reliability(
    probes: Sequence[Item], texts: Mapping[str, str], parse: Callable[[Item, str], str]
) -> list[ItemReliability]:
    """Read the answers to items and their probes.

    Args:
        probes: From `probes.probes`.
        texts: Probe id to the text that came back; a probe that failed is left out, and its item is not stable.
        parse: The task's.
    """
    by_item: dict[str, list[Item]] = {}
    for probe in probes:
        by_item.setdefault(item_of(probe), []).append(probe)
    return [_of_item(together, texts, parse) for together in by_item.values()]


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


def _of_item(together: Sequence[Item], texts: Mapping[str, str], parse: Callable[[Item, str], str]) -> ItemReliability:
    said = {probe.item_id: parse(probe, texts[probe.item_id]) for probe in together if probe.item_id in texts}
    meant = {probe.item_id: meaning(probe, said.get(probe.item_id, "")) for probe in together}
    asked = next(probe for probe in together if kind_of(probe) == "asked")
    first = meant[asked.item_id]
    stability = [meant[probe.item_id] for probe in together if kind_of(probe) in STABILITY]
    reliance = [meant[probe.item_id] for probe in together if kind_of(probe) in RELIANCE]
    letters = [said.get(probe.item_id, "") for probe in together if kind_of(probe) == "order"]
    mine = said.get(asked.item_id, "")
    return ItemReliability(
        item_of(asked),
        asked.group,
        right=bool(first) and first == meaning(asked, asked.reference),
        stable=bool(first) and all(one == first for one in stability),
        looks=any(one != first for one in reliance) if reliance else None,
        keeps_letter=bool(mine) and all(letter == mine for letter in letters) if letters else None,
    )


def _share(values: Sequence[tuple[float, str]], seed: int) -> Estimate | None:
    return grouped_bootstrap_ci([v for v, _ in values], [g for _, g in values], seed) if values else None
