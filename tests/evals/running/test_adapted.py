"""Tasks run on an adapter and on quantised weights: figures that cannot be taken for the base's."""

import json
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

import evals.cli
from tests import tiny


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.decoder_folder(tmp_path_factory.mktemp("decoder"))


def run(kit: Path, out: Path, decoder: Path, *options: str, task: str = "vqa-rad") -> Result:
    command = ["run", task, "--data", str(kit), "--out", str(out), "--model", str(decoder), "--quiet", *options]
    return CliRunner().invoke(evals.cli.app, command)


@pytest.mark.kit
@pytest.mark.parametrize("task", ["vqa-rad", "kit-mmlu-medical-likelihood"])
def test_an_adapted_model_is_another_model(kit: Path, decoder: Path, tmp_path: Path, task: str) -> None:
    adapter = tiny.turning_adapter(decoder, tmp_path / "turned")
    wanted = {"base": [], "adapted": ["--adapter", str(adapter)], "int8": ["--quantize", "int8"]}
    answers, models = {}, {}
    for name, options in wanted.items():
        out = tmp_path / name
        result = run(kit, out, decoder, "--limit", "3", "--max-new-tokens", "12", *options, task=task)
        assert result.exit_code == 0, result.output
        [file] = out.rglob("outputs.jsonl")
        outputs = [json.loads(line) for line in file.read_text().splitlines()]
        answers[name] = [(line["item_id"], line["text"], line["log_likelihoods"]) for line in outputs]
        models[name] = {line["model"] for line in outputs}
    assert answers["adapted"] != answers["base"]
    assert len(set.union(*models.values())) == 3 and all(len(of) == 1 for of in models.values())
    assert models["int8"] == {of.replace("+", "-int8+") for of in models["base"]}
    again = run(kit, tmp_path / "base", decoder, "--limit", "3", "--adapter", str(adapter), task=task)
    assert again.exit_code == 1 and "holds answers of the model" in again.output


@pytest.mark.kit
def test_what_an_adapter_cannot_change_is_not_run_with_it(kit: Path, decoder: Path, tmp_path: Path) -> None:
    result = run(kit, tmp_path, decoder, "--quantize", "int8", task="zero-shot-lung-histology")
    assert isinstance(result.exception, ValueError)
    assert "is for the encoder, which --adapter and --quantize do not change; run it without" in str(result.exception)
    result = run(kit, tmp_path, decoder, "--adapter", "x", "--endpoint", "http://127.0.0.1:9")
    assert "--adapter and --quantize are for weights here; start the server with them" in str(result.exception)
