"""Memory and time of tuning a Gemma 3, by the shapes of its config: no weights are read, and no GPU is needed.

Letters: B rows, T tokens, P pictures, K learned tokens, S side in pixels.
"""

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from finetune.adapters import AdapterSection, adapt, output_weight
from finetune.configuration import load_config
from finetune.estimate.trace import Count, Kernels
from finetune.losses.completion import tile_cross_entropy
from finetune.losses.tiles import TILE_BYTES, TILE_BYTES_ELSEWHERE, tiled_loss
from medgemma.checkpoints.reference import CONFIGS
from medgemma.engine.vision import project
from medgemma.nano import NANO_FOLDER
from medsiglip.checkpoints.folders import read_json, resolve_model

RELEASED = {
    "medgemma-4b-it": "medgemma-4b",
    "medgemma-4b-pt": "medgemma-4b",
    "medgemma-1.5-4b-it": "medgemma-4b",
    "medgemma-27b-it": "medgemma-27b",
    "medgemma-27b-text-it": "medgemma-27b-text",
}
"""A Hub id's last part to the config that this package knows without its files."""
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Of a weight in 4 bits: a byte of scale for 64 of them, and for 256 such bytes one number (double quantisation)."""


@dataclass(frozen=True)
class Work:
    """What goes through the model in one step."""

    tokens: int
    """Of an example, its pictures' and its answer's included."""
    pictures: int
    """Of an example."""
    answer_tokens: int
    """Of an example, which carry the loss."""
    examples: int
    """At once: a part of the step."""
    examples_per_step: int


class Estimate(NamedTuple):
    """What a run takes on one device."""

    parameters: int
    trained: int
    weights_bytes: int
    gradients_bytes: int
    moments_bytes: int
    working_bytes: int
    """The most that activations, their gradients and the loss take beyond the three above."""
    flops_per_step: float

    @property
    def peak_bytes(self) -> int:
        """The most at any time."""
        return self.weights_bytes + self.gradients_bytes + self.moments_bytes + self.working_bytes


def estimate(model: str, section: AdapterSection, work: Work, *, where: str, checkpointed: bool) -> Estimate:
    """Trace one step on the meta device.

    Weights are held as `answers` holds them: float32 in full and on a CPU, bfloat16 on a GPU, 4 bits by qlora.

    Args:
        model: a released Hub id, "nano", a local folder, or a Hub id whose files are here; only config.json is read.
        section: what is trained.
        work: of a step.
        where: cpu computes in float32; cuda in bfloat16, with the optimizer in one kernel.
        checkpointed: activations are computed again in the backward pass.

    Raises:
        ValueError: the model has no such part, sees no pictures, or the tokens do not hold the pictures.
    """
    if where not in ("cuda", "cpu"):
        raise ValueError(f"device {where!r}: choose cuda or cpu")
    config = config_of(model)
    _refuse_too_many_pictures(config, work, model)
    kept_in = torch.float32 if where == "cpu" or section.method == "full" else torch.bfloat16
    count, computed = Count(), torch.bfloat16 if where == "cuda" else None
    with count:
        with torch.device("meta"):
            network = network_of(config).to(kept_in)
            parameters = sum(p.numel() for p in network.parameters())
            four_bit = _linear_weights(network) if section.method == "qlora" else []
            adapted = adapt(network, _traced(section), seed=0)
        if checkpointed:
            _checkpoint(network, computed)
        network.train()
        trained = [p for p in network.parameters() if p.requires_grad]
        weights = count.peak = count.now
        with torch.device("meta"), Kernels(computed):
            loss = _loss(network, work, where)
        forward = count.peak - weights
        torch.autograd.backward(loss)
        backward = count.peak - weights
    gradients = sum(p.numel() * p.element_size() for p in trained)
    parts = -(-work.examples_per_step // work.examples)
    highest = max(backward, forward + gradients if parts > 1 else 0, gradients + _of_the_update(trained, where))
    if four_bit:
        weights -= round(sum(p.numel() for p in four_bit) * (kept_in.itemsize - NF4_BYTES))
        highest += max(p.numel() for p in four_bit) * kept_in.itemsize  # one layer at a time is made whole
    del adapted
    return Estimate(
        parameters=parameters,
        trained=sum(p.numel() for p in trained),
        weights_bytes=weights,
        gradients_bytes=gradients,
        moments_bytes=2 * gradients,
        working_bytes=highest - gradients,
        flops_per_step=float(parts * count.flops),
    )


def parts_of(method: str, parts: str, rank: int) -> AdapterSection:
    """What is trained, from a command's words.

    Raises:
        ValueError: a method or part is unknown; the choices are named.
    """
    values = {"method": method, "parts": [part.strip() for part in parts.split(",")], "rank": rank}
    return load_config(AdapterSection, [], [f"{key}={value}" for key, value in values.items()])


def report(
    model: str, section: AdapterSection, work: Work, found: Estimate, where: str, tflops: float, utilisation: float
) -> str:
    """The estimate as lines.

    Args:
        model: as it was given.
        section: what is trained.
        work: of a step.
        found: its estimate.
        where: cuda or cpu.
        tflops: the device's own figure, in 10¹² FLOP/s.
        utilisation: the share of it that training reaches, 0..1.

    Raises:
        ValueError: a figure is not above 0.
    """
    if not (tflops > 0 and 0 < utilisation <= 1):
        raise ValueError(f"{tflops} TFLOP/s at {utilisation:.0%}: give figures above 0, and a share of 1 at most")
    seconds = found.flops_per_step / (tflops * 1e12 * utilisation)
    sizes = {
        "weights": found.weights_bytes,
        "gradients": found.gradients_bytes,
        "moments": found.moments_bytes,
        "activations, loss": found.working_bytes,
        "most at once": found.peak_bytes,
    }
    lines = [
        f"{model}: {section.method} of {', '.join(section.parts)}, "
        f"{found.trained:,} of {found.parameters:,} parameters",
        f"{work.examples} of {work.examples_per_step} examples at once, "
        f"{work.tokens} tokens and {work.pictures} pictures each",
        *(f"{name:20}{size / 2**30:10.2f} GiB" for name, size in sizes.items()),
        *(["  and what CUDA takes for itself, about 0.5 to 1 GiB"] if where == "cuda" else []),
        f"{'a step':20}{found.flops_per_step / 1e12:10.1f} TFLOP",
        f"{'time':20}{seconds:10.2f} s a step, {seconds / 3.6:.2f} h a thousand",
        f"  an estimate: {utilisation:.0%} of {tflops:g} TFLOP/s; reading pictures and evaluations come on top",
    ]
    return "\n".join(lines)


def config_of(model: str) -> Any:
    """The transformers config of a released Hub id, "nano", a folder, or a Hub id whose files are here.

    Raises:
        ValueError: there is no such model, or it is no Gemma 3.
    """
    from transformers import Gemma3Config, Gemma3TextConfig

    released = RELEASED.get(model.removeprefix("google/"))
    if released is not None:
        values = dict(CONFIGS[released])
    else:
        without_weights = (Path(model) / "config.json").is_file()
        values = read_json((Path(model) if without_weights else resolve_model(model, NANO_FOLDER)) / "config.json")
    kinds = {"gemma3": Gemma3Config, "gemma3_text": Gemma3TextConfig}
    if values.get("model_type") not in kinds:
        raise ValueError(f"model {model}: config.json says model_type {values.get('model_type')!r}, expected a Gemma 3")
    return kinds[values["model_type"]].from_dict(values)


def network_of(config: Any) -> Any:
    """The network of a config, with random weights; on the meta device without any."""
    from transformers import Gemma3ForCausalLM, Gemma3ForConditionalGeneration

    return (Gemma3ForConditionalGeneration if hasattr(config, "vision_config") else Gemma3ForCausalLM)(config)


def _refuse_too_many_pictures(config: Any, work: Work, model: str) -> None:
    if work.pictures and not hasattr(config, "vision_config"):
        raise ValueError(f"model {model} sees no pictures; give --pictures 0")
    taken = work.answer_tokens + (work.pictures * config.mm_tokens_per_image if work.pictures else 0)
    if taken > work.tokens:
        raise ValueError(f"{work.pictures} pictures and the answer have {taken} tokens; give at least so many --tokens")
    if work.examples > work.examples_per_step:
        raise ValueError(f"{work.examples} examples at once in a step of {work.examples_per_step}; give a larger step")


def _traced(section: AdapterSection) -> AdapterSection:
    """4-bit weights have the same updates as whole ones."""
    return section.model_copy(update={"method": "lora"}) if section.method == "qlora" else section


def _linear_weights(network: Any) -> list[torch.Tensor]:
    """Of the decoder's layers: what `medgemma.checkpoints.quantize` holds in 4 bits."""
    layers = getattr(network.model, "language_model", network.model).layers
    return [module.weight for module in layers.modules() if isinstance(module, torch.nn.Linear)]


def _checkpoint(network: Any, computed: torch.dtype | None) -> None:
    """As `finetune.forward.checkpoint_activations`; what is computed again is counted with the same kernels."""
    contexts = {"context_fn": lambda: (nullcontext(), Kernels(computed))}
    network.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False, **contexts})


def _loss(network: Any, work: Work, where: str) -> torch.Tensor:
    """As `finetune.supervised.batch_loss`, whose checks look at values and so cannot run here."""
    size = (work.examples, work.tokens)
    embeddings = network.get_input_embeddings()(torch.zeros(size, dtype=torch.int64))
    if work.pictures:
        side = network.config.vision_config.image_size
        images = project(network, torch.zeros(work.examples * work.pictures, 3, side, side))
        slots = torch.zeros((*size, 1), dtype=torch.bool)
        embeddings = embeddings.masked_scatter(slots, images.to(embeddings.dtype))
    masks = {
        k: torch.zeros(size[0], 1, size[1], size[1], dtype=torch.bool) for k in ("full_attention", "sliding_attention")
    }
    positions = torch.zeros(size, dtype=torch.int64)
    seen = {"inputs_embeds": embeddings, "attention_mask": masks, "position_ids": positions}
    hidden = network.model(**seen, use_cache=False).last_hidden_state
    learned = work.examples * work.answer_tokens
    states, targets = (
        hidden.flatten(0, 1)[torch.zeros(learned, dtype=torch.int64)],
        torch.zeros(learned, dtype=torch.int64),
    )
    head, shares = output_weight(network), torch.zeros(learned)
    budget = TILE_BYTES.get(where, TILE_BYTES_ELSEWHERE)

    def cross_entropy(logits: torch.Tensor, rows: slice) -> torch.Tensor:
        return tile_cross_entropy(logits, targets[rows], shares[rows])

    return tiled_loss(states, head, cross_entropy, tile_tokens=max(1, budget // (4 * len(head))))


def _of_the_update(trained: list[torch.nn.Parameter], where: str) -> int:
    """AdamW's own: two copies of the largest tensor, or none where it is one kernel."""
    return 0 if where == "cuda" else 2 * max(p.numel() * p.element_size() for p in trained)
