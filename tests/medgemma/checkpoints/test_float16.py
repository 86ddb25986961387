"""float16 without an overflow: beside float32, where plain float16 fails, and through training."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from finetune.adapters import AdapterSection, adapt
from finetune.collate import Example
from finetune.packing import Layout
from finetune.supervised import batch_loss
from medgemma import MedGemma
from medgemma.checkpoints.float16 import Float16Linear, to_float16
from medgemma.checkpoints.loading import load_network
from tests.tiny import decoder_folder, picture_array

QUESTIONS = {
    "pneumothorax": "Is there a pneumothorax?",
    "view": "Which view is this?",
    "organ": "Name the organ.",
    "modality": "Name the modality of this picture.",
    "finding": "What is the main finding?",
    "effusion": "Is there a pleural effusion?",
    "side": "On which side is the finding?",
    "letter": "Which tissue is this?\nA: benign lung tissue\nB: lung adenocarcinoma\nAnswer with the letter.",
    "skin": "Which lesion is this?",
    "describe": "Describe the picture in one sentence.",
}
TIE = 1e-2
"""In log-probability: float16 has 11 bits, so what is nearer than that may come out either way."""


def scaled(model: Any, factor: float) -> Any:
    """The same function with a residual stream and MLP outputs `factor` times as large, the head untied.

    Norms take the factor out of what they read, so only what flows between them grows.
    """
    model = deepcopy(model)
    text = getattr(model.model, "language_model", model.model)
    with torch.no_grad():
        model.lm_head.weight = nn.Parameter(model.lm_head.weight.clone())
        text.embed_tokens.weight.mul_(factor)
        if hasattr(model.model, "multi_modal_projector"):
            model.model.multi_modal_projector.mm_input_projection_weight.mul_(factor)
        for layer in text.layers:
            layer.mlp.down_proj.weight.mul_(factor)
            for norm in (layer.post_attention_layernorm, layer.post_feedforward_layernorm):
                norm.weight.add_(1).mul_(factor).sub_(1)
    return model


def on(gemma: MedGemma, model: Any) -> MedGemma:
    return replace(gemma, model=model, weights="of this test")


def told_apart(theirs: MedGemma, ours: MedGemma, picture: Any) -> dict[str, str]:
    """Where greedy tokens differ though float32 prefers its own by `TIE` or more, by the question's name."""
    questions, found = list(QUESTIONS.values()), {}
    both = (gemma.ask(picture, questions, max_new_tokens=12) for gemma in (theirs, ours))
    for name, said, other in zip(QUESTIONS, *both, strict=True):
        if said.text == other.text:
            continue
        ids = [theirs.tokenizer(answer.text, add_special_tokens=False).input_ids for answer in (said, other)]
        alike = next(n for n in range(len(ids[0]) + 1) if ids[0][:n] != ids[1][:n])
        choices = [theirs.tokenizer.decode(own[:alike]) for own in ids]
        one, two = theirs.score(picture, QUESTIONS[name], choices)
        if (apart := abs(one.logprob - two.logprob)) >= TIE:
            found[name] = f"{said.text!r} and {other.text!r}, {apart:.4f} apart"
    return found


@pytest.mark.parametrize(("shape", "factor"), [("nano", 1.0), pytest.param("hub", 2.0**13, marks=pytest.mark.slow)])
def test_100_named_prompts_say_what_float32_says(shapes: Callable[[str], Path], shape: str, factor: float) -> None:
    """On the Hub's shape with weights on which plain float16 overflows."""
    gemma = MedGemma.from_pretrained(shapes(shape), device="cpu", dtype="float32")
    theirs = on(gemma, scaled(gemma.model, factor))
    assert plain_float16_overflows(theirs) == (factor > 1)
    ours = on(gemma, to_float16(deepcopy(theirs.model), shape))
    pictures = {f"picture {seed}": picture_array(seed) for seed in range(10)}
    assert len(pictures) * len(QUESTIONS) == 100
    assert {name: apart for name, p in pictures.items() if (apart := told_apart(theirs, ours, p))} == {}


def test_a_checkpoint_is_loaded_so(shapes: Callable[[str], Path]) -> None:
    theirs, ours = (MedGemma.from_pretrained(shapes("nano"), device="cpu", dtype=d) for d in ("float32", "float16"))
    assert isinstance(ours.model.lm_head, Float16Linear) and ours.model.lm_head.weight.dtype == torch.float16
    assert told_apart(theirs, ours, picture_array(0)) == {}


def plain_float16_overflows(gemma: MedGemma) -> bool:
    ids = torch.tensor([gemma.tokenizer("Is there a pneumothorax on the left side?").input_ids])
    with torch.inference_mode():
        return not deepcopy(gemma.model).half()(input_ids=ids).logits.isfinite().all()


def test_what_overflows_in_plain_float16_does_not_here(shapes: Callable[[str], Path]) -> None:
    gemma = MedGemma.from_pretrained(shapes("nano"), device="cpu", dtype="float32")
    large = scaled(gemma.model, 2.0**13)
    ids = torch.tensor([gemma.tokenizer("Is there a pneumothorax on the left side?").input_ids])
    with torch.inference_mode():
        expected = large(input_ids=ids).logits
        assert (
            large.model.language_model(input_ids=ids, output_hidden_states=True).hidden_states[-2].abs().max() > 65_504
        )
        assert plain_float16_overflows(on(gemma, large))
        found = to_float16(deepcopy(large), "large")(input_ids=ids).logits
    assert found.dtype == torch.float32 and found.isfinite().all()
    torch.testing.assert_close(found.log_softmax(-1), expected.log_softmax(-1), atol=0.05, rtol=0.01)
    theirs, ours = on(gemma, large), on(gemma, to_float16(deepcopy(large), "large"))
    assert told_apart(theirs, ours, picture_array(1)) == {}


def batch(folder: Path) -> tuple[Any, torch.Tensor, MedGemma]:
    gemma = MedGemma.from_pretrained(folder, device="cpu", dtype="float32")
    image = gemma.model.config.image_token_id
    ids = gemma.tokenizer("The lungs are clear").input_ids
    example = Example((*ids, *[image] * gemma.model.config.mm_tokens_per_image), tuple(ids), (0,))
    [part] = Layout(gemma.tokenizer.pad_token_id, image, 64).parts([example])
    side = gemma.model.config.vision_config.image_size
    return part.drawn, torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)), gemma


def gradients(model: Any, drawn: Any, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    loss = batch_loss(model, drawn, 4.0, pixels)
    torch.autograd.backward(loss)
    return {"loss": loss.detach(), **{n: p.grad for n, p in model.named_parameters() if p.grad is not None}}


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("factor", [1.0, 2.0**12])
def test_gradients_are_those_of_float32(tmp_path: Path, method: Any, factor: float) -> None:
    drawn, pixels, gemma = batch(decoder_folder(tmp_path / "tiny"))
    section = AdapterSection(method=method, parts=("language", "tower"))
    found = []
    for is_ours in (False, True):
        model = scaled(gemma.model, factor)
        if is_ours:
            to_float16(model, "tiny", keeps_weights=method == "full")
        model.train()
        adapt(model, section, seed=0)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if ".lora_B." in name:  # at zero, lora_A would have no gradient
                    parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.02)
        found.append(gradients(model, drawn, pixels))
    theirs, ours = found
    assert theirs.keys() == ours.keys() and len(ours) > 20
    assert float(ours["loss"]) == pytest.approx(float(theirs["loss"]), rel=5e-3)
    largest = max(float(value.norm()) for name, value in theirs.items() if name != "loss")
    for name, value in theirs.items():
        apart = float((ours[name].float() - value).norm())
        # a bias of the keys has no gradient: what is there is rounding
        assert apart < 0.05 * float(value.norm()) + 1e-5 * largest, f"{name}: {apart} of {float(value.norm())}"


def test_gradients_that_float16_cannot_hold() -> None:
    """1e-9 is zero in float16, whose smallest number is 6e-8; here a row's own scale carries it."""
    layer = nn.Linear(8, 4, bias=False)
    expected = layer.weight.detach().sum(0) * 1e-9
    layer.__class__ = Float16Linear
    x = torch.ones(3, 8, requires_grad=True)
    torch.autograd.backward(layer(x).sum() * 1e-9)
    torch.testing.assert_close(x.grad, expected.expand(3, 8), rtol=5e-3, atol=1e-12)
    torch.testing.assert_close(layer.weight.grad, torch.full((4, 8), 3e-9), rtol=2e-3, atol=0)


@pytest.mark.parametrize("size", [1e-30, 1.0, 7e4, 1e30])
def test_inputs_of_any_size(size: float) -> None:
    layer = nn.Linear(6, 5)
    x = torch.randn(7, 6, generator=torch.Generator().manual_seed(2)) * size
    expected = layer(x)
    layer.__class__ = Float16Linear
    torch.testing.assert_close(layer(x), expected, rtol=5e-3, atol=3e-3 * size)
    assert layer(torch.zeros(1, 6)).equal(layer.bias[None])


def test_weights_that_could_overflow_are_refused_by_name(tmp_path: Path) -> None:
    model = load_network(decoder_folder(tmp_path / "tiny"), device="cpu", dtype="float32")
    with torch.no_grad():
        model.model.language_model.layers[3].mlp.down_proj.weight[0, 0] = 2e6
    message = r"model tiny: model.language_model.layers.3.mlp.down_proj: its products may reach 1.25e\+05, float16 ends"
    with pytest.raises(ValueError, match=message):
        to_float16(model, "tiny")


def test_4_bit_weights_are_made_whole_for_one_product() -> None:
    from bitsandbytes.nn import Linear4bit

    torch.manual_seed(0)
    whole = nn.Linear(64, 32, bias=False)
    packed = Linear4bit(64, 32, bias=False, compute_dtype=torch.float16, quant_type="nf4")
    packed.load_state_dict(whole.state_dict())
    packed = packed.to("cpu")
    x = torch.randn(3, 64, requires_grad=True)
    packed.weight = packed.weight.to("cpu")
    expected = packed(x.detach())
    packed.__class__ = Float16Linear
    product = packed(x * 1e6)
    torch.testing.assert_close(product / 1e6, expected, rtol=0.02, atol=0.02)
    torch.autograd.backward(product.sum())
    assert x.grad is not None and x.grad.isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantize": "int8"}, "dtype 'float16' does not go with quantize 'int8'"),
        ({"device_map": "auto"}, "dtype 'float16' does not go with a device map"),
    ],
)
def test_where_the_path_is_off_float16_is_refused(tmp_path: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_network(decoder_folder(tmp_path / "tiny"), device="cpu", dtype="float16", **options)
