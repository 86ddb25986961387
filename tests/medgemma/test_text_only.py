"""Checkpoints of text alone: loaded, asked without pictures as plain transformers answers, and pictures refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from medgemma import MedGemma
from medgemma.checkpoints.layouts import save_in_hub_layout
from medgemma.cli import app
from medgemma.prompts.chat import user_message
from tests import tiny

QUESTIONS = ["Is there a pneumothorax?", "Name the organ, and describe all that is seen in this picture."]


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The decoder of the tiny model by itself, as medgemma-27b-text-it is one."""
    from transformers import Gemma3ForCausalLM, Gemma3ForConditionalGeneration

    whole = tiny.decoder_folder(tmp_path_factory.mktemp("whole"))
    folder = tmp_path_factory.mktemp("text")
    seeing = Gemma3ForConditionalGeneration.from_pretrained(whole, dtype=torch.float32)
    model = Gemma3ForCausalLM(seeing.config.text_config)
    model.model.load_state_dict(seeing.model.language_model.state_dict())
    model.tie_weights()
    model.generation_config = seeing.generation_config
    save_in_hub_layout(model, folder, torch.float32)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (whole / name).is_file():
            shutil.copyfile(whole / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def gemma(text_folder: Path) -> MedGemma:
    return MedGemma.from_pretrained(text_folder, device="cpu")


def test_answers_are_those_of_plain_transformers(gemma: MedGemma, text_folder: Path) -> None:
    from transformers import AutoTokenizer, Gemma3ForCausalLM

    assert type(gemma.model) is Gemma3ForCausalLM and gemma.preprocessing is None
    stock = Gemma3ForCausalLM.from_pretrained(text_folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(text_folder)
    for answer in gemma.ask([], QUESTIONS, max_new_tokens=24):
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": answer.question}],
            add_generation_prompt=True,
            return_dict=True,
            return_tensors="pt",
        )
        whole = stock.generate(**ids, do_sample=False, max_new_tokens=24)[0, ids["input_ids"].shape[1] :]
        assert answer.text == tokenizer.decode(whole, skip_special_tokens=True).strip() != ""
        assert (answer.tokens, answer.files, answer.resize) == (len(whole), (), "")


def test_pictures_are_refused(gemma: MedGemma) -> None:
    picture = tiny.picture_array(1)
    with pytest.raises(ValueError, match="a picture for a model of text alone; leave the pictures out, or ask a model"):
        gemma.ask([picture], QUESTIONS[0])
    with pytest.raises(ValueError, match="a picture for a model of text alone"):
        next(gemma.stream([user_message("And here?", 1)], [picture]))


def test_the_command_asks_without_files_and_refuses_them(text_folder: Path, tmp_path: Path) -> None:
    from PIL import Image

    asked = ["ask", "-q", QUESTIONS[0], "--model", str(text_folder), "--json", "--max-new-tokens", "8", "--quiet"]
    done = CliRunner().invoke(app, asked)
    answer = json.loads(done.stdout)
    assert done.exit_code == 0 and (answer["files"], answer["question"]) == ([], QUESTIONS[0]) and answer["answer"]
    Image.fromarray(tiny.picture_array(1)).save(tmp_path / "film.png")
    refused = CliRunner().invoke(app, [*asked, str(tmp_path / "film.png")])
    assert refused.exit_code == 1 and refused.stdout == ""
    assert "film.png" in refused.stderr and "a picture for a model of text alone" in refused.stderr


def test_int8_and_device_maps_know_it(text_folder: Path, gemma: MedGemma) -> None:
    [plain] = gemma.ask([], QUESTIONS[0], max_new_tokens=4)
    placed = MedGemma.from_pretrained(text_folder, device="cpu", device_map={"": "cpu"})
    assert placed.ask([], QUESTIONS[0], max_new_tokens=4)[0].text == plain.text
    smaller = MedGemma.from_pretrained(text_folder, device="cpu", quantize="int8")
    assert smaller.ask([], QUESTIONS[0], max_new_tokens=4)[0].tokens and smaller.fingerprint != gemma.fingerprint


def test_the_demo_needs_a_model_that_sees(text_folder: Path, tmp_path: Path) -> None:
    from medgemma.commands.demo import run_demo

    with pytest.raises(ValueError, match="of text alone, and the demo shows pictures; give a model that sees"):
        run_demo(tmp_path / "out", str(text_folder), "nano", "cpu", "float32", True)
    assert not (tmp_path / "out").exists()
