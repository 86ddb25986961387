"""Anchors: the average that was asked for, of updates and not of their factors; the policy is left as it was."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from finetune.adapters import AdapterSection, adapt
from finetune.on_policy import Anchor, Network
from tests import checkpoints

RATE, STEPS = 0.25, 4


def lora(seed: int = 0) -> Any:
    return adapt(checkpoints.text_only(), AdapterSection(method="lora", rank=2), seed=seed)


def script(model: Any, step: int) -> None:
    """The weights of a step, whatever is trained."""
    drawn = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=drawn) * 0.3)


def average(values: Sequence[torch.Tensor]) -> torch.Tensor:
    """(1-η)^T θ_0 + Σ η (1-η)^(T-t) θ_t."""
    last = len(values) - 1
    weights = [(1 - RATE) ** last] + [RATE * (1 - RATE) ** (last - t) for t in range(1, last + 1)]
    return torch.stack([weight * value for weight, value in zip(weights, values, strict=True)]).sum(0)


def test_the_average_of_weights() -> None:
    model = checkpoints.text_only()
    anchor = Anchor(Network(model))
    seen = [model.lm_head.weight.detach().clone()]
    anchor.follow(RATE, 0)
    for step in range(1, STEPS):
        script(model, step)
        seen.append(model.lm_head.weight.detach().clone())
        anchor.follow(RATE, step)
    with anchor.model.running():
        torch.testing.assert_close(model.lm_head.weight, average(seen))
    torch.testing.assert_close(model.lm_head.weight, seen[-1], rtol=0, atol=0)


def test_an_adapters_average_is_one_of_updates_and_not_of_factors() -> None:
    adapted = lora()
    anchor = Anchor(Network(adapted.model))
    layer = adapted.model.model.layers[1].mlp.up_proj
    updates, factors = [torch.zeros(layer.get_base_layer().weight.shape)], []
    for step in range(1, STEPS):
        script(adapted.model, step)
        a, b = layer.lora_A["default"].weight.detach().clone(), layer.lora_B["default"].weight.detach().clone()
        updates.append(b @ a * layer.scaling["default"])
        factors.append((a, b))
        anchor.follow(RATE, step)
    (name,) = [name for name in anchor.tensors() if name.endswith("layers.1.mlp.up_proj")]
    torch.testing.assert_close(anchor.tensors()[name], average(updates))
    a, b = (average([torch.zeros_like(kind[0]), *kind]) for kind in zip(*factors, strict=True))
    assert (b @ a * layer.scaling["default"] - average(updates)).abs().max() > 0.01  # A and B apart


def test_the_network_is_the_anchor_while_it_runs_and_the_policy_after() -> None:
    adapted = lora()
    anchor = Anchor(Network(adapted.model))
    for step in (1, 2):
        script(adapted.model, step)
        anchor.follow(RATE, step)
    policy = checkpoints.outputs(adapted.model)
    with anchor.model.running():
        said = checkpoints.outputs(adapted.model)
    assert torch.equal(checkpoints.outputs(adapted.model), policy)
    merged = checkpoints.text_only()
    with torch.no_grad():
        for name, update in anchor.tensors().items():
            if name != "steps":
                merged.get_submodule(name).weight += update
    torch.testing.assert_close(said, checkpoints.outputs(merged), rtol=0, atol=2e-4)
    assert (said - policy).abs().max() > 0.1


def test_it_is_saved_and_comes_back() -> None:
    for adapted in (None, lora()):
        model = checkpoints.text_only() if adapted is None else adapted.model
        anchor = Anchor(Network(model))
        script(model, 1)
        anchor.follow(RATE, 1)
        kept = {name: value.clone() for name, value in anchor.tensors().items()}
        script(model, 2)
        anchor.follow(RATE, 2)
        assert any(not torch.equal(kept[name], value) for name, value in anchor.tensors().items())
        anchor.restore(kept)
        assert all(torch.equal(kept[name], value) for name, value in anchor.tensors().items())


def test_asked_twice_it_moves_once() -> None:
    model = checkpoints.text_only()
    anchor = Anchor(Network(model))
    script(model, 1)
    anchor.follow(RATE, 1)
    once = {name: value.clone() for name, value in anchor.tensors().items()}
    anchor.follow(RATE, 1)
    assert all(torch.equal(once[name], value) for name, value in anchor.tensors().items())


def test_what_is_no_product_of_factors_is_refused() -> None:
    adapted = adapt(checkpoints.text_only(), AdapterSection(method="dora", rank=2), seed=0)
    with pytest.raises(ValueError, match="has weight decomposition or is quantised; train with method lora"):
        Anchor(Network(adapted.model))
