"""Losses of tuning on nano in every clothing: those of plain transformers on the same conversation and captions."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize

from finetune.collate import Example, collate
from finetune.losses.contrastive import sigmoid_loss
from finetune.supervised import batch_loss
from medgemma import MedGemma
from medgemma.engine.vision import patch_features
from medgemma.prompts.chat import render, user_message
from medgemma.prompts.special_tokens import turn_tokens
from medsiglip.encoder import MedSigLIP, tokenize
from medsiglip.imaging import open_pictures
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
