"""Tasks in `verifiers`: `make test-environments`."""

import asyncio
import base64
import io
import sys
from pathlib import Path

import pytest
import verifiers.v1 as vf
from PIL import Image
from verifiers.v1.graph import MessageNode
from verifiers.v1.trace import AgentInfo, Trace, TraceTask
from verifiers.v1.utils.loaders import load_taskset, taskset_class

from evals.environments.taskset import EvalTaskset, EvalTasksetConfig
from evals.environments.training import rewards, training_items
from tests.evals.environments.test_environments import replies_to, scored


def graded(task: vf.Task, reply: str) -> float:
    """The reward that verifiers records for a trace whose last turn is the reply."""
    nodes = [MessageNode(message=message) for message in task.data.prompt]
    nodes.append(MessageNode(parent=len(nodes) - 1, message=vf.AssistantMessage(content=reply), sampled=True))
    told = TraceTask(type=type(task).__name__, data=task.data)
    trace = Trace(task=told, agent=AgentInfo(config=vf.AgentConfig()), nodes=nodes)
    asyncio.run(task.score(trace))
    return float(trace.reward)


@pytest.mark.parametrize("name", ["vqa-rad", "kit-medqa", "kit-pubmedqa"])
def test_rewards_are_the_grades_of_score_item_by_item(kit: Path, name: str) -> None:
    found = training_items(name, kit, limit=20)
    tasks = list(EvalTaskset(EvalTasksetConfig(task_name=name, data=str(kit), limit=20)))
    replies = replies_to(found.items)
    assert [task.key for task in tasks] == [f"{name}/{item.item_id}" for item in found.items]
    rewarded = [graded(task, reply) for task, reply in zip(tasks, replies, strict=True)]
    assert rewarded == scored(found, found.items, replies) == rewards(found.task, found.items, replies)
    assert len(set(rewarded)) > 1


def test_pictures_stand_before_the_question_and_the_answer_is_not_shown(kit: Path) -> None:
    found = training_items("vqa-rad", kit, limit=1)
    (task,) = EvalTaskset(EvalTasksetConfig(task_name="vqa-rad", data=str(kit), limit=1))
    picture, text = task.data.prompt[0].content
    assert text.text == found.items[0].prompt
    stored = io.BytesIO(base64.b64decode(picture.image_url.url.partition(",")[2]))
    with Image.open(stored) as shown, Image.open(found.items[0].files[0]) as file:
        assert shown.size == file.size


def test_a_data_row_survives_its_wire(kit: Path) -> None:
    (task,) = EvalTaskset(EvalTasksetConfig(task_name="vqa-rad", data=str(kit), limit=1))
    again = type(task)(type(task.data).model_validate_json(task.data.model_dump_json()), task.config)
    assert graded(again, task.data.reference) == 1.0 == graded(task, task.data.reference)


def test_a_held_out_side_is_refused(kit: Path) -> None:
    with pytest.raises(ValueError, match="side 'held-out' is held out for evaluation"):
        list(EvalTaskset(EvalTasksetConfig(task_name="vqa-rad", data=str(kit), side="held-out")))


def test_verifiers_finds_it_by_a_module_of_two_lines(
    tmp_path: Path, kit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "our_tasks.py").write_text(
        'from evals.environments.taskset import EvalTaskset\n__all__ = ["EvalTaskset"]\n', encoding="utf-8"
    )
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert taskset_class("our-tasks") is EvalTaskset
    config = EvalTasksetConfig(id="our-tasks", task_name="kit-medqa", data=str(kit), limit=3)
    assert len(list(load_taskset(config))) == 3
