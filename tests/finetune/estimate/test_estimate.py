"""Memory and time before anything is fetched: exact counts of the released sizes, and small cases by hand."""

import json
from pathlib import Path

import pytest
import torch
from transformers import Gemma3ForConditionalGeneration
from typer.testing import CliRunner

from finetune.adapters import AdapterSection, adapt
from finetune.cli import app
from finetune.estimate.estimate import RELEASED, Work, config_of, estimate, network_of, report
from finetune.estimate.trace import Count

SMALL = Work(tokens=64, pictures=1, answer_tokens=8, examples=2, examples_per_step=2)
PARAMETERS = {
    "google/medgemma-4b-it": 4_300_079_472,  # what `model.safetensors.index.json` of the Hub adds up to
    "google/medgemma-27b-text-it": 27_009_346_304,
    "google/medgemma-27b-it": 27_009_346_304 + 416_866_032 + 6_194_304,
}


@pytest.mark.parametrize("model", PARAMETERS)
def test_released_models_are_counted_exactly(model: str) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in network_of(config_of(model)).parameters()) == PARAMETERS[model]


def test_counts_of_nano_are_those_of_the_network_that_trains() -> None:
    found = estimate("nano", AdapterSection(rank=4), SMALL, where="cpu", checkpointed=False)
    network = Gemma3ForConditionalGeneration(config_of("nano"))
    whole = sum(p.numel() for p in network.parameters())
    adapt(network, AdapterSection(rank=4), seed=0)
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    assert (found.parameters, found.trained) == (whole, trained)
    assert found.gradients_bytes == 4 * trained and found.moments_bytes == 8 * trained
    buffers = sum(b.numel() * b.element_size() for b in network.buffers())
    assert found.weights_bytes == pytest.approx(4 * (whole + trained) + buffers, abs=4096)


def test_live_bytes_by_hand() -> None:
    """y keeps x (for the weight's gradient); z keeps y; the peak of the backward pass has both and the gradients."""
    with torch.device("meta"), Count() as count:
        weight = torch.empty(100, 100, requires_grad=True)  # 40,000 bytes
        x = torch.empty(50, 100)  # 20,000
        y = x @ weight  # 20,000
        assert count.now == count.peak == 80_000
        del x
        assert count.now == 80_000  # autograd holds it
        z = y.sin()
        assert count.now == 100_000
        del y, z
        assert count.now == 40_000
    assert count.flops == 2 * 50 * 100 * 100


def test_checkpointed_activations_take_less_memory_and_more_work() -> None:
    plain, again = (estimate("nano", AdapterSection(), SMALL, where="cpu", checkpointed=c) for c in (False, True))
    assert again.working_bytes < 0.6 * plain.working_bytes
    assert 1.1 * plain.flops_per_step < again.flops_per_step < 2 * plain.flops_per_step


def test_methods_in_order_of_memory() -> None:
    def of(method: str) -> int:
        section = AdapterSection.model_validate({"method": method})
        return estimate("nano", section, SMALL, where="cuda", checkpointed=False).peak_bytes

    assert of("qlora") < of("lora") < of("dora") < of("full")


def test_more_parts_take_the_same_memory_and_twice_the_work() -> None:
    once = estimate("nano", AdapterSection(), SMALL, where="cpu", checkpointed=False)
    step = Work(64, 1, 8, examples=2, examples_per_step=4)
    twice = estimate("nano", AdapterSection(), step, where="cpu", checkpointed=False)
    assert twice.flops_per_step == 2 * once.flops_per_step
    assert once.peak_bytes <= twice.peak_bytes <= once.peak_bytes + once.gradients_bytes


def test_products_of_text_by_hand(tmp_path: Path) -> None:
    """A decoder trained in full: forward, and twice that backward, of every matrix; attention is 3.5 of its forward."""
    text = {
        "model_type": "gemma3_text", "vocab_size": 128, "hidden_size": 32, "intermediate_size": 64,
        "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "pad_token_id": 0,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(text))
    work = Work(tokens=24, pictures=0, answer_tokens=4, examples=1, examples_per_step=1)
    found = estimate(str(tmp_path), AdapterSection(method="full"), work, where="cpu", checkpointed=False)
    matrices = 32 * 32 + 2 * 32 * 16 + 32 * 32 + 3 * 32 * 64
    attention = 4 * 24 * 24 * 2 * 16
    head = 4 * 32 * 128
    rotary = found.flops_per_step - (3 * 2 * (24 * matrices + head) + 3.5 * attention)
    assert 0 <= rotary < 0.01 * found.flops_per_step
    assert found.parameters == 128 * 32 + matrices + 4 * 32 + 2 * 16 + 32


@pytest.mark.parametrize(
    ("model", "work", "message"),
    [
        ("google/medgemma-27b-text-it", SMALL, "sees no pictures; give --pictures 0"),
        ("google/medgemma-4b-it", SMALL, "1 pictures and the answer have 264 tokens; give at least so many --tokens"),
        ("nano", Work(64, 1, 8, 4, 2), "4 examples at once in a step of 2; give a larger step"),
    ],
)
def test_work_that_does_not_fit_is_refused(model: str, work: Work, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        estimate(model, AdapterSection(), work, where="cpu", checkpointed=False)


def test_the_command_says_memory_and_time_as_an_estimate() -> None:
    asked = ["estimate", "nano", "--tokens", "64", "--examples-per-step", "2", "--device", "cpu", "--tflops", "1"]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    assert "nano: lora of language, 393,216 of 7,176,832 parameters" in done.stdout
    assert "most at once" in done.stdout and "an estimate: 30% of 1 TFLOP/s" in done.stdout
    assert "1 of 2 examples at once, 64 tokens and 1 pictures each" in done.stdout


@pytest.mark.parametrize("option", ["--examples=0", "--pictures=-1", "--answer-tokens=0", "--tokens=-8"])
def test_counts_that_are_none_are_refused_by_the_option(option: str) -> None:
    done = CliRunner().invoke(app, ["estimate", "nano", option])
    assert done.exit_code == 2 and f"Invalid value for '{option.partition('=')[0]}'" in done.output


def test_figures_of_the_device_are_checked() -> None:
    found = estimate("nano", AdapterSection(), SMALL, where="cpu", checkpointed=False)
    with pytest.raises(ValueError, match="give figures above 0, and a share of 1 at most"):
        report("nano", AdapterSection(), SMALL, found, "cpu", tflops=100, utilisation=30)


def test_released_names_have_configs() -> None:
    assert {config_of(f"google/{name}").model_type for name in RELEASED} == {"gemma3", "gemma3_text"}
