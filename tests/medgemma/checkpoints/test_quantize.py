"""Fewer bits: what int8 keeps and costs, on which layers, and beside adapters; nf4 as transformers is told it."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import Gemma3ForConditionalGeneration

from medgemma.checkpoints.layouts import hub_layout, read_checkpoint
from medgemma.checkpoints.loading import load_network
from medgemma.checkpoints.quantize import KERNEL_ROWS, Int8Linear, config_of_nf4, nf4_config, to_int8
from medgemma.engine import Engine, Request, Sampling
from medgemma.engine.adapters import Adapters
from tests import checkpoints
from tests.medgemma.engine import small

PEFT = Path(__file__).parents[1] / "peft"
DTYPES = [torch.float32, torch.bfloat16]


def linear(dtype: torch.dtype, inputs: int = 96) -> torch.nn.Linear:
    torch.manual_seed(0)
    return torch.nn.Linear(inputs, 50).to(dtype)


def dequantised(layer: Int8Linear) -> torch.Tensor:
    return layer.weight.detach().double() * layer.scale.detach().double()[:, None]


def test_weights_are_known_values() -> None:
    """Symmetric, one scale for each output: the largest weight of each row is ±127."""
    plain = torch.nn.Linear(4, 3, bias=False)
    with torch.no_grad():
        plain.weight.copy_(torch.tensor([[1.0, -0.5, 0.25, 0.0], [-254.0, 2.0, 1.1, 127.0], [0.0, 0.0, 0.0, 0.0]]))
    layer = Int8Linear(plain)
    assert layer.weight.tolist() == [[127, -64, 32, 0], [-127, 1, 1, 64], [0, 0, 0, 0]]
    assert layer.scale.tolist()[:2] == pytest.approx([1 / 127, 2.0]) and dequantised(layer)[2].tolist() == [0] * 4


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_weight_moves_by_more_than_half_a_step(dtype: torch.dtype) -> None:
    plain = linear(torch.float32)
    layer = Int8Linear(plain)
    assert bool(((dequantised(layer) - plain.weight).abs() <= layer.scale[:, None] / 2 * (1 + 1e-6)).all())
    assert Int8Linear(linear(dtype)).scale.dtype == dtype


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("inputs", [96, 70])
@pytest.mark.parametrize("rows", [1, 7, KERNEL_ROWS, KERNEL_ROWS + 1])
def test_every_way_gives_the_product_of_the_dequantised_weights(rows: int, inputs: int, dtype: torch.dtype) -> None:
    """Against float64: in the kernel's rows and beyond; of 70 inputs the kernel would read past the end."""
    plain = linear(dtype, inputs)
    layer = Int8Linear(plain)
    x = torch.randn(1, rows, inputs, generator=torch.Generator().manual_seed(1)).to(dtype)
    exact = functional.linear(x.double(), dequantised(layer), plain.bias.double())
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(layer(x).double(), exact, rtol=tolerance, atol=tolerance)
    assert layer(x).dtype == dtype and layer(x).shape == (1, rows, 50)


def test_only_the_decoders_linear_layers_change_and_memory_falls() -> None:
    model = small.model()
    before = {name: parameter for name, parameter in model.named_parameters()}
    to_int8(model)
    changed = {name for name, module in model.named_modules() if isinstance(module, Int8Linear)}
    ends = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    text = "model.language_model.layers."
    assert changed == {n.removesuffix(".weight") for n in before if n.startswith(text) and n[:-7].endswith(ends)}
    assert len(changed) == 7 * len(ends)
    for name, parameter in model.named_parameters():
        if name.rpartition(".")[0] not in changed:
            assert parameter is before[name]
    assert model.lm_head.weight is model.get_input_embeddings().weight
    sizes = {name: sum(p.nbytes for p in model.get_submodule(name).parameters()) for name in changed}
    assert all(size < 0.32 * before[f"{name}.weight"].nbytes for name, size in sizes.items())


def test_answers_are_those_of_the_rounded_weights() -> None:
    """Tokens of a plain float32 model that holds the dequantised weights, for every batching path."""
    model, rounded = small.model(), small.model()
    to_int8(model)
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, Int8Linear):
                rounded.get_submodule(name).weight.copy_(dequantised(module))
    prompts = [small.prompt(seed, 10 + 9 * seed) for seed in range(4)]
    requests = [Request(prompt, (), Sampling(max_new_tokens=12)) for prompt in prompts]
    done = Engine(model, stop_ids=frozenset()).generate(requests)
    expected = [small.greedy_of_transformers(rounded, prompt, (), 12) for prompt in prompts]
    assert [list(samples[0].token_ids) for samples in done] == expected
    plain = [small.greedy_of_transformers(small.model(), prompt, (), 12) for prompt in prompts]
    assert plain != expected  # rounding moves something, or this test would show nothing


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 3])
def test_compiled_is_eager(rows: int) -> None:
    model = small.model()
    to_int8(model)
    requests = [Request(small.prompt(seed, 20), (), Sampling(max_new_tokens=10)) for seed in range(rows)]
    eager, compiled = (Engine(model, stop_ids=frozenset(), compile_mode=mode) for mode in (None, "default"))
    assert [s[0].token_ids for s in compiled.generate(requests)] == [s[0].token_ids for s in eager.generate(requests)]


# Beside adapters


def test_an_adapter_works_on_int8_as_on_the_rounded_weights() -> None:
    model, rounded = (load_network(PEFT / "base", device="cpu", dtype="float32") for _ in range(2))
    to_int8(model)
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, Int8Linear):
                rounded.get_submodule(name).weight.copy_(dequantised(module))
    outputs = []
    for network in (model, rounded):
        adapters = Adapters(network)
        adapters.load("patterns", PEFT / "patterns")
        with adapters.using("patterns"):
            outputs.append(checkpoints.outputs(network))
    torch.testing.assert_close(*outputs, rtol=0, atol=2e-5)


def test_what_needs_whole_weights_is_refused_on_int8() -> None:
    model = load_network(PEFT / "base", device="cpu", quantize="int8")
    assert model.dtype == torch.bfloat16
    adapters = Adapters(model)
    with pytest.raises(ValueError, match=r"o_proj.weight with weight decomposition \(DoRA\), which is quantised here"):
        adapters.load("dora", PEFT / "dora")
    with pytest.raises(ValueError, match="tensor .*q_proj.weight is quantised; save the model as it was before"):
        hub_layout(model.state_dict())


# Refusals, and nf4


def test_unknown_kinds_and_dtypes_are_refused() -> None:
    with pytest.raises(ValueError, match="quantize 'int4': choose int8 or nf4"):
        load_network(PEFT / "base", device="cpu", quantize="int4")
    with pytest.raises(ValueError, match="dtype 'float64': choose float32 or bfloat16"):
        load_network(PEFT / "base", device="cpu", dtype="float64")


def test_nf4_without_cuda_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="nf4 needs a CUDA device, and there is none; take int8"):
        load_network(PEFT / "base", device="cpu", quantize="nf4")


def test_nf4_without_bitsandbytes_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ValueError, match="nf4 needs bitsandbytes; install it with `pip install"):
        nf4_config(torch.bfloat16, ["cuda"])


@pytest.mark.parametrize("avx512_bf16", [False, True])
def test_nf4_on_a_cpu_is_refused_whatever_the_cpu_offers(monkeypatch: pytest.MonkeyPatch, avx512_bf16: bool) -> None:
    """Beside a GPU too, and before a weight is read."""
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: avx512_bf16)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ValueError, match="nf4 needs all weights on CUDA devices, got cpu; choose cuda, or take int8"):
        load_network(PEFT / "base", device="cpu", quantize="nf4")
    spread = {"model.language_model": "cpu", "model.vision_tower": 0, "model.multi_modal_projector": "disk"}
    with pytest.raises(ValueError, match="nf4 needs all weights on CUDA devices, got cpu, disk; choose cuda"):
        load_network(PEFT / "base", device_map=spread, quantize="nf4")


def test_nf4_on_cuda_devices_is_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import bitsandbytes  # noqa: F401  # before CUDA is feigned, or its import would look for it

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert nf4_config(torch.bfloat16, ["cuda", "cuda:1", 0]).load_in_4bit


@pytest.mark.parametrize("avx512_bf16", [False, True])
def test_why_a_cpu_is_refused(monkeypatch: pytest.MonkeyPatch, avx512_bf16: bool) -> None:
    """bitsandbytes on a layer of 16 outputs: it runs, unless the CPU has AVX512-BF16."""
    from bitsandbytes.nn import LinearNF4

    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: avx512_bf16)
    layer = LinearNF4(64, 16, bias=False, compute_dtype=torch.bfloat16).to("cpu").eval()
    x = torch.ones(1, 64, dtype=torch.bfloat16)
    if avx512_bf16:
        with torch.no_grad(), pytest.raises(AssertionError, match="N must be divisible by block_n"):
            layer(x)
    else:
        assert layer(x).shape == (1, 16)


def test_nf4_is_of_the_decoders_linear_layers_alone() -> None:
    """By transformers' own rule for names, which changed between versions 4 and 5."""
    from transformers.quantizers.quantizers_utils import should_convert_module

    config: Any = config_of_nf4(torch.bfloat16)
    assert (config.bnb_4bit_quant_type, config.bnb_4bit_compute_dtype) == ("nf4", torch.bfloat16)
    for model in (small.model(), checkpoints.text_only()):
        linears = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
        converted = {name for name in linears if should_convert_module(name, config.llm_int8_skip_modules)}
        assert converted == {name for name in linears if "vision" not in name and "lm_head" not in name}
        assert len(converted) == 7 * 7


def test_nf4_is_loaded_strictly_and_takes_adapters(monkeypatch: pytest.MonkeyPatch) -> None:
    """By bitsandbytes' code for any CPU, which nothing but tests is meant to run: every tensor is found its place."""
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: False)
    plain = load_network(PEFT / "base", device="cpu", dtype="bfloat16")
    model = read_checkpoint(
        Gemma3ForConditionalGeneration,
        PEFT / "base",
        dtype=torch.bfloat16,
        device_map={"": "cpu"},
        quantization_config=config_of_nf4(torch.bfloat16),
    )
    packed = {name for name, module in model.named_modules() if type(module).__name__ == "Linear4bit"}
    assert len(packed) == 2 * 7 and all(name.startswith("model.language_model.layers.") for name in packed)
    bare = checkpoints.outputs(model).float()
    moved = (bare - checkpoints.outputs(plain).float()).abs().mean()
    assert 0 < moved < 0.5 * bare.abs().mean()
    adapters = Adapters(model)
    adapters.load("patterns", PEFT / "patterns")
    with adapters.using("patterns"):
        assert (checkpoints.outputs(model).float() - bare).abs().mean() > moved
    assert torch.equal(checkpoints.outputs(model).float(), bare)
