"""Our folders in transformers 4.57: the same ids, logits and answers as here."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import medgemma.model
import medsiglip.checkpoints.weights
from medgemma import MedGemma
from medgemma.engine.vision import merge, project
from medgemma.prompts.chat import render, user_message
from medsiglip import MedSigLIP
from medsiglip.encoder import tokenize
from medsiglip.imaging import read_pictures
from tests import tiny

SCRIPT = Path(__file__).with_name("load_with_transformers.py")


def shipped(folder: Path) -> list[str]:
    return ["nano"] if any(folder.glob("*.safetensors")) else []


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("picture") / "picture.png"
    Image.fromarray(tiny.picture_array(0)).save(path)
    return path


def in_4_57(kind: str, folder: Path, picture: Path) -> dict[str, Any]:
    command = [os.environ["INTEROP_PYTHON"], str(SCRIPT), kind, str(folder), str(picture)]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert result["version"].startswith("4.57.")
    assert not any(result["report"].values()), result["report"]
    return result


@pytest.mark.parametrize("name", ["tiny", *shipped(medsiglip.checkpoints.folders.NANO_FOLDER)])
def test_encoder(name: str, picture: Path, tmp_path: Path) -> None:
    ours = MedSigLIP.from_pretrained(tiny.encoder_folder(tmp_path) if name == "tiny" else name, device="cpu")
    theirs = in_4_57("encoder", ours.folder, picture)
    texts = ["a chest X-ray, PA view", "lung"]
    assert theirs["ids"] == tokenize(ours.tokenizer, texts).tolist()
    cosines = torch.from_numpy(ours.encode_images([picture]) @ ours.encode_texts(texts).T)
    logits = cosines * ours.logit_scale + ours.logit_bias
    torch.testing.assert_close(torch.tensor(theirs["logits"]), logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["tiny", "tiny, 16 tokens", *shipped(medgemma.model.NANO_FOLDER)])
def test_decoder(name: str, picture: Path, tmp_path: Path) -> None:
    if name.startswith("tiny"):
        tiny.decoder_folder(tmp_path, image_tokens=16 if "16" in name else 4)
    ours = MedGemma.from_pretrained(tmp_path if name.startswith("tiny") else name, device="cpu")
    theirs = in_4_57("decoder", ours.folder, picture)
    question = "Which view is this, PA or AP?"
    prompt = render(ours.tokenizer, ours.image_tokens, [user_message(question, 1)])
    assert theirs["ids"] == list(prompt.input_ids)
    assert theirs["token_type_ids"] == list(prompt.token_type_ids)
    torch.testing.assert_close(torch.tensor(theirs["logits"]), logits_of(ours, prompt, picture), rtol=0, atol=1e-4)
    assert theirs["answer"] == ours.ask([picture], question, max_new_tokens=12)[0].text


@torch.inference_mode()
def logits_of(model: MedGemma, prompt: Any, picture: Path) -> torch.Tensor:
    """(T, vocabulary) of the prefill."""
    pixels = model.preprocessing.pixel_values([model.preprocessing.resized(p) for p in read_pictures(picture)])
    ids, types = torch.tensor([prompt.input_ids]), torch.tensor([prompt.token_type_ids])
    embeddings = merge(model.model, ids, types, project(model.model, pixels))
    hidden = model.model.model(inputs_embeds=embeddings, token_type_ids=types, attention_mask=torch.ones_like(ids))
    logits: torch.Tensor = model.model.lm_head(hidden.last_hidden_state)[0]
    return logits
