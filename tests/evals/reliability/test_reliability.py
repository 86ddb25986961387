"""Scripted models land where they must."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from evals.items import Item
from evals.reliability.probes import kind_of, probes
from evals.reliability.quadrants import Reliability, item_reliability, moves, reliability
from evals.tasks import multiple_choice
from evals.tasks.final_answer import parse_yes_no

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


def landed(items: list[Item], folder: Path, model: Callable[[Item], str], parse: Callable[..., str]) -> Reliability:
    asked = probes(items, folder)
    return reliability(item_reliability(asked, {probe.item_id: model(probe) for probe in asked}, parse))


def of_text(probe: Item, text: str) -> str:
    return next(letter for letter, option in multiple_choice.options_of(probe).items() if option == text)


def test_a_model_of_text_alone_never_looks_and_is_stable(tmp_path: Path) -> None:
    found = landed(choice_items(), tmp_path, lambda probe: of_text(probe, "lung"), multiple_choice.parse)
    assert found.looks is not None and found.looks.value == 0
    assert found.quadrants["stable, not looking"].share.value == 1
    assert found.quadrants["stable, not looking"].accuracy.value == 0.25  # type: ignore[union-attr]
    assert found.quadrants["stable and looking"].accuracy is None


def test_a_model_of_the_first_option_is_biased_by_position_alone(tmp_path: Path) -> None:
    found = landed(choice_items(), tmp_path, lambda probe: "A", multiple_choice.parse)
    assert found.position_bias is not None and found.position_bias.value == 1
    assert found.stable.value == 0 and found.looks is not None and found.looks.value == 0


def oracle(probe: Item) -> str:
    if not probe.files or not any(word in probe.files[0] for word in TRUTH):
        return "I cannot tell."
    return of_text(probe, next(word for word in TRUTH if word in Path(probe.files[0]).name))


def test_an_oracle_is_stable_looking_and_right(tmp_path: Path) -> None:
    found = landed(choice_items(), tmp_path, oracle, multiple_choice.parse)
    ideal = found.quadrants["stable and looking"]
    assert ideal.share.value == 1 and ideal.accuracy is not None and ideal.accuracy.value == 1
    assert found.position_bias is not None and found.position_bias.value == 0


def test_a_coin_lands_at_its_closed_form(tmp_path: Path) -> None:
    draw = random.Random(3)
    found = landed(
        yes_no_items(1500), tmp_path, lambda probe: draw.choice(("yes", "no")), lambda item, text: parse_yes_no(text)
    )
    stable, looks = 0.5**3, 1 - 0.5**3  # two wordings and the negated one; three other pictures
    assert found.stable.value == pytest.approx(stable, abs=0.03)
    assert found.quadrants["stable and looking"].share.value == pytest.approx(stable * looks, abs=0.03)
    assert found.quadrants["unstable, not looking"].share.value == pytest.approx((1 - stable) * (1 - looks), abs=0.03)


def test_probes_ask_the_same_otherwise(tmp_path: Path) -> None:
    asked = probes(yes_no_items(4), tmp_path)
    kinds = [kind_of(probe) for probe in asked[:7]]
    assert kinds == ["asked", "wording", "wording", "negated", "other-picture", "blank-picture", "no-picture"]
    assert asked[3].prompt == "Is a nodule absent in this image?"
    assert asked[4].files != asked[0].files and asked[4].group != asked[0].group and asked[6].files == ()
    orders = [probe for probe in probes(choice_items(), tmp_path) if kind_of(probe) == "order"]
    assert all(multiple_choice.options_of(p)[p.reference] == TRUTH[int(p.meta["probe_of"][1:]) % 4] for p in orders)
    assert all(text != OPTIONS[letter] for p in orders for letter, text in multiple_choice.options_of(p).items())
    assert all(
        f"({letter}) {text}" in p.prompt for p in orders for letter, text in multiple_choice.options_of(p).items()
    )


def test_moves_between_two_models(tmp_path: Path) -> None:
    asked = probes(choice_items(), tmp_path)

    def of(model: Callable[[Item], str]) -> list[object]:
        return item_reliability(asked, {p.item_id: model(p) for p in asked}, multiple_choice.parse)  # type: ignore[return-value]

    looking, blind = of(oracle), of(lambda probe: of_text(probe, "lung"))
    found = moves(looking, blind)  # type: ignore[arg-type]
    assert found.counts == {("stable and looking", "stable, not looking"): 24} and len(found.changed) == 24
    assert found.differences["stable and looking"].estimate.value == -1
    with pytest.raises(ValueError, match="do not have the same items"):
        moves(looking[1:], blind)  # type: ignore[arg-type]
