"""The anchor: an average of weights, low-rank updates as what they add; and its place in the policy's network."""

from pathlib import Path
from typing import Any

import pytest
import torch

from finetune.on_policy import Anchor, EngineSampler, Network
from tests.finetune.on_policy import small


def policy_of(checkpoint: Path, **section: Any) -> tuple[Any, Network]:
    gemma = small.gemma_of(checkpoint)
    small.adapted(gemma, **section)
    return gemma, Network(gemma.model, gemma.preprocessing, small.pictures())


def set_update(gemma: Any, step: int) -> None:
    """A scripted θ_t: both factors and the projector move."""
    generator = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for parameter in gemma.model.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.1, generator=generator)


def delta(layer: Any) -> torch.Tensor:
    found: torch.Tensor = layer.get_delta_weight("default").detach()
    return found


def test_the_average_is_that_of_the_weights_not_of_the_factors(checkpoint: Path) -> None:
    """anchor_T = (1-η)^T θ_0 + Σ η(1-η)^{T-t} θ_t; averaging A and B apart, as the negative control, is far off."""
    gemma, policy = policy_of(checkpoint)
    anchor, share, steps = Anchor(policy), 0.3, 5
    layer = gemma.model.model.language_model.layers[2].mlp.down_proj
    projector = next(p for n, p in gemma.model.named_parameters() if p.requires_grad and ".lora_" not in n)
    expected, whole = delta(layer) * (1 - share) ** steps, projector.detach().clone() * (1 - share) ** steps
    factors = [layer.lora_A["default"].weight.detach().clone(), layer.lora_B["default"].weight.detach().clone()]
    for step in range(1, steps + 1):
        set_update(gemma, step)
        for _ in range(2):  # asked twice in a step, as after a fault, it moves once
            anchor.follow(share, step)
        expected += share * (1 - share) ** (steps - step) * delta(layer)
        whole += share * (1 - share) ** (steps - step) * projector.detach()
        for factor, now in zip(factors, (layer.lora_A, layer.lora_B), strict=True):
            factor.lerp_(now["default"].weight.detach(), share)
    held = anchor.tensors()
    [key] = [name for name in held if name.endswith("layers.2.mlp.down_proj")]
    torch.testing.assert_close(held[key], expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(held[next(n for n in held if "projector" in n)], whole, atol=1e-6, rtol=1e-5)
    apart = layer.scaling["default"] * factors[1] @ factors[0]
    assert (apart - expected).norm() > 0.3 * expected.norm()


def test_in_its_place_the_network_computes_as_a_model_with_those_weights(checkpoint: Path) -> None:
    gemma, policy = policy_of(checkpoint)
    set_update(gemma, 1)
    anchor = Anchor(policy)  # a copy of the policy as it is
    rows, sampler = small.rows_of(gemma), EngineSampler(gemma, policy.pictures)
    copied = sampler.sample(rows, range(5), 2, small.SAMPLING)
    set_update(gemma, 2)
    sampler.weights_changed("moved")
    bits = small.weights(gemma)
    moved = sampler.sample(rows, range(5), 2, small.SAMPLING)
    anchored = sampler.sample(rows, range(5), 2, small.SAMPLING, of=anchor.model)
    again = sampler.sample(rows, range(5), 2, small.SAMPLING)
    assert [r.completion_ids for r in anchored] == [r.completion_ids for r in copied]
    assert [r.policy_version for r in anchored] == ["anchor"] * 10
    for ours, theirs in zip(anchored, copied, strict=True):
        assert ours.logprobs == pytest.approx(theirs.logprobs, abs=1e-5)
    assert [r.completion_ids for r in moved] != [r.completion_ids for r in copied]
    assert [r.completion_ids for r in again] == [r.completion_ids for r in moved]  # nothing of the anchor is left
    assert all(torch.equal(bits[name], value) for name, value in small.weights(gemma).items())


def test_a_fully_trained_policys_anchor_is_a_copy_of_its_weights(checkpoint: Path) -> None:
    gemma, policy = policy_of(checkpoint, method="full")
    anchor, before = Anchor(policy), small.weights(gemma)
    set_update(gemma, 1)
    anchor.follow(0.25, 1)
    after = small.weights(gemma)
    for name, value in anchor.tensors().items():
        if name != "steps":
            torch.testing.assert_close(value, 0.75 * before[name] + 0.25 * after[name])
    other = Anchor(policy)
    other.restore(anchor.tensors())
    assert other.steps == 1 and all(torch.equal(v, other.tensors()[n]) for n, v in anchor.tensors().items())


def test_weight_decomposition_has_no_average_of_updates(checkpoint: Path) -> None:
    gemma, policy = policy_of(checkpoint, method="dora", parts=("language",))
    with pytest.raises(ValueError, match="anchor: .* has weight decomposition .* train with method lora"):
        Anchor(policy)
