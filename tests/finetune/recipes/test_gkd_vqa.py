"""The recipe gkd_vqa on the kit: a student, its arms, their figures; interrupted, it ends with the same weights."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from evals.running.options import RunOptions
from finetune.algorithms.gkd import GKD
from finetune.cli import app
from finetune.recipes import gkd_vqa
from medgemma import MedGemma

SHORT = (
    "start_steps=3",
    "steps=2",
    "prompts_per_step=4",
    "evaluations=1",
    "max_new_tokens=4",
    "device=cpu",
    "arms=[sft,sequence-kd,gkd]",
)


@pytest.fixture(autouse=True)
def few_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gkd_vqa, "HELD_OUT", RunOptions(side="held-out", limit=6))
    few = gkd_vqa.vqa_rad.items
    monkeypatch.setattr(gkd_vqa.vqa_rad, "items", lambda *options: few(*options)[:24])


def ran(kit: Path, out: Path, *settings: str) -> str:
    arguments = ["run", "gkd_vqa", "--data", str(kit), "--out", str(out), "--quiet"]
    result = CliRunner().invoke(app, [*arguments, *(f"--set={setting}" for setting in (*SHORT, *settings))])
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


@pytest.mark.slow
def test_three_arms_from_one_start_and_a_run_that_was_interrupted(
    kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran(kit, tmp_path / "whole")
    lines = [json.loads(line) for line in (tmp_path / "whole" / "runs.jsonl").read_text().splitlines()]
    assert [line["arm"] for line in lines] == ["sft", "sequence-kd", "gkd"]
    starts = [line["curve"]["same_as_teacher"][0] for line in lines]
    assert [point["step"] for point in starts] == [0, 0, 0] and starts[0] == starts[1] == starts[2]
    assert set(lines[2]["minus"]) == {"start", "sft", "sequence-kd"}
    assert (tmp_path / "whole" / "curves" / "closed_accuracy.svg").is_file()
    student = MedGemma.from_pretrained(tmp_path / "whole" / "gkd", device="cpu")
    sizes = student.model.config.text_config
    assert (sizes.num_hidden_layers, sizes.hidden_size, sizes.vocab_size) == (2, 128, 3072)

    sampled = GKD._sampled

    def stopped(self: GKD, round: Any) -> Any:
        if round.number == 1:
            raise KeyboardInterrupt
        return sampled(self, round)

    monkeypatch.setattr(GKD, "_sampled", stopped)
    arguments = ["run", "gkd_vqa", "--data", str(kit), "--out", str(tmp_path / "again"), "--quiet"]
    CliRunner().invoke(app, [*arguments, *(f"--set={setting}" for setting in SHORT)])
    assert not (tmp_path / "again" / "gkd").exists()
    monkeypatch.setattr(GKD, "_sampled", sampled)
    ran(kit, tmp_path / "again")
    for arm in ("sft", "sequence-kd", "gkd"):
        ends = [(tmp_path / run / arm / "model.safetensors").read_bytes() for run in ("whole", "again")]
        assert ends[0] == ends[1], arm
    assert ends[0] != (tmp_path / "whole" / "sft" / "model.safetensors").read_bytes()  # control: arms differ


@pytest.mark.slow
def test_a_teacher_of_the_hubs_shape(
    kit: Path, tmp_path: Path, shapes: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gkd_vqa, "HELD_OUT", RunOptions(side="held-out", limit=2))
    folder = shapes("hub")
    ran(kit, tmp_path / "out", f"teacher={folder}", "arms=[gkd]", "start_steps=1", "steps=1", "prompts_per_step=2")
    [line] = (tmp_path / "out" / "runs.jsonl").read_text().splitlines()
    assert json.loads(line)["arm"] == "gkd"
    student = MedGemma.from_pretrained(tmp_path / "out" / "gkd", device="cpu")
    assert student.model.config.text_config.vocab_size == 262_208
    assert student.ask([], "Is it?", max_new_tokens=2)[0].tokens


def test_every_setting_is_in_the_yaml_and_checked() -> None:
    from finetune.configuration import load_config

    file = Path(gkd_vqa.__file__).with_suffix(".yaml")
    config = load_config(gkd_vqa.Config, [file], [])
    assert config.student.layers == 2 and config.student.width == 128
    with pytest.raises(ValueError, match="student_fraction"):
        load_config(gkd_vqa.Config, [file], ["student_fraction=2"])
    with pytest.raises(ValueError, match="student: .*width must be a multiple of heads, and heads of key_value_heads"):
        load_config(gkd_vqa.Config, [file], ["student.heads=3"])
    with pytest.raises(ValueError, match="arms"):
        load_config(gkd_vqa.Config, [file], ["arms=[distil]"])
