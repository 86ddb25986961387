"""The recipe for visual questions: owners' layouts in miniature, sides, and what is learned."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from evals.outputs import Output
from evals.tasks.catalogue import task_named
from evals.tasks.task import ItemOptions
from finetune.configuration import load_config
from finetune.recipes import vqa
from finetune.tables import of_sets
from finetune.tables.learning import Lessons
from tests.evals.tasks.test_release_rows import vqa_rad
from tests.tiny import picture_array

YAML = Path(vqa.__file__).with_suffix(".yaml")


@pytest.fixture(scope="module")
def slake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train.json, validate.json and test.json with imgs/, as the owners' archive unpacks."""
    root = tmp_path_factory.mktemp("data") / "slake"
    number = 0
    for split, pictures in (("train", 6), ("validate", 2), ("test", 2)):
        rows = []
        for _ in range(pictures):
            number += 1
            folder = root / "imgs" / f"xmlab{number}"
            folder.mkdir(parents=True)
            Image.fromarray(picture_array(number, 64, 64)).save(folder / "source.jpg")
            of_picture = {"img_id": number, "img_name": f"xmlab{number}/source.jpg", "triple": ["vhead", "_", "_"]}
            asked = {"Is the lung normal?": ("No", "CLOSED"), "Which organ is shown?": ("Lung", "OPEN")}
            for question, (answer, answer_type) in asked.items():
                rows.append(
                    of_picture
                    | {
                        "question": question,
                        "answer": answer,
                        "answer_type": answer_type,
                        "qid": len(rows) + number * 10,
                    }
                    | {
                        "q_lang": "en",
                        "location": "Lung",
                        "modality": "CT",
                        "base_type": "vqa",
                        "content_type": "Organ",
                    }
                )
            rows.append(rows[-1] | {"q_lang": "zh", "qid": 900 + number, "question": "?", "answer": "."})
        (root / f"{split}.json").write_text(json.dumps(rows), encoding="utf-8")
    return root.parent


def test_what_is_learned_is_graded_as_right(slake: Path, kit: Path) -> None:
    for name, data, side in (("slake", slake, "train"), ("vqa-rad", kit, "train")):
        task = task_named(name)
        items = task.items(data, ItemOptions(side))[:60]
        assert items
        for item in items:
            graded = task.grade(item, Output(item.item_id, "", "", text=vqa.short_answer(item)))
            assert set(graded.values()) <= {1.0}, (name, graded)


def test_slakes_answer_stands_where_its_question_asks_for_it(slake: Path) -> None:
    answers = {vqa.short_answer(item) for item in task_named("slake").items(slake, ItemOptions("train"))}
    assert answers == {"Final Answer: No", "Final Answer: Lung"}


def test_the_whole_vqa_rad_is_read_in_one_split() -> None:
    task = task_named("vqa-rad-release")
    assert vqa._sided(task, "balanced").sides == ("test", "train", "validation")
    assert vqa._sided(task, "official").sides == ("test", "train")
    with pytest.raises(ValueError, match="task vqa-rad-release: got side 'even-test'"):
        vqa._sided(task, "even")


@pytest.mark.parametrize(("split", "learned"), [("balanced", "vqa-rad-8"), ("official", "vqa-rad-7")])
def test_the_owners_vqa_rad_is_learned_in_that_reading(
    split: str, learned: str, slake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vqa_rad(tmp_path)
    (tmp_path / "slake").symlink_to(slake / "slake")
    seen: list[Lessons] = []
    caught: Any = lambda config, lessons, *rest: seen.append(lessons)  # noqa: E731
    monkeypatch.setattr(of_sets, "learn", caught)
    config = load_config(vqa.Config, [YAML], [f"vqa_rad_split={split}"])
    vqa.run(config, tmp_path, tmp_path / "out", quiet=True)
    of_rad = [item.item_id for item in seen[0].train if item.item_id.startswith("vqa-rad")]
    assert of_rad == [learned] and len(seen[0].train) == 13 and seen[0].task.name == "vqa-rad-release"


def test_no_set_is_said_with_what_to_do(tmp_path: Path) -> None:
    config = load_config(vqa.Config, [YAML], [])
    with pytest.raises(ValueError, match="holds none of vqa-rad-full, slake, vqa-rad; `medgemma-data show NAME` says"):
        vqa.run(config, tmp_path, tmp_path / "out", quiet=True)


@pytest.mark.slow
def test_the_owners_layout_runs_to_a_table(
    slake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shapes: Callable[[str], Path]
) -> None:
    """On what transformers saves of the Hub's shape."""
    monkeypatch.setattr(of_sets, "QUICK_ITEMS", 4)
    settings = ["quick=true", "device=cpu", "epochs=1", "evaluations=1", "evaluated_rows=2", "merge=false"]
    settings.append(f"model={shapes('hub saved')}")
    vqa.run(load_config(vqa.Config, [YAML], settings), slake, tmp_path / "out", quiet=True)
    rows = json.loads((tmp_path / "out" / "scores" / "before_after.json").read_text())["rows"]
    assert {row["task"] for row in rows} == {"slake"} and {"token_f1_squad"} <= {row["metric"] for row in rows}
    [f1] = [row for row in rows if row["metric"] == "token_f1_squad"]
    assert f1["baselines"].keys() == {"commonest answer"} and f1["difference"]["n"] == 4
