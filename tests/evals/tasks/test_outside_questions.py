import random
from pathlib import Path

import pytest

from data_cards.split import side
from evals.tasks import outside_questions
from evals.tasks.outside_questions import HELD_OUT_KINDS, TRAIN_KINDS, UNKNOWN, draw_outside_question
from evals.tasks.phrasings import canonical, written_out
from evals.tasks.wording import OPEN_QUESTIONS


def asked_of(kinds: dict[str, tuple[str, ...]]) -> set[str]:
    return {canonical(q) for patterns in kinds.values() for pattern in patterns for q in written_out(pattern)}


def test_no_kind_is_both_trained_on_and_held_out() -> None:
    assert not TRAIN_KINDS.keys() & HELD_OUT_KINDS.keys()
    assert not asked_of(dict(TRAIN_KINDS)) & asked_of(dict(HELD_OUT_KINDS))


def test_only_training_kinds_and_wordings_are_drawn() -> None:
    rng, hand = random.Random(0), {"modality": "X-ray", "body_part": "hand"}
    drawn = {draw_outside_question(hand, rng) for _ in range(3000)}
    assert not {canonical(q) for q in drawn} & asked_of(dict(HELD_OUT_KINDS))
    tissue, view = OPEN_QUESTIONS["tissue"], OPEN_QUESTIONS["view"]
    assert drawn & set(tissue.train) and not drawn & set(tissue.held_out)
    assert not drawn & set(view.train)  # a hand film has a view, though it is not labelled
    slide = {"modality": "histology", "body_part": "lung", "tissue": "lung adenocarcinoma"}
    assert not {draw_outside_question(slide, rng) for _ in range(1000)} & set(tissue.train)


@pytest.mark.kit
def test_items_ask_twice_of_every_picture(kit: Path) -> None:
    items = outside_questions.items(kit, per_set=10)
    assert items == outside_questions.items(kit, per_set=10) != outside_questions.items(kit, per_set=10, seed=1)
    assert len(items) == 60 == len({item.item_id for item in items})
    assert sum(item.meta["attribute"] == outside_questions.NOT_OF_THIS for item in items) == 30
    assert {item.reference for item in items} == {UNKNOWN}
    assert all(side(item.group) == "final" for item in outside_questions.items(kit, per_set=3, side="final"))
