"""The recipe `classify`: one command from a table to a classifier that plain transformers loads, and its figures."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification, SiglipModel
from typer.testing import CliRunner

from finetune.cli import app
from finetune.recipes.classify import Config
from finetune.tables.classification_scores import score
from medgemma.checkpoints.adapters.merge import merge
from medsiglip.nano import NANO_FOLDER
from tests.finetune.tables.test_examples import colour_table

FEW = ("head_steps=60", "evaluations=2")


def ran(table: Path, out: Path, *settings: str, status: int = 0, **options: str) -> str:
    arguments = ["run", "classify", "--table", str(table), "--out", str(out), "--quiet"]
    arguments += [f"--set={setting}" for setting in settings]
    arguments += [word for name, value in options.items() for word in (f"--{name}", value)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == status, (result.output, result.exception)
    return result.output + str(result.exception or "")


def figures(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "scores.json").read_text()))


def test_a_table_becomes_a_classifier_that_transformers_loads(tmp_path: Path) -> None:
    table = colour_table(tmp_path / "data", rows=48)
    said = ran(table, tmp_path / "out", *FEW)
    found = figures(tmp_path / "out")
    assert found["accuracy"]["value"] == 1.0 and found["accuracy"]["n"] == 12
    assert found["accuracy minus the commonest answer's"]["ci95"][0] > 0 and "better than the commonest" in said
    network = AutoModelForImageClassification.from_pretrained(tmp_path / "out" / "model").eval()
    pixels = AutoImageProcessor.from_pretrained(tmp_path / "out" / "model")
    with (tmp_path / "out" / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    for row in rows[:3]:
        picture = Image.open(tmp_path / "data" / f"{row['group'].removeprefix('p')}.png")
        with torch.inference_mode():
            theirs = network(**pixels(picture, return_tensors="pt")).logits.softmax(1)[0]
        assert network.config.id2label[int(theirs.argmax())] == row["right"]
        ours = [float(row[network.config.id2label[n]]) for n in range(3)]
        assert theirs.tolist() == pytest.approx(ours, abs=2e-3)  # theirs resizes by its own kernel


def test_findings_with_gaps_are_learned_each_by_itself(tmp_path: Path) -> None:
    """Red and bright are independent; a cell that says nothing is left out of the loss and of the figures."""
    lines = ["file,red,bright,patient,split"]
    for number in range(64):
        red, bright = number % 2, number // 2 % 2
        colour = np.array((200, 40, 40) if red else (40, 40, 200)) + (50 if bright else -30)
        noise = np.random.default_rng(number).integers(-8, 9, (32, 32, 3))
        Image.fromarray((colour + noise).clip(0, 255).astype(np.uint8)).save(tmp_path / f"{number}.png")
        gap = "" if number % 7 == 0 else str(bright)
        lines.append(f"{number}.png,{red},{gap},p{number},{('train', 'train', 'test', 'validation')[number // 4 % 4]}")
    (tmp_path / "T.csv").write_text("\n".join(lines) + "\n")
    ran(tmp_path / "T.csv", tmp_path / "out", *FEW, label="red,bright")
    found = figures(tmp_path / "out")
    assert found["auroc/red"]["value"] > 0.95 and found["auroc/bright"]["value"] > 0.95
    assert found["auroc/red"]["n"] == 16 > found["auroc/bright"]["n"]
    config = json.loads((tmp_path / "out" / "model" / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"


@pytest.mark.slow
@pytest.mark.parametrize("tower", ["lora", "last"])
def test_a_tuned_tower_is_in_the_model_and_its_adapter_merges(tower: str, tmp_path: Path) -> None:
    table = colour_table(tmp_path / "data", rows=24)
    said = ran(table, tmp_path / "out", *FEW, f"tower={tower}", "epochs=4", "rows_per_step=6", "pictures_a_part=4")
    assert "tower" in said and "classifier" in said
    network = AutoModelForImageClassification.from_pretrained(tmp_path / "out" / "model").eval()
    base = SiglipModel.from_pretrained(NANO_FOLDER, dtype=torch.float32)
    changed = {
        name
        for name, value in network.vision_model.state_dict().items()
        if not torch.equal(value, base.vision_model.state_dict()[name])
    }
    if tower == "last":
        assert changed and all(name.startswith(("encoder.layers.4.", "encoder.layers.5.")) for name in changed)
        return
    assert {name.rpartition(".")[0].rpartition(".")[2] for name in changed} == {
        "q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2",
    }  # fmt: skip
    merge(NANO_FOLDER, tmp_path / "out" / "adapter", tmp_path / "merged", dtype="float32")
    merged = SiglipModel.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    for name, value in network.vision_model.state_dict().items():
        torch.testing.assert_close(merged.vision_model.state_dict()[name], value, rtol=0, atol=1e-6)


def test_one_row_is_scored_and_compared_with_nothing(tmp_path: Path) -> None:
    right = torch.tensor([[0.0, 1.0]])
    *_, verdict = score(tmp_path / "scores.json", right, right, ["p"], right, ["a", "b"], "class")
    assert verdict == "not compared with the commonest answer: rows of one group have no interval"


def test_a_folder_keeps_to_one_table(tmp_path: Path) -> None:
    table = colour_table(tmp_path / "data")
    ran(table, tmp_path / "run", *FEW)
    before = (tmp_path / "run" / "scores.json").read_bytes()
    lines = table.read_text().splitlines()
    other = table.with_name("other.csv")
    other.write_text("\n".join([lines[0], *reversed(lines[1:])]) + "\n")
    assert "another run is here, with table " in ran(other, tmp_path / "run", *FEW, status=1)
    assert (tmp_path / "run" / "scores.json").read_bytes() == before
    ran(table, tmp_path / "run", *FEW)


def test_a_run_that_never_began_leaves_its_folder_free(tmp_path: Path) -> None:
    broken = colour_table(tmp_path / "data", broken=1)
    assert "cannot be read" in ran(broken, tmp_path / "run", status=1)
    ran(colour_table(tmp_path / "data"), tmp_path / "run", *FEW)


def test_what_is_refused(tmp_path: Path) -> None:
    table = colour_table(tmp_path / "data", broken=1)
    assert "rows of train have pictures that cannot be read: T.csv row 3" in ran(table, tmp_path / "a", status=1)
    colour_table(tmp_path / "data")
    (tmp_path / "data" / "N.csv").write_text("file,age\n" + "".join(f"{n}.png,{40.5 + n}\n" for n in range(24)))
    assert "age is of the kind number; expected classes" in ran(
        tmp_path / "data" / "N.csv", tmp_path / "b", status=1, label="age"
    )
    said = ran(table, tmp_path / "c", "head_learning_rate=1e38", "head_steps=30", status=1)
    assert "the loss is" in said and "T.csv row" in said  # not finite: the rows are named


@pytest.mark.kit
@pytest.mark.slow
@pytest.mark.parametrize("labels", ["real", "shuffled"])
def test_lung_tissue_beats_the_commonest_answer_with_real_labels_alone(labels: str, kit: Path, tmp_path: Path) -> None:
    folder, table = kit / "histo-lc25000-lung", tmp_path / "one picture a tile.csv"
    with (folder / "labels.csv").open() as file, table.open("w") as written:
        writer = csv.writer(written)
        writer.writerow(["file", "label_text", "patient_id"])
        rows = [row for row in csv.DictReader(file) if row["copy"] == "1"]
        writer.writerows([folder / row["file"], row["label_text"], row["patient_id"]] for row in rows)
    ran(table, tmp_path / "out", f"labels={labels}", files="file", label="label_text", group="patient_id")
    low = figures(tmp_path / "out")["accuracy minus the commonest answer's"]["ci95"][0]
    assert low > 0.3 if labels == "real" else low <= 0


def test_quick_bounds_the_steps() -> None:
    import yaml

    import finetune.recipes.classify as recipe

    values = yaml.safe_load(Path(recipe.__file__).with_suffix(".yaml").read_text())
    assert Config(**values | {"quick": True}).tower_steps(100_000) == recipe.QUICK_STEPS
    assert Config(**values).tower_steps(320) == 30
