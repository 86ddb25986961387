"""The recipe `contrastive`: one command from a table to an encoder that plain transformers loads, and its figures."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from transformers import AutoImageProcessor, SiglipModel
from typer.testing import CliRunner

import finetune.recipes.contrastive as recipe
from finetune.cli import app
from medgemma.checkpoints.adapters.merge import merge
from medsiglip.cli import app as medsiglip_app
from medsiglip.encoder import MedSigLIP
from medsiglip.nano import NANO_FOLDER
from tests.finetune.tables.test_examples import colour_table

FEW = ("learning_rate=2e-3", "pairs_per_step=8", "epochs=8", "evaluations=2")


def ran(table: Path, out: Path, *settings: str, status: int = 0, **options: str) -> str:
    arguments = ["run", "contrastive", "--table", str(table), "--out", str(out), "--quiet"]
    arguments += [f"--set={setting}" for setting in settings]
    arguments += [word for name, value in options.items() for word in (f"--{name}", value)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == status, (result.output, result.exception)
    return result.output + str(result.exception or "")


def figures(out: Path, name: str = "scores.json") -> dict[str, Any]:
    return dict(json.loads((out / name).read_text()))


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of the recipe on colours as classes, by lora."""
    folder = tmp_path_factory.mktemp("colours")
    ran(colour_table(folder / "data", rows=48), folder / "out", *FEW)
    return folder


def test_figures_stand_beside_the_base(colours: Path) -> None:
    found = figures(colours / "out")
    assert set(found) == {
        "picture to caption, recall@1", "caption to picture, recall@1", "caption to picture, recall@5",
        "caption to picture, recall@10", "zero-shot accuracy", "zero-shot macro AUROC",
    }  # fmt: skip
    accuracy = found["zero-shot accuracy"]
    assert accuracy["tuned"]["value"] == 1 and accuracy["tuned"]["n"] == accuracy["tuned"]["n_groups"] == 12
    assert accuracy["tuned minus base"]["value"] == accuracy["tuned"]["value"] - accuracy["base"]["value"]
    assert accuracy["tuned minus base"]["ci95"][0] > 0


def test_plain_transformers_reads_the_model_as_medsiglip_does(colours: Path) -> None:
    folder = colours / "out" / "model"
    plain, ours = SiglipModel.from_pretrained(folder).eval(), MedSigLIP.from_pretrained(folder, device="cpu")
    assert plain.dtype == torch.float32
    names, picture = ["red", "green", "blue"], colours / "data" / "1.png"
    pixels = AutoImageProcessor.from_pretrained(folder)(Image.open(picture), return_tensors="pt").pixel_values
    with torch.inference_mode():
        theirs = plain(pixel_values=pixels, input_ids=ours.text_inputs(names)["input_ids"]).logits_per_image[0]
    cosines = ours.encode_images(picture)[0] @ ours.encode_texts(names).T
    assert theirs.numpy() == pytest.approx(ours.logit_scale * cosines + ours.logit_bias, abs=0.3)  # resized otherwise
    assert names[int(theirs.argmax())] == "green"
    command = ["classify", str(picture), "--labels", ";".join(names), "--model", str(folder), "--quiet"]
    said = CliRunner().invoke(medsiglip_app, command)
    assert (
        said.exit_code == 0
        and max(said.output.splitlines()[1:4], key=lambda line: float(line.split(",")[3])).split(",")[2] == "green"
    )


def test_the_adapter_is_the_model_in_peft_and_merged(colours: Path) -> None:
    from peft import PeftModel

    whole = SiglipModel.from_pretrained(colours / "out" / "model").state_dict()
    base = SiglipModel.from_pretrained(NANO_FOLDER, dtype=torch.float32)
    changed = {name for name, value in base.state_dict().items() if not torch.equal(value, whole[name])}
    assert {name.split(".")[0] for name in changed} == {"vision_model", "text_model"}
    assert {name.split(".")[-2] for name in changed} == {"q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"}
    loaded = PeftModel.from_pretrained(base, colours / "out" / "adapter").merge_and_unload().state_dict()
    merge(NANO_FOLDER, colours / "out" / "adapter", colours / "merged", dtype="float32", overwrite=True)
    merged = SiglipModel.from_pretrained(colours / "merged", dtype=torch.float32).state_dict()
    for name, value in whole.items():
        torch.testing.assert_close(loaded[name], value, rtol=0, atol=1e-6)
        torch.testing.assert_close(merged[name], value, rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", ["last", "full"])
def test_what_else_may_be_trained(method: str, tmp_path: Path) -> None:
    table = colour_table(tmp_path / "data", rows=24)
    few = ("learning_rate=1e-3", "pairs_per_step=12", "epochs=1", "evaluations=1", "last_layers=1")
    ran(table, tmp_path / "out", *few, f"method={method}")
    whole = SiglipModel.from_pretrained(tmp_path / "out" / "model").state_dict()
    base = SiglipModel.from_pretrained(NANO_FOLDER, dtype=torch.float32).state_dict()
    changed = {name for name, value in base.items() if not torch.equal(value, whole[name])}
    assert {"logit_scale", "logit_bias"} <= changed and not (tmp_path / "out" / "adapter").exists()
    if method == "last":
        last = (
            "vision_model.encoder.layers.5.",
            "text_model.encoder.layers.3.",
            "vision_model.head.",
            "text_model.head.",
        )
        assert all(name.startswith((*last, "logit_")) for name in changed)
        assert all(any(name.startswith(start) for name in changed) for start in last)
    else:
        assert {
            "vision_model.embeddings.patch_embedding.weight",
            "text_model.embeddings.token_embedding.weight",
        } <= changed


def test_an_interrupted_run_goes_on_and_another_tables_is_refused(colours: Path, tmp_path: Path) -> None:
    table, out = colours / "data" / "T.csv", colours / "out"
    before = (out / "scores.json").read_bytes(), (out / "stages/tune/log.jsonl").read_bytes()
    (out / "scores.json").unlink()
    ran(table, out, *FEW)
    assert ((out / "scores.json").read_bytes(), (out / "stages/tune/log.jsonl").read_bytes()) == before
    lines = table.read_text().splitlines()
    (table.parent / "other.csv").write_text("\n".join([lines[0], *reversed(lines[1:])]) + "\n")
    assert "another run is here, with table " in ran(table.parent / "other.csv", out, *FEW, status=1)


def test_general_pairs_are_replayed_and_scored(tmp_path: Path) -> None:
    own, general = colour_table(tmp_path / "own", rows=24), colour_table(tmp_path / "general", rows=24)
    general.write_text(general.read_text().replace("label", "caption").replace("red", "a red square"))
    few = ("pairs_per_step=8", "epochs=1", "evaluations=1", f"general.table={general}", "general.weight=0.25")
    said = ran(own, tmp_path / "out", *few)
    assert "test, general: zero-shot accuracy" in said
    assert set(figures(tmp_path / "out", "general-scores.json")) >= {"caption to picture, recall@1"}
    config = (tmp_path / "out" / "config.yaml").read_text()
    assert config.count("sha256") == 2  # what the run has learned from: both tables


def test_findings_become_captions(tmp_path: Path) -> None:
    lines = ["file,red,bright,patient,split"]
    for number in range(32):
        red, bright = number % 2, number // 2 % 2
        colour = np.array((200, 40, 40) if red else (40, 40, 200)) + (50 if bright else -30)
        Image.fromarray(np.full((32, 32, 3), colour.clip(0, 255), np.uint8)).save(tmp_path / f"{number}.png")
        lines.append(f"{number}.png,{red},{bright},p{number},{('train', 'test')[number // 4 % 2]}")
    (tmp_path / "T.csv").write_text("\n".join(lines) + "\n")
    ran(tmp_path / "T.csv", tmp_path / "out", "pairs_per_step=8", "epochs=1", label="red,bright")
    assert {"zero-shot AUROC of red", "zero-shot AUROC of bright"} <= set(figures(tmp_path / "out"))


def test_what_is_refused(tmp_path: Path) -> None:
    table = colour_table(tmp_path / "data", broken=1)
    assert "rows of train have pictures that cannot be read: T.csv row 3" in ran(table, tmp_path / "a", status=1)
    table = colour_table(tmp_path / "data")
    assert "method" in ran(table, tmp_path / "b", "method=ia3", status=1)
    long = table.read_text().replace("red", "red " * 70)
    table.with_name("L.csv").write_text(long)
    said = ran(table.with_name("L.csv"), tmp_path / "c", status=1)
    assert "longer than the 64 tokens that the encoder reads: L.csv row 2, " in said and "long_captions=cut" in said
    table.with_name("N.csv").write_text("file,age\n" + "".join(f"{n}.png,{40.5 + n}\n" for n in range(24)))
    assert "age is of the kind number; expected texts, classes or findings" in ran(
        table.with_name("N.csv"), tmp_path / "d", status=1, label="age"
    )
    one = [line for line in table.read_text().splitlines() if "red" in line or ",train" not in line]
    table.with_name("O.csv").write_text("\n".join(one) + "\n")
    assert "the side train has 1 different captions" in ran(table.with_name("O.csv"), tmp_path / "e", status=1)
    said = ran(table, tmp_path / "f", "learning_rate=1e30", "method=full", "epochs=20", status=1)
    assert "the loss is" in said and "T.csv row" in said  # not finite: the rows are named


@pytest.mark.kit
@pytest.mark.slow
@pytest.mark.parametrize("labels", ["real", "shuffled"])
def test_fundus_pictures_gain_with_real_captions_alone(labels: str, kit: Path, tmp_path: Path) -> None:
    table = kit / "fundus-dr" / "labels.csv"
    settings = (f"labels={labels}", "template=fundus photograph, {}", "quick=true", "learning_rate=1e-3")
    ran(table, tmp_path / "out", *settings, files="file", label="label_text", group="patient_id")
    low = figures(tmp_path / "out")["zero-shot macro AUROC"]["tuned minus base"]["ci95"][0]
    assert low > 0 if labels == "real" else low <= 0


def test_quick_bounds_the_steps() -> None:
    values = yaml.safe_load(Path(recipe.__file__).with_suffix(".yaml").read_text())
    assert recipe.Config(**values | {"quick": True}).steps(100_000) == recipe.QUICK_STEPS
    assert recipe.Config(**values).steps(640) == 30
