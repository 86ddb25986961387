"""Scripted models land where they must."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from evals.items import Item
from evals.reliability.probes import kind_of, probes
from evals.reliability.quadrants import Reliability, due, item_reliability, moves, reliability
from evals.reliability.running import ROUNDS, shown
from evals.tasks import multiple_choice
from evals.tasks.catalogue import TASKS
from evals.tasks.task import Task
from medsiglip.metrics.statistics import grouped_bootstrap_ci

OPTIONS = {"A": "aorta", "B": "heart", "C": "lung", "D": "liver"}
TRUTH = ("heart", "lung", "liver", "aorta")


def choice_items(n: int = 24) -> list[Item]:
    made = []
    for number in range(n):
        right = next(letter for letter, text in OPTIONS.items() if text == TRUTH[number % 4])
        meta = {f"option_{letter}": text for letter, text in OPTIONS.items()}
        text = multiple_choice.prompt("What is shown?", OPTIONS)
        made.append(
            Item(f"q{number}", (f"{TRUTH[number % 4]}-{number}.png",), text, right, "closed", f"p{number}", meta)
        )
    return made


def yes_no_items(n: int) -> list[Item]:
    return [
        Item(f"q{i}", (f"{i}.png",), "Is there a nodule in this image?", "yes", "closed", f"p{i}") for i in range(n)
    ]


LETTERS, WORDS = TASKS["kit-medqa"], TASKS["vqa-rad"]


def landed(items: list[Item], folder: Path, model: Callable[[Item], str], task: Task) -> Reliability:
    """Ask in rounds, as the command does, and see that asking everything says the same."""
    made = probes(items, folder)
    texts: dict[str, str | None] = {}
    for _ in range(ROUNDS):
        texts |= {probe.item_id: model(probe) for probe in due(made, texts, task) if probe.item_id not in texts}
    asked = [probe for probe in made if probe.item_id in texts]
    assert [probe.item_id for probe in due(made, texts, task)] == [probe.item_id for probe in asked]
    whole = dict.fromkeys((probe.item_id for probe in made), None) | {
        probe.item_id: texts.get(probe.item_id) or model(probe) for probe in made
    }
    found = item_reliability(asked, texts, task)
    assert found == item_reliability(made, whole, task)
    return reliability(found)


def of_text(probe: Item, text: str) -> str:
    return next(letter for letter, option in multiple_choice.options_of(probe).items() if option == text)


def test_a_model_of_text_alone_never_looks_and_is_stable(tmp_path: Path) -> None:
    found = landed(choice_items(), tmp_path, lambda probe: of_text(probe, "lung"), LETTERS)
    assert found.looks is not None and found.looks.value == 0
    assert found.quadrants["stable, not looking"].share.value == 1
    assert found.quadrants["stable, not looking"].accuracy.value == 0.25  # type: ignore[union-attr]
    assert found.quadrants["stable and looking"].accuracy is None


def test_a_model_of_the_first_option_is_biased_by_position_alone(tmp_path: Path) -> None:
    found = landed(choice_items(), tmp_path, lambda probe: "A", LETTERS)
    assert found.position_bias is not None and found.position_bias.value == 1
    assert found.stable.value == 0 and found.looks is not None and found.looks.value == 0


def oracle(probe: Item) -> str:
    if not probe.files or not any(word in probe.files[0] for word in TRUTH):
        return "I cannot tell."
    return of_text(probe, next(word for word in TRUTH if word in Path(probe.files[0]).name))


def test_an_oracle_is_stable_looking_and_right(tmp_path: Path) -> None:
    found = landed(choice_items(), tmp_path, oracle, LETTERS)
    ideal = found.quadrants["stable and looking"]
    assert ideal.share.value == 1 and ideal.accuracy is not None and ideal.accuracy.value == 1
    assert found.position_bias is not None and found.position_bias.value == 0


def test_a_coin_lands_at_its_closed_form(tmp_path: Path) -> None:
    def coin(probe: Item) -> str:
        return random.Random(f"3 {probe.item_id}").choice(("yes", "no"))

    found = landed(yes_no_items(1500), tmp_path, coin, WORDS)
    stable, looks = 0.5**3, 1 - 0.5**3  # two wordings and the negated one; three other pictures
    assert found.stable.value == pytest.approx(stable, abs=0.03)
    assert found.quadrants["stable and looking"].share.value == pytest.approx(stable * looks, abs=0.03)
    assert found.quadrants["unstable, not looking"].share.value == pytest.approx((1 - stable) * (1 - looks), abs=0.03)


def test_probes_ask_the_same_otherwise(tmp_path: Path) -> None:
    asked = probes(yes_no_items(4), tmp_path)
    kinds = [kind_of(probe) for probe in asked[:7]]
    assert kinds == ["asked", "wording", "wording", "negated", "no-picture", "blank-picture", "other-picture"]
    assert asked[3].prompt == "Is a nodule absent in this image?"
    assert asked[6].files != asked[0].files and asked[6].group != asked[0].group and asked[4].files == ()
    orders = [probe for probe in probes(choice_items(), tmp_path) if kind_of(probe) == "order"]
    assert all(multiple_choice.options_of(p)[p.reference] == TRUTH[int(p.meta["probe_of"][1:]) % 4] for p in orders)
    assert all(text != OPTIONS[letter] for p in orders for letter, text in multiple_choice.options_of(p).items())
    assert all(
        f"({letter}) {text}" in p.prompt for p in orders for letter, text in multiple_choice.options_of(p).items()
    )


def test_moves_between_two_models(tmp_path: Path) -> None:
    asked = probes(choice_items(), tmp_path)

    def of(model: Callable[[Item], str]) -> list[object]:
        return item_reliability(asked, {p.item_id: model(p) for p in asked}, LETTERS)  # type: ignore[return-value]

    looking, blind = of(oracle), of(lambda probe: of_text(probe, "lung"))
    found = moves(looking, blind)  # type: ignore[arg-type]
    assert found.counts == {("stable and looking", "stable, not looking"): 24} and len(found.changed) == 24
    assert found.differences["stable and looking"].estimate.value == -1
    with pytest.raises(ValueError, match="do not have the same items"):
        moves(looking[1:], blind)  # type: ignore[arg-type]


def test_nothing_is_asked_that_cannot_change_an_items_place(tmp_path: Path) -> None:
    made = probes(yes_no_items(4), tmp_path)[:7]
    one, names = made[0].item_id, [probe.item_id for probe in made]
    asked, wording, wording2, negated, none, blank, other = names

    def next_of(texts: dict[str, str | None]) -> set[str]:
        return {probe.item_id for probe in due(made, texts, WORDS)} - texts.keys()

    assert next_of({}) == {one, wording, none}
    assert next_of({asked: "yes", wording: "no", none: "no"}) == set()
    assert next_of({asked: "yes", wording: "yes", none: "yes"}) == {wording2, blank}
    both = {asked: "yes", wording: "yes", none: "yes", wording2: "yes", blank: "yes"}
    assert next_of(both) == {negated, other}
    failed: dict[str, str | None] = {asked: "yes", wording: None, none: None}
    assert next_of(failed) == {blank}  # a failed picture shows nothing, a failed wording is not stable
    [found] = item_reliability(made, failed | {blank: "yes", other: "yes"}, WORDS)
    assert not found.stable and found.looks is False


def test_one_group_has_no_interval_and_says_so() -> None:
    assert shown(grouped_bootstrap_ci([1.0, 0.0, 1.0], ["p", "p", "p"])) == (
        "0.667 (too few: all items are of one group: no interval)"
    )


def test_items_with_nothing_to_change_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="neither lettered options nor pictures"):
        probes([Item("q", (), "Question: is it so?\nAnswer:", "A", "closed", "p", choices=(" yes", " no"))], tmp_path)
