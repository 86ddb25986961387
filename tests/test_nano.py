"""The shipped nano pair: plain transformers agrees with us, its files are small, its cards are what was measured."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from evals.tasks.vqa_rad import prompt
from medgemma.engine import Request, Sampling
from medgemma.model import MedGemma
from medgemma.nano import NANO_FOLDER as DECODER_FOLDER
from medgemma.prompts.chat import user_message
from medsiglip.encoder import MedSigLIP
from medsiglip.imaging import Picture
from medsiglip.nano import NANO_FOLDER as ENCODER_FOLDER
from tests.nano import needs_nano

pytestmark = needs_nano
TEXTS = ["chest X-ray", "H&E image: lung adenocarcinoma", "MRI of the breast"]
QUESTIONS = ["Which imaging modality is this?", "Is there a pleural effusion?", "What is the most likely diagnosis?"]


@pytest.fixture(scope="module")
def pictures() -> list[Picture]:
    rng = np.random.default_rng(0)
    smooth = [np.kron(rng.integers(0, 256, (6, 8, 3)), np.ones((20, 30, 1))).astype(np.uint8) for _ in range(3)]
    return [Picture.from_array(pixels) for pixels in smooth]


def test_encoder_equals_plain_transformers(pictures: list[Picture]) -> None:
    from transformers import SiglipImageProcessorPil, SiglipModel, SiglipTokenizer

    model = SiglipModel.from_pretrained(ENCODER_FOLDER, dtype=torch.float32).eval()
    images = [Image.fromarray(picture.pixels) for picture in pictures]
    values = SiglipImageProcessorPil.from_pretrained(ENCODER_FOLDER)(images, return_tensors="pt").pixel_values
    tokenizer = SiglipTokenizer.from_pretrained(ENCODER_FOLDER)
    inputs = tokenizer(TEXTS, padding="max_length", max_length=64, return_tensors="pt")
    assert set(inputs) == {"input_ids"}  # a mask would be passed on by transformers' pipelines
    ids = inputs.input_ids
    with torch.inference_mode():
        theirs = model(input_ids=ids, pixel_values=values)
    ours = MedSigLIP.from_pretrained("nano", device="cpu")
    vectors, text_vectors = ours.encode_images(pictures), ours.encode_texts(TEXTS)
    torch.testing.assert_close(torch.tensor(vectors), theirs.image_embeds, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.tensor(text_vectors), theirs.text_embeds, rtol=1e-4, atol=1e-5)
    logits = ours.logit_scale * vectors @ text_vectors.T + ours.logit_bias
    torch.testing.assert_close(torch.tensor(logits), theirs.logits_per_image, rtol=1e-4, atol=1e-4)


def test_decoder_equals_plain_transformers(pictures: list[Picture]) -> None:
    from transformers import AutoProcessor, Gemma3ForConditionalGeneration

    model = Gemma3ForConditionalGeneration.from_pretrained(DECODER_FOLDER, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(DECODER_FOLDER)
    ours = MedGemma.from_pretrained("nano", device="cpu")
    for picture in pictures:
        answers = ours.ask(picture, [prompt(q) for q in QUESTIONS], max_new_tokens=12)
        for answer in answers:
            image = {"type": "image", "image": Image.fromarray(picture.pixels)}
            inputs = processor.apply_chat_template(
                [{"role": "user", "content": [image, {"type": "text", "text": answer.question}]}],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
            )
            length = inputs["input_ids"].shape[1]
            with torch.inference_mode():
                tokens = model.generate(**inputs, max_new_tokens=12, do_sample=False)[0, length:]
                whole = {**inputs, **_lengthened(inputs, tokens)}
                logits = model(**whole).logits[0, length - 1 : -1]
            theirs = logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0]
            asked = Request(
                ours.prompt([user_message(answer.question, 1)], 12), (picture,), Sampling(max_new_tokens=12)
            )
            ((completion,),) = ours.engine.generate([asked])
            torch.testing.assert_close(torch.tensor(completion.logprobs), theirs, rtol=1e-4, atol=1e-4)
            assert processor.tokenizer.decode(tokens, skip_special_tokens=True).strip() == answer.text
            assert len(tokens) == answer.tokens


def _lengthened(inputs: Any, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    """The prompt with the answer behind it, for one forward pass."""
    more = tokens[None]
    return {
        "input_ids": torch.cat([inputs["input_ids"], more], 1),
        "attention_mask": torch.cat([inputs["attention_mask"], torch.ones_like(more)], 1),
        "token_type_ids": torch.cat([inputs["token_type_ids"], torch.zeros_like(more)], 1),
    }


@pytest.mark.parametrize("folder", [ENCODER_FOLDER, DECODER_FOLDER], ids=["encoder", "decoder"])
def test_files_are_small_safe_and_say_nothing_of_where_they_were_made(folder: Path) -> None:
    weights = list(folder.glob("*.safetensors"))
    assert len(weights) == 1 and weights[0].stat().st_size <= 15_000_000
    assert not [path for path in folder.iterdir() if path.suffix in {".bin", ".pt", ".pkl"}]
    for path in folder.iterdir():
        if path.is_file():
            assert str(Path(__file__).parents[2]).encode() not in path.read_bytes(), path.name


@pytest.mark.parametrize("folder", [ENCODER_FOLDER, DECODER_FOLDER], ids=["encoder", "decoder"])
def test_the_card_shows_what_was_measured_on_these_weights(folder: Path) -> None:
    from medsiglip.checkpoints.identity import fingerprint

    measured = json.loads((folder / "measurements.json").read_text(encoding="utf-8"))
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert measured["fingerprint"] == fingerprint(folder)
    assert measured["fingerprint"] in card
    assert len(measured["figures"]) >= 4
    for row in measured["figures"]:
        low, high = row["ci95"]
        about = f"| {row['task']} | {row['metric']} | {row['side']} |"
        shown = f"{about} {row['value']:.3f} | {low:.3f} to {high:.3f} | {row['n']} |"
        assert shown in card
    assert "not a medical device" in card


@pytest.mark.kit
@pytest.mark.slow
def test_the_figures_come_again(kit: Path, tmp_path: Path) -> None:
    """The encoder's whole zero-shot table, measured anew on this machine."""
    from evals.results.scores import score_dir
    from evals.running.options import RunOptions
    from evals.running.runner import run_task
    from evals.tasks.catalogue import TASKS
    from finetune.recipes.nano.measure import ENCODER_TASKS

    encoder = MedSigLIP.from_pretrained("nano", device="cpu")
    names = ENCODER_TASKS
    for name in names:
        run_task(TASKS[name], RunOptions(), kit, tmp_path, encoder, "nano", "test")
    scores = score_dir(tmp_path)
    rows = json.loads((ENCODER_FOLDER / "measurements.json").read_text(encoding="utf-8"))["figures"]
    again = [row for row in rows if row["side"] == "held-out" and row["metric"] in scores.get(row["task"], {})]
    assert {row["task"] for row in again} == set(names)
    for row in again:  # one flipped picture is allowed: another processor sums in another order
        assert scores[row["task"]][row["metric"]]["value"] == pytest.approx(row["value"], abs=1.5 / row["n"])
