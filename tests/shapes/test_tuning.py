"""Losses of tuning on nano in every clothing: those of plain transformers on the same conversation and captions."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from torch.nn.functional import normalize
from transformers import SiglipModel
from typer.testing import CliRunner

from finetune.cli import app
from finetune.collate import Conversations, Example, collate
from finetune.losses.completion import IGNORED
from finetune.losses.contrastive import sigmoid_loss
from finetune.packing import collate_packed, packed_rows
from finetune.supervised import batch_loss
from medgemma import MedGemma
from medgemma.engine.vision import patch_features
from medgemma.prompts.chat import render, user_message
from medgemma.prompts.special_tokens import turn_tokens
from medsiglip.encoder import MedSigLIP, tokenize
from medsiglip.imaging import open_pictures
from tests.finetune.tables.test_examples import colour_table
from tests.shapes.conftest import ENCODERS, Plain, question


def test_a_step_of_supervised_tuning(gemma: MedGemma, plain: Plain, films: list[Path]) -> None:
    asked, answer = question("Is this an X-ray?", films[0]), "yes"
    prompt = render(gemma.tokenizer, gemma.image_tokens, [user_message("Is this an X-ray?", 1)])
    end = turn_tokens(gemma.tokenizer).end
    ids = (*gemma.tokenizer(answer, add_special_tokens=False).input_ids, end)
    example = Example(prompt.input_ids, ids, (0,))
    config = plain.model.config
    batch = collate([example], pad_id=0, image_id=config.image_token_id, max_tokens=256)
    inputs = plain.inputs(asked)
    with torch.no_grad():
        stock = plain.model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            token_type_ids=batch.token_type_ids,
            pixel_values=inputs["pixel_values"],
            labels=batch.labels,
        ).loss
        patches = patch_features(plain.model, inputs["pixel_values"])
        ours = batch_loss(plain.model, batch, len(ids), patches=patches)
    assert batch.input_ids[0, : len(prompt.input_ids)].tolist() == inputs["input_ids"][0].tolist()
    assert ours.item() == pytest.approx(stock.item(), rel=1e-4)


def test_labels_token_by_token(gemma: MedGemma) -> None:
    """System turn, pictures, questions, an earlier reply and padding carry none; the reply and its end carry theirs."""
    tokenizer, config = gemma.tokenizer, gemma.model.config
    messages = [
        {"role": "system", "content": "You are a radiologist."},
        user_message("Which modality is this?", 1),
        {"role": "assistant", "content": "An X-ray."},
        user_message("Is this an X-ray?", 1),
    ]
    conversations = Conversations.of(tokenizer, gemma.image_tokens)
    asked = conversations.example(messages, "yes, a chest film", [4, 7], "t.csv:2")
    short = conversations.example([user_message("Is it?", 0)], "no")
    batch = collate([asked, short], pad_id=tokenizer.pad_token_id, image_id=config.image_token_id, max_tokens=256)
    end = turn_tokens(tokenizer).end
    said = [*tokenizer("yes, a chest film", add_special_tokens=False).input_ids, end]
    learned = batch.labels[0] != IGNORED
    prompt, reply = batch.input_ids[0][~learned], batch.input_ids[0][learned]
    assert reply[: len(said)].tolist() == said and tokenizer.decode(reply[len(said) :]) == "\n"
    assert batch.labels[0][learned].tolist() == reply.tolist()
    assert learned.tolist() == [False] * len(prompt) + [True] * len(reply)  # no more, no less
    text = tokenizer.decode(prompt)
    for given in ("You are a radiologist.", "Which modality is this?", "An X-ray.", "Is this an X-ray?"):
        assert given in text
    assert text.endswith("<start_of_turn>model\n")
    slots = batch.input_ids == config.image_token_id
    assert slots.sum() == 2 * config.mm_tokens_per_image and (batch.labels[slots] == IGNORED).all()
    assert torch.equal(batch.token_type_ids, slots.long())
    for marker in (config.boi_token_index, config.eoi_token_index):
        assert (batch.labels[batch.input_ids == marker] == IGNORED).all()
    padding = batch.attention_mask[1] == 0
    assert padding.sum() > 0 and (batch.labels[1][padding] == IGNORED).all()
    assert int(batch.labels[1].ne(IGNORED).sum()) == len(short.completion_ids)
    packed = collate_packed(
        packed_rows([asked, short], 512), pad_id=tokenizer.pad_token_id, image_id=config.image_token_id
    )
    assert packed.targets.tolist() == batch.targets.tolist() and packed.pictures == (4, 7)
    whole = tokenizer.apply_chat_template(
        [*messages, {"role": "assistant", "content": "yes, a chest film"}], tokenize=False
    )
    pictures = gemma.image_tokens.expanded()
    ids = tokenizer(whole.replace(gemma.image_tokens.begin, pictures), add_special_tokens=False).input_ids
    assert [*asked.prompt_ids, *asked.completion_ids] == ids  # the whole conversation, in one piece


@pytest.mark.kit
@pytest.mark.parametrize("shape", ENCODERS)
def test_a_step_of_contrastive_tuning(shape: str, shapes: Callable[[str], Path], films: list[Path]) -> None:
    encoder, captions = MedSigLIP.from_pretrained(shapes(shape), device="cpu"), ["chest X-ray", "fundus"]
    ids = tokenize(encoder.tokenizer, captions)
    resized = [encoder.preprocessing.resized(picture) for picture in open_pictures(films)]
    values = encoder.preprocessing.pixel_values(resized)
    with torch.no_grad():
        stock = encoder.model(input_ids=ids, pixel_values=values, return_loss=True).loss
        images = normalize(encoder.model.get_image_features(pixel_values=values).pooler_output)
        texts = normalize(encoder.model.get_text_features(input_ids=ids).pooler_output)
        ours = sigmoid_loss(images, texts, encoder.model.logit_scale.exp(), encoder.model.logit_bias)
    assert ours.item() == pytest.approx(stock.item(), rel=1e-4)


@pytest.mark.kit
@pytest.mark.parametrize("shape", ENCODERS)
def test_a_run_of_contrastive_keeps_the_shape(shape: str, shapes: Callable[[str], Path], tmp_path: Path) -> None:
    """What it writes plain transformers reads as ours does, and only layers of the towers differ from the base."""
    table = colour_table(tmp_path, rows=12)
    # not in the folder that is searched for patient data: a tokenizer's vocabulary holds names
    with TemporaryDirectory() as out:
        arguments = ["run", "contrastive", "--table", str(table), "--out", out, "--quiet"]
        settings = [f"model={shapes(shape)}", "pairs_per_step=6", "epochs=1", "evaluations=1"]
        done = CliRunner().invoke(app, [*arguments, *(f"--set={setting}" for setting in settings)])
        assert done.exit_code == 0, (done.output, done.exception)
        plain = SiglipModel.from_pretrained(f"{out}/model").eval()
        ours = MedSigLIP.from_pretrained(f"{out}/model", device="cpu")
        vectors, ids = ours.encode_texts(["red", "a blue square"]), ours.text_inputs(["red", "a blue square"])
    with torch.inference_mode():
        theirs = normalize(plain.get_text_features(**ids).pooler_output).numpy()
    assert vectors == pytest.approx(theirs, abs=1e-5)
    before = MedSigLIP.from_pretrained(shapes(shape), device="cpu", dtype="float32").model.state_dict()
    changed = [name for name, value in ours.model.state_dict().items() if not torch.equal(value, before[name])]
    assert changed and all(".encoder.layers." in name for name in changed)
