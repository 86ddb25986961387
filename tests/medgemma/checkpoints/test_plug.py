"""An encoder's tower in a new decoder: the same tensors, no head, the right sizes."""

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from finetune.recipes.nano.models import decoder_config, image_token_ids, new_encoder
from medgemma.checkpoints.plug import plug
from tests import tiny


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tiny.gemma_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def encoder() -> Any:
    torch.manual_seed(0)
    return tiny.lively(new_encoder(tiny.ENCODER))


def plugged(vision_model: Any, tokenizer: Any, image_tokens: int = 4) -> Any:
    config = decoder_config(tiny.DECODER, tokenizer)
    return plug(vision_model, config, mm_tokens_per_image=image_tokens, token_ids=image_token_ids(tokenizer))


def test_the_tower_is_the_encoders_tensor_by_tensor_without_its_head(encoder: Any, tokenizer: Any) -> None:
    tower = plugged(encoder.vision_model, tokenizer).model.vision_tower.state_dict()
    source = encoder.vision_model.state_dict()
    assert tower.keys() == {key for key in source if not key.startswith("head.")}
    assert len(source) > len(tower)
    assert all(torch.equal(tensor, source[key]) for key, tensor in tower.items())


def test_the_tower_is_a_copy(encoder: Any, tokenizer: Any) -> None:
    model = plugged(encoder.vision_model, tokenizer)
    with torch.no_grad():
        model.model.vision_tower.post_layernorm.weight.zero_()
    assert encoder.vision_model.post_layernorm.weight.abs().sum() > 0


@torch.inference_mode()
def test_the_tower_sees_what_the_encoder_sees(encoder: Any, tokenizer: Any) -> None:
    pixels = torch.rand(2, 3, 56, 56) * 2 - 1
    ours = plugged(encoder.vision_model, tokenizer).eval().model.vision_tower(pixel_values=pixels).last_hidden_state
    theirs = encoder.eval().vision_model(pixel_values=pixels).last_hidden_state
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    torch.manual_seed(5)
    other = plugged(new_encoder(tiny.ENCODER).vision_model, tokenizer).eval()  # control: another tower
    assert (other.model.vision_tower(pixel_values=pixels).last_hidden_state - theirs).abs().max() > 0.1


def test_a_siglip_vision_model_of_its_own_will_do(encoder: Any, tokenizer: Any, tmp_path: Path) -> None:
    from transformers import SiglipVisionModel

    encoder.save_pretrained(tmp_path)
    alone = SiglipVisionModel.from_pretrained(tmp_path, dtype=torch.float32)
    ours, theirs = (plugged(v, tokenizer).model.vision_tower for v in (alone, encoder.vision_model))
    for (key, tensor), other in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        assert torch.equal(tensor, other), key


@pytest.mark.parametrize("tokens", [3, 9, 64])
def test_a_pooling_that_does_not_come_out_even_is_refused(encoder: Any, tokenizer: Any, tokens: int) -> None:
    with pytest.raises(ValueError, match=f"a 4x4 patch grid cannot be pooled to {tokens} tokens"):
        plugged(encoder.vision_model, tokenizer, tokens)


def test_image_tokens_are_as_long_as_text_tokens(encoder: Any, tokenizer: Any) -> None:
    model = plugged(encoder.vision_model, tokenizer, 16)
    with torch.inference_mode():
        patches = model.model.vision_tower(pixel_values=torch.rand(4, 3, 56, 56)).last_hidden_state
        images = model.model.multi_modal_projector(patches)
        text = model.get_input_embeddings()(torch.arange(64))
    assert 0.5 < float(images.norm(dim=-1).mean() / text.norm(dim=-1).mean()) < 2


class Sizes(NamedTuple):
    """What decides the number of parameters."""

    vocabulary: int
    hidden: int
    layers: int
    mlp: int
    heads: int
    key_value_heads: int
    head_width: int
    vision: int
    vision_layers: int
    vision_mlp: int
    patches: int

    def parameters(self) -> int:
        h, d, v = self.hidden, self.head_width, self.vision
        layer = 2 * h * d * (self.heads + self.key_value_heads) + 3 * h * self.mlp + 4 * h + 2 * d
        text = self.vocabulary * h + self.layers * layer + h
        vision_layer = 4 * (v * v + v) + 2 * v * self.vision_mlp + self.vision_mlp + v + 4 * v
        tower = 3 * 14 * 14 * v + v + self.patches * v + self.vision_layers * vision_layer + 2 * v
        return text + tower + v * h + v


def test_parameter_counts(encoder: Any, tokenizer: Any) -> None:
    """The formula gives Google's published counts, and the tiny model's."""
    siglip = {"vision": 1152, "vision_layers": 27, "vision_mlp": 4304, "patches": 4096}
    assert Sizes(262208, 2560, 34, 10240, 8, 4, 256, **siglip).parameters() == 4_300_079_472
    assert Sizes(262208, 5376, 62, 21504, 32, 16, 128, **siglip).parameters() == 27_432_406_640
    model = plugged(encoder.vision_model, tokenizer)
    assert model.num_parameters() == Sizes(len(tokenizer), 32, 7, 64, 4, 2, 16, 16, 2, 32, 16).parameters()
