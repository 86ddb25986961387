"""A table's rows as examples: the engine's prompt, the answer alone learned, pictures in their slots, faults named."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from data_cards.table import Columns, Table, read_table
from evals.outputs import Output
from evals.tasks.tables import completion, task_of
from finetune.tables.examples import (
    SeenPictures,
    completion_ids,
    examples_of,
    read_study,
    table_items,
    usable,
    with_shuffled_answers,
)
from finetune.tables.scoring import CommonestAnswer, scored_side
from medgemma import MedGemma
from medgemma.asking import AnswerOptions
from medgemma.prompts.content import open_study, study_parts

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 60), "blue": (40, 60, 220)}


def colour_table(folder: Path, rows: int = 24, broken: int | None = None) -> Path:
    """A picture of one colour a row, the colour its class; every side has rows."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["file,label,patient,split"]
    for number in range(rows):
        name = list(COLOURS)[number % 3]
        noise = np.random.default_rng(number).integers(-25, 26, (32, 32, 3))
        Image.fromarray((np.array(COLOURS[name]) + noise).clip(0, 255).astype(np.uint8)).save(folder / f"{number}.png")
        side = ("train", "train", "validation", "test")[number // 3 % 4]
        lines.append(f"{number}.png,{name},p{number},{side}")
    if broken is not None:
        (folder / f"{broken}.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    (folder / "T.csv").write_text("\n".join(lines) + "\n")
    return folder / "T.csv"


@pytest.fixture(scope="module")
def gemma() -> MedGemma:
    return MedGemma.from_pretrained("nano", device="cpu")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Table:
    return read_table(colour_table(tmp_path_factory.mktemp("colours")))


def made(table: Table, gemma: MedGemma, pictures: SeenPictures) -> Any:
    return examples_of(table_items(table, "train"), gemma, pictures, lambda _: None)


def test_prompts_are_the_engines_and_the_answer_ends_its_turn(gemma: MedGemma, table: Table) -> None:
    pictures = SeenPictures(gemma.preprocessing, read_study)  # type: ignore[arg-type]
    items, examples = table_items(table, "train"), made(table, gemma, pictures)
    assert [example.place for example in examples] == [item.item_id for item in items]
    for item, example in zip(items, examples, strict=True):
        parts = study_parts(open_study([Path(file) for file in item.files]))
        asked = gemma.asking.question(parts, item.prompt, AnswerOptions(), 8).request
        assert example.prompt_ids == tuple(asked.prompt.input_ids)
        assert example.completion_ids[-1] in gemma.stop_ids and example.completion_ids[-2] not in gemma.stop_ids
        assert gemma.tokenizer.decode(example.completion_ids[:-1]) == completion(item)


def test_a_slot_gets_the_pixels_that_the_engine_would_see(gemma: MedGemma, table: Table) -> None:
    assert gemma.preprocessing
    kept, unkept = (SeenPictures(gemma.preprocessing, read_study) for _ in range(2))
    for pictures in (kept, unkept):
        examples = made(table, gemma, pictures)
    unkept.kept.clear()  # as where they are more than the memory holds
    items = table_items(table, "train")
    for item, example in zip(items, examples, strict=True):
        [number], [picture] = example.pictures, read_study(item.files)
        expected = gemma.preprocessing.pixel_values([gemma.preprocessing.resized(picture)])[0]
        assert torch.equal(kept.pixel_values(number), expected)
        assert torch.equal(unkept.pixel_values(number), expected)


def test_an_example_is_graded_as_right(table: Table) -> None:
    task = task_of(table, "classes")
    for item in table_items(table, "train", "test"):
        assert task.grade(item, Output(item.item_id, "", "", text=completion(item)))["accuracy"] == 1


def test_shuffled_answers_are_the_same_answers_elsewhere(table: Table) -> None:
    items = table_items(table, "train")
    shuffled, again = (with_shuffled_answers(items, seed) for seed in (1, 1))
    assert shuffled == again != with_shuffled_answers(items, 2)
    assert [item.files for item in shuffled] == [item.files for item in items]
    assert sorted(item.reference for item in shuffled) == sorted(item.reference for item in items)
    assert sum(a.reference != b.reference for a, b in zip(items, shuffled, strict=True)) >= 4


def test_the_commonest_answer_is_that_of_the_question(table: Table) -> None:
    """Where questions have answers of their own, each gets its own; an unknown question the commonest of all."""
    items = table_items(table, "train")[:5]  # red, green, blue, red, green
    asked = CommonestAnswer.of([items[0], items[3], items[1]])
    [reply, other] = asked.ask_each([((), items[1].prompt), ((), "Is it round?")], max_new_tokens=8)
    assert reply.text == completion(items[0]) and other.text == completion(items[0])
    assert asked.fingerprint != CommonestAnswer.of([items[1]]).fingerprint


def test_the_test_side_is_scored_else_validation(table: Table, tmp_path: Path) -> None:
    assert scored_side(table) == "test"
    path = colour_table(tmp_path)
    path.write_text("\n".join(line for line in path.read_text().splitlines() if not line.endswith(",test")) + "\n")
    assert scored_side(read_table(path)) == "validation"


def test_pictures_that_cannot_be_read_are_named_before_the_first_step(gemma: MedGemma, tmp_path: Path) -> None:
    table = read_table(colour_table(tmp_path, broken=1))
    with pytest.raises(ValueError, match=r"1 of 12 rows cannot be learned from: T\.csv row 3: label: .*1\.png"):
        made(table, gemma, SeenPictures(gemma.preprocessing, read_study))  # type: ignore[arg-type]


def test_missing_files_and_labels_outside_the_list_are_refused_or_left_out(tmp_path: Path) -> None:
    path = colour_table(tmp_path)
    (tmp_path / "4.png").unlink()
    table = read_table(path)
    with pytest.raises(ValueError, match=r"T\.csv row 6: .*4\.png.*`medgemma-data check --table` lists them all"):
        usable(table, "refused")
    assert len(usable(table, "left-out").rows) == 23
    narrow = read_table(path, Columns(label=("label",), classes=("red", "blue")))
    with pytest.raises(ValueError, match="label is 'green'; expected one of red, blue"):
        usable(narrow, "refused")


def test_a_model_of_text_alone_refuses_pictures(gemma: MedGemma, table: Table) -> None:
    with pytest.raises(ValueError, match="the model sees none"):
        examples_of(table_items(table, "train")[:1], gemma, None, lambda _: None)


def test_an_answer_of_a_model_without_a_chat_form_ends_with_the_text(
    gemma: MedGemma, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gemma.tokenizer, "chat_template", None)
    assert completion_ids(gemma, "yes")[-1] == gemma.tokenizer.eos_token_id
