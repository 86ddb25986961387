"""Pictures among the text: transformers' features and logits, and images that see themselves both ways."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from medgemma import MedGemma
from medgemma.engine.vision import merge, project
from medgemma.prompts.chat import Prompt, render, user_message
from medsiglip.imaging import open_pictures


@pytest.fixture
def pixel_values(gemma: MedGemma, images: list[Any]) -> torch.Tensor:
    from medsiglip.imaging import Picture

    return gemma.preprocessing.pixel_values([gemma.preprocessing.resized(Picture.from_pil(i)) for i in images])


@pytest.fixture
def prompt(gemma: MedGemma) -> Prompt:
    return render(gemma.tokenizer, gemma.image_tokens, [user_message("Which view is this, PA or AP?", 2)])


def inputs(prompt: Prompt) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor([prompt.input_ids]), torch.tensor([prompt.token_type_ids])


@torch.inference_mode()
def hidden(gemma: MedGemma, embeddings: torch.Tensor, types: torch.Tensor | None) -> torch.Tensor:
    """(T, H) after all layers."""
    mask = torch.ones(embeddings.shape[:2], dtype=torch.long)
    states: torch.Tensor = gemma.model.model(
        inputs_embeds=embeddings, attention_mask=mask, token_type_ids=types
    ).last_hidden_state[0]
    return states


def test_pixel_values_are_the_processors(processor: Any, images: list[Any], pixel_values: torch.Tensor) -> None:
    stock = processor.image_processor(images, return_tensors="pt").pixel_values
    torch.testing.assert_close(pixel_values, stock, rtol=0, atol=1e-6)


@torch.inference_mode()
def test_projected_features_are_transformers(gemma: MedGemma, reference: Any, pixel_values: torch.Tensor) -> None:
    stock = reference.model.get_image_features(pixel_values=pixel_values).pooler_output
    torch.testing.assert_close(project(gemma.model, pixel_values), stock, rtol=0, atol=1e-5)


@torch.inference_mode()
def test_prefill_logits_are_transformers(
    gemma: MedGemma, reference: Any, pixel_values: torch.Tensor, prompt: Prompt
) -> None:
    ids, types = inputs(prompt)
    embeddings = merge(gemma.model, ids, types, project(gemma.model, pixel_values[:2]))
    ours = gemma.model.lm_head(hidden(gemma, embeddings, types))
    mask = torch.ones_like(ids)
    stock = reference(input_ids=ids, pixel_values=pixel_values[:2], token_type_ids=types, attention_mask=mask).logits
    torch.testing.assert_close(ours, stock[0], rtol=0, atol=1e-5)
    assert stock.std() > 0.1

    causal = gemma.model.lm_head(hidden(gemma, embeddings, None))  # control: what a lost mask would do
    assert (causal - stock[0]).abs().max() > 0.05
    swapped = merge(gemma.model, ids, types, project(gemma.model, pixel_values[:2].flip(0)))
    assert (gemma.model.lm_head(hidden(gemma, swapped, types)) - stock[0]).abs().max() > 0.05


@torch.inference_mode()
def test_merge_puts_features_in_unscaled_and_leaves_text_alone(gemma: MedGemma, prompt: Prompt) -> None:
    ids, types = inputs(prompt)
    features = torch.randn(2, gemma.image_tokens.tokens_per_image, gemma.model.config.text_config.hidden_size)
    merged = merge(gemma.model, ids, types, features)
    assert torch.equal(merged[types == 1], features.flatten(0, 1))
    assert torch.equal(merged[types == 0], gemma.model.get_input_embeddings()(ids)[types == 0])


def test_features_are_kept_under_what_makes_the_pixel_values(gemma: MedGemma, images: list[Any]) -> None:
    features = gemma.engine.features
    assert features is not None and gemma.preprocessing is not None
    (picture,) = open_pictures(images[:1])
    (first,) = features.of([picture], None)
    features.preprocessing = replace(gemma.preprocessing, mean=(0.1, 0.1, 0.1))
    (second,) = features.of([picture], None)
    assert (first - second).abs().max() > 1e-3


def test_another_number_of_images_than_of_slots_is_refused(gemma: MedGemma, prompt: Prompt) -> None:
    ids, types = inputs(prompt)
    per_image, width = gemma.image_tokens.tokens_per_image, gemma.model.config.text_config.hidden_size
    for count in (1, 3):
        with pytest.raises(ValueError, match=f"{2 * per_image} image tokens for {count * per_image} image features"):
            merge(gemma.model, ids, types, torch.zeros(count, per_image, width))


@torch.inference_mode()
def test_an_image_sees_itself_both_ways_and_text_stays_causal(
    gemma: MedGemma, pixel_values: torch.Tensor, prompt: Prompt
) -> None:
    ids, types = inputs(prompt)
    embeddings = merge(gemma.model, ids, types, project(gemma.model, pixel_values[:2]))
    slots = types[0].nonzero().flatten().tolist()
    first, last = slots[0], slots[gemma.image_tokens.tokens_per_image - 1]  # of the first image

    def moved(position: int, mask: torch.Tensor | None = types) -> torch.Tensor:
        """(T,) how far each state moves when the embedding at `position` does."""
        other = embeddings.clone()
        other[0, position] += 1.0
        return (hidden(gemma, other, mask) - hidden(gemma, embeddings, mask)).abs().amax(-1)

    assert moved(last)[first] > 1e-3  # an earlier image token sees a later one
    assert moved(last)[:first].max() == 0  # but the text before the image does not
    assert moved(slots[-1])[: last + 1].max() == 0  # nor does the image before
    text = slots[-1] + 4
    assert moved(text)[:text].max() == 0 and moved(text)[text:].max() > 1e-3
    assert moved(last, None)[first] == 0  # control: without token_type_ids the image is causal
