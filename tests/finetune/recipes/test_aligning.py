"""The recipes bond_answers and medqa_grpo on the kit: an adapter and its curves; interrupted, the same bits."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from typer.testing import CliRunner

from evals.tasks.catalogue import task_named
from evals.tasks.task import ItemOptions
from finetune.algorithms.j_bond import JBond
from finetune.cli import app
from finetune.configuration import load_config
from finetune.recipes import bond_answers, medqa_grpo
from finetune.rewards.texts import word_overlap
from finetune.tables import aligning
from medgemma import MedGemma

SHORT = (
    "steps=2",
    "prompts_per_step=3",
    "evaluations=1",
    "max_new_tokens=4",
    "device=cpu",
    "best_of=[1,2]",
    "merge=false",
)


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few questions, and no scores of tasks: those are `before_and_after`'s, which has tests of its own."""
    align = aligning.align

    def short(config: Any, questions: aligning.Questions, out: Path, quiet: bool, score: Any = None) -> None:
        some = {"train": questions.train[:12], "held_out": questions.held_out[:4]}
        align(config, replace(questions, **some), out, quiet)

    for recipe in (bond_answers, medqa_grpo):
        monkeypatch.setattr(recipe, "align", short)


def ran(recipe: str, kit: Path, out: Path, *settings: str) -> Any:
    arguments = ["run", recipe, "--data", str(kit), "--out", str(out), "--quiet"]
    return CliRunner().invoke(app, [*arguments, *(f"--set={setting}" for setting in (*SHORT, *settings))])


@pytest.mark.slow
def test_bond_answers_and_a_run_that_was_interrupted(
    kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = ran("bond_answers", kit, tmp_path / "whole")
    assert whole.exit_code == 0, (whole.output, whole.exception)
    stage = tmp_path / "whole" / "stages" / "align"
    sides = [json.loads(line)["side"] for line in (stage / "reward_kl.jsonl").read_text().splitlines()]
    assert sides.count("train") == 2 and "held-out" in sides
    points = json.loads((tmp_path / "whole" / "best_of_n.json").read_text())
    assert [point["n"] for point in points] == [1, 2] and points[0]["kl_bound"] == 0
    assert points[1]["reward"] >= points[0]["reward"]
    assert "best of N of the start" in (tmp_path / "whole" / "reward_kl.svg").read_text()
    examples = JBond.examples

    def stopped(self: JBond, round: Any) -> Any:
        if round.number == 1:
            raise KeyboardInterrupt
        return examples(self, round)

    monkeypatch.setattr(JBond, "examples", stopped)
    ran("bond_answers", kit, tmp_path / "again")
    assert not (tmp_path / "again" / "adapter").exists()
    monkeypatch.setattr(JBond, "examples", examples)
    assert ran("bond_answers", kit, tmp_path / "again").exit_code == 0
    ends = [load_file(tmp_path / run / "adapter" / "adapter_model.safetensors") for run in ("whole", "again")]
    assert ends[0].keys() == ends[1].keys() and all((ends[0][name] == ends[1][name]).all() for name in ends[0])


@pytest.mark.slow
def test_bond_answers_on_what_transformers_saves_of_the_hubs_shape(
    kit: Path, tmp_path: Path, shapes: Callable[[str], Path]
) -> None:
    folder = shapes("hub saved")
    done = ran("bond_answers", kit, tmp_path / "out", f"model={folder}", "steps=1", "prompts_per_step=2", "best_of=[]")
    assert done.exit_code == 0, (done.output, done.exception)
    gemma = MedGemma.from_pretrained(folder, device="cpu", adapter=tmp_path / "out" / "adapter")
    assert gemma.ask([], "Is it?", max_new_tokens=2)[0].tokens


@pytest.mark.slow
def test_medqa_grpo(kit: Path, tmp_path: Path) -> None:
    done = ran("medqa_grpo", kit, tmp_path / "out", "algorithm.num_samples=2")
    assert done.exit_code == 0, (done.output, done.exception)
    assert (tmp_path / "out" / "adapter" / "adapter_config.json").is_file()
    said = json.loads((tmp_path / "out" / "stages" / "align" / "reward_kl.jsonl").read_text().splitlines()[0])
    assert {"reward.right_letter", "reward.any_letter", "kl"} <= said.keys()


def test_rewards_of_the_recipes(kit: Path) -> None:
    task = task_named("kit-medqa")
    item = task.items(kit, ItemOptions("train"))[0]
    wrong = next(letter for letter in "ABCD" if letter != item.reference)
    said = [[{"role": "assistant", "content": text}] for text in (item.reference, wrong, "nothing of it")]
    assert medqa_grpo.right_letter(task)(completions=said, item=[item] * 3) == [1.0, 0.0, 0.0]
    assert medqa_grpo.any_letter(task)(completions=said, item=[item] * 3) == [1.0, 1.0, 0.0]
    assert bond_answers.exact_match(["The left lung.", "left"], ["left lung"] * 2) == [1.0, 0.0]
    assert word_overlap(["left"], ["left lung"]) == [pytest.approx(2 / 3)]


@pytest.mark.parametrize("recipe", [bond_answers, medqa_grpo])
def test_every_setting_is_in_the_yaml_and_checked(recipe: Any) -> None:
    file = Path(recipe.__file__).with_suffix(".yaml")
    assert load_config(recipe.Config, [file], ["algorithm.name=bond", "algorithm.n=8"]).algorithm.n == 8
    with pytest.raises(ValueError, match="name"):
        load_config(recipe.Config, [file], ["algorithm.name=ppo"])
