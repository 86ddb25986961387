"""Tasks to train in: rewards are the grades of `score` item by item, held-out sides are refused, pictures come too."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evals.environments.episodes import episode, write_run_episodes
from evals.environments.training import (
    TrainingItems,
    reward,
    reward_metric,
    rewards,
    training_items,
    verifiable_tasks,
)
from evals.environments.trl import reward_function, rows, text_of
from evals.items import Item, item_sha256
from evals.measures import Answered
from evals.outputs import Output
from evals.results.scores import grades, read_answered
from evals.running.options import RunOptions
from evals.running.runner import run_task
from evals.tasks.catalogue import TASKS, task_named
from evals.tasks.task import ItemOptions
from experience import read_episodes
from tests.data_cards.test_rubrics_and_calculations import medcalc
from tests.nano import needs_nano

REPLIES = ("yes", "No.", "Final Answer: (B)", "the left lung", "I cannot tell.", "")


def replies_to(items: list[Item]) -> list[str]:
    """Right, wrong and unreadable ones in turn."""
    return [item.reference if place % 3 == 0 else REPLIES[place % len(REPLIES)] for place, item in enumerate(items)]


def scored(found: TrainingItems, items: list[Item], replies: list[str]) -> list[float]:
    """What `medgemma-eval score` computes of the same texts, under the metric of the reward."""
    answered = [
        Answered(item, Output(item.item_id, item_sha256(item), "m", text=text))
        for item, text in zip(items, replies, strict=True)
    ]
    of = {
        metric: {graded.item_id: graded.value for graded in graded_items}
        for metric, graded_items in grades(found.task, answered).items()
    }
    return [of[reward_metric(found.task, item)][item.item_id] for item in items]


@pytest.mark.kit
@pytest.mark.parametrize("name", ["vqa-rad", "kit-medqa", "kit-cxr-conditions", "kit-fundus", "picture-questions"])
def test_rewards_are_the_grades_of_score_item_by_item(kit: Path, name: str) -> None:
    found = training_items(name, kit, limit=60)
    replies = replies_to(found.items)
    expected = scored(found, found.items, replies)
    assert rewards(found.task, found.items, replies) == expected
    names = [item.item_id for item in found.items]
    conversations = [[{"role": "assistant", "content": text}] for text in replies]
    graded = reward_function(found)(prompts=[""] * len(names), completions=conversations, item_id=names, other=names)
    assert graded == expected
    drawn = reward_function(found)(prompts=[""] * 8, completions=replies[3::-1] * 2, item_id=names[3::-1] * 2)
    assert drawn == expected[3::-1] * 2  # in TRL's order: a draw of items, each several times
    outputs = [Output(i.item_id, item_sha256(i), "m", text=t) for i, t in zip(found.items[:6], replies, strict=False)]
    bare = [replace(item, files=()) for item in found.items[:6]]
    assert [episode(found.task, i, o).steps[0].reward for i, o in zip(bare, outputs, strict=True)] == expected[:6]
    assert len(set(expected)) > 1


@pytest.mark.kit
@pytest.mark.parametrize("side", ["held-out", "final", "official-test", "all"])
def test_held_out_sides_are_refused(kit: Path, side: str) -> None:
    with pytest.raises(ValueError, match=f"side '{side}' is held out for evaluation; train on 'train'"):
        training_items("vqa-rad", kit, side)


@pytest.mark.kit
def test_no_training_item_is_of_a_held_out_group(kit: Path) -> None:
    found = training_items("vqa-rad", kit)
    held_out = {item.group for side in ("held-out", "final") for item in TASKS["vqa-rad"].items(kit, ItemOptions(side))}
    assert found.items and not held_out & {item.group for item in found.items}


def test_an_item_whose_group_the_test_side_has_is_left_out_and_counted(tmp_path: Path) -> None:
    folder = tmp_path / "medcalc-bench"
    medcalc(folder, {"Note ID": "shared"}, {"Note ID": "own"}, name="train_data.csv")
    alone = training_items("medcalc-bench", tmp_path)
    assert (len(alone.items), alone.num_left_out, alone.sides_not_there) == (2, 0, ["test"])
    medcalc(folder, {"Note ID": "shared"})
    found = training_items("medcalc-bench", tmp_path)
    assert [item.group for item in found.items] == ["medcalc_own"]
    assert (found.num_left_out, found.sides_not_there) == (1, [])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("kit-iu-xray-impression", r"rouge_l_f1 prefers the paraphrase to a flipped negation in 0% of 32 reports"),
        ("healthbench", "its answers are no text that a rule grades"),
        ("zero-shot-modality", "its answers are no text that a rule grades"),
        ("mimic-cxr-adjudicated", "has no side to train on; its sides adjudicated-test are for evaluation"),
    ],
)
def test_tasks_that_cannot_be_trained_in_say_why(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        training_items(name, tmp_path)
    assert name not in verifiable_tasks()


def test_most_text_tasks_are_verifiable() -> None:
    names = verifiable_tasks()
    assert {"vqa-rad", "kit-medqa", "lab-reports", "chest-imagenome", "medcalc-bench"} <= set(names)
    assert not [name for name in names if TASKS[name].answers != "text" or "train" not in TASKS[name].sides]


def test_an_item_that_cannot_be_asked_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "mmlu-pro"
    folder.mkdir()
    good = {"id": "a", "split": "train", "group": "a", "kind": "choice", "question": "q", "category": "c"}
    lines = [json.dumps({**good, "options": {"A": "x", "B": "y"}, "answer": "A"}), "no JSON"]
    (folder / "train.jsonl").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(ValueError, match=r"1 item\(s\) cannot be asked, the first: train\.jsonl: line 2 is no JSON"):
        training_items("mmlu-pro", tmp_path)


def test_an_unknown_item_gets_no_reward(tmp_path: Path) -> None:
    medcalc(tmp_path / "medcalc-bench", {}, name="train_data.csv")
    graded = reward_function(training_items("medcalc-bench", tmp_path))
    assert graded.__name__ == "medcalc_bench_reward"
    with pytest.raises(ValueError, match="got item 'x', which is none of the 1 of medcalc-bench"):
        graded(prompts=[""], completions=["20"], item_id=["x"])


@pytest.mark.parametrize(
    ("completion", "text"),
    [
        ("yes", "yes"),
        ([{"role": "assistant", "content": "yes"}], "yes"),
        ([{"role": "assistant", "content": [{"type": "text", "text": "y"}, {"type": "text", "text": "es"}]}], "yes"),
        ([{"role": "tool", "content": "no"}], ""),
        ([], ""),
    ],
)
def test_a_completion_is_a_text_or_a_conversation(completion: object, text: str) -> None:
    assert text_of(completion) == text  # type: ignore[arg-type]


@pytest.mark.kit
def test_rows_and_episodes_hold_the_pictures(kit: Path) -> None:
    found = training_items("vqa-rad", kit, limit=2)
    told = rows(found)
    item = found.items[0]
    with Image.open(item.files[0]) as file:
        size = file.size
    assert told[0]["prompt"] == [{"role": "user", "content": item.prompt}]
    assert told[0]["item_id"] == item.item_id and [picture.size for picture in told[0]["images"]] == [size]
    made = episode(found.task, item, Output(item.item_id, item_sha256(item), "m", text=item.reference, thinking="hm"))
    seen, action = made.steps[0].observation, made.steps[0].action
    assert seen["messages"] == told[0]["prompt"] and action["text"] == item.reference and action["thinking"] == "hm"
    with Image.open(io.BytesIO(seen["pictures"][0])) as stored:
        assert np.array_equal(np.asarray(stored.convert("RGB")), np.asarray(told[0]["images"][0].convert("RGB")))
    assert made.steps[0].reward == 1.0 and made.steps[-1].is_terminal


def test_a_failed_reply_is_an_invalid_episode(tmp_path: Path) -> None:
    medcalc(tmp_path / "medcalc-bench", {}, name="train_data.csv")
    found = training_items("medcalc-bench", tmp_path)
    item = found.items[0]
    made = episode(found.task, item, Output(item.item_id, item_sha256(item), "m", error="gone"))
    assert made.metadata["invalid"] and made.steps[0].reward == 0.0
    assert reward(found.task, item, "Final Answer: 20") == 1.0


@needs_nano
@pytest.mark.kit
@pytest.mark.slow
def test_nanos_run_gives_the_same_grades_by_every_door(kit: Path, tmp_path: Path) -> None:
    from medgemma import MedGemma

    task = task_named("vqa-rad")
    options = RunOptions(side="train", limit=12)
    model = MedGemma.from_pretrained("nano", device="cpu", dtype="float32")
    run_task(task, options, kit, tmp_path, model, "nano", "command")
    answered = read_answered(task, tmp_path / "vqa-rad")
    found = TrainingItems(task, [pair.item for pair in answered], 0, [])
    texts = [pair.output.text for pair in answered]
    expected = scored(found, found.items, texts)
    names = [item.item_id for item in found.items]
    assert reward_function(found)(prompts=names, completions=texts, item_id=names) == expected
    assert write_run_episodes(tmp_path, "vqa-rad") == 12
    stored = {one.metadata["item_id"]: one for one in read_episodes(tmp_path / "vqa-rad" / "episodes")}
    assert [stored[name].steps[0].reward for name in names] == expected
    assert all(stored[name].steps[0].observation["pictures"] for name in names)
