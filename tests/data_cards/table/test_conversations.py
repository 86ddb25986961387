"""JSONL in the forms of OpenAI, TRL, LLaVA and plain pairs; pictures in the order of their slots."""

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from data_cards.table import Table, read_table
from tests.data_cards.table.made import pictures, table_file

ANSWER = {"role": "assistant", "content": "A CT."}


def lines(folder: Path, *rows: Mapping[str, Any]) -> Table:
    return read_table(table_file(folder, "\n".join(map(json.dumps, rows)) + "\n", "T.jsonl"))


def image(**named: Any) -> dict[str, Any]:
    return {"type": "image", **named}


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pictures(tmp_path, "a.png", "b.png")
    return tmp_path


def test_messages_with_placeholders_and_a_column_of_pictures(folder: Path) -> None:
    user = {"role": "user", "content": [image(), text("Before."), image(), text("What changed?")]}
    table = lines(folder, {"messages": [user, ANSWER], "images": ["b.png", "a.png"], "patient_id": "7"})
    (row,) = table.rows
    assert [file.name for file in row.files] == ["b.png", "a.png"]
    assert row.messages == (
        {"role": "user", "content": [image(), text("Before."), image(), text("What changed?")]},
        {"role": "assistant", "content": [text("A CT.")]},
    )
    assert (row.place, row.group) == ("T.jsonl line 1", "7")


def test_pictures_without_a_slot_come_before_the_words(folder: Path) -> None:
    table = lines(folder, {"messages": [{"role": "user", "content": "What is it?"}, ANSWER], "image": "a.png"})
    assert table.rows[0].messages[0]["content"] == [image(), text("What is it?")]


def test_llava_conversations(folder: Path) -> None:
    talk = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A CT."}]
    (row,) = lines(folder, {"id": 1, "image": "a.png", "conversations": talk}).rows
    assert row.messages[0] == {"role": "user", "content": [image(), text("What is it?")]}
    assert row.messages[1]["role"] == "assistant"


def test_named_pictures_and_data_urls_stand_where_they_are_said(folder: Path) -> None:
    url = "data:image/png;base64," + base64.b64encode(b"\x89PNG one").decode()
    parts = [{"type": "image_url", "image_url": {"url": url}}, text("and"), image(image="b.png")]
    (row,) = lines(folder, {"messages": [{"role": "user", "content": parts}, ANSWER]}).rows
    assert row.files[0].read_bytes() == b"\x89PNG one"
    assert (row.files[0].suffix, row.files[1].name) == (".png", "b.png")
    assert row.messages[0]["content"] == [image(), text("and"), image()]


def test_prompt_and_completion_as_texts_and_as_messages(folder: Path) -> None:
    table = lines(
        folder,
        {"prompt": "Why?", "completion": "Because."},
        {"prompt": [{"role": "user", "content": "Why?"}], "completion": [ANSWER]},
    )
    assert (table.rows[0].question, table.rows[0].answer, table.rows[0].messages) == ("Why?", "Because.", ())
    assert [message["role"] for message in table.rows[1].messages] == ["user", "assistant"]


def test_lists_of_labels_and_boxes(folder: Path) -> None:
    table = lines(folder, {"image": "a.png", "labels": ["edema", "effusion"]}, {"image": "b.png", "labels": []})
    assert table.rows[0].labels["labels"] == {"edema": True, "effusion": True}
    assert table.rows[1].labels["labels"] == {"edema": False, "effusion": False}
    boxes = [{"box_2d": [100, 200, 300, 400], "label": "heart"}]
    table = lines(folder, {"image": "a.png", "boxes": boxes}, {"image": "b.png", "boxes": []})
    (box,) = table.rows[0].labels["boxes"]
    assert (box.label, box.y0, box.x1, box.unit) == ("heart", 100, 400, "per_mille")
    assert table.rows[1].labels["boxes"] == ()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": "hello"}, "is no list of messages"),
        ({"messages": [{"role": "user", "content": "x"}]}, "its last message is not the assistant's"),
        ({"messages": [{"role": "tool", "content": "x"}, ANSWER]}, "is no list of messages"),
        (
            {"messages": [{"role": "user", "content": [image()]}, ANSWER]},
            "has 1 image parts without a picture and 0",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "video"}]}, ANSWER]}, "has a part of type 'video'"),
        (
            {"messages": [{"role": "user", "content": [image(url="https://x/y.png")]}, ANSWER]},
            "nothing is fetched here",
        ),
        ({"messages": [{"role": "user", "content": [image(image="c.png")]}, ANSWER]}, "'c.png': no such file"),
    ],
)
def test_what_is_no_conversation_is_a_fault_of_its_line(folder: Path, row: dict[str, Any], message: str) -> None:
    good = {"messages": [{"role": "user", "content": "x"}, ANSWER]}
    table = lines(folder, good, row)
    assert len(table.rows) == 1
    assert table.faulty[0].fault.startswith("T.jsonl line 2: ")
    assert message in table.faulty[0].fault
