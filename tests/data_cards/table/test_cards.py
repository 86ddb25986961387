"""Sets with a card come through the same door, by their own readers."""

from pathlib import Path

import pytest

from data_cards.readers.pictures import read_mednist
from data_cards.readers.vqa_rad import read_vqa_rad
from data_cards.split import side
from data_cards.table import Columns, read_card, read_table

OURS = {"train": "train", "held-out": "validation", "final": "test"}


def test_labelled_pictures(kit: Path) -> None:
    pictures = read_mednist(kit / "modality-mednist")
    table = read_card("modality-mednist", kit)
    assert [(row.files[0], row.labels["label"], row.group) for row in table.rows] == [
        (picture.path, picture.labels["label"], picture.group) for picture in pictures
    ]
    assert [row.split for row in table.rows] == [OURS[side(picture.group)] for picture in pictures]


def test_questions_are_divided_by_case_whatever_the_published_split(kit: Path) -> None:
    questions = read_vqa_rad(kit / "vqa-rad")
    table = read_card("vqa-rad", kit)
    assert [(row.question, row.answer, row.split) for row in table.rows] == [
        (question.question, question.answer, OURS[side(question.group)]) for question in questions
    ]
    with pytest.raises(ValueError, match="107 more groups are on two sides"):
        read_table(kit / "vqa-rad" / "labels.csv")


def test_multiple_choice_and_other_columns_by_name(kit: Path) -> None:
    table = read_card("medqa-usmle", kit)
    assert all(row.answer in row.choices and len(row.choices) == 4 for row in table.rows)
    views = read_card("cxr-nih14", kit, Columns(label=("view",)))
    assert (views.target().classes, sum(views.target().counts.values())) == (("AP", "PA"), 698)
    summaries = read_card("mts-dialog", kit, Columns(question="dialogue", answer="note"))
    assert all(row.answer for row in summaries.rows)


def test_the_kit_s_own_table_gives_the_card_s_rows(kit: Path) -> None:
    by_card = read_card("histo-lc25000-lung", kit)
    by_table = read_table(kit / "histo-lc25000-lung" / "labels.csv")
    assert [(r.files, r.labels, r.group, r.split) for r in by_card.rows] == [
        (r.files, r.labels, r.group, r.split) for r in by_table.rows
    ]


def test_a_card_without_rows_is_refused(kit: Path) -> None:
    with pytest.raises(
        ValueError, match="the card medsiglip-tokenizer has no reader that gives rows; name its table with --table"
    ):
        read_card("medsiglip-tokenizer", kit)
