"""What of a model is trained: all of it, or low-rank adapters as PEFT makes them; shown before, saved alone after.

The layers stand inside the model, which is used as before. A folder that `save_adapter` writes loads in PEFT, in
`MedGemma` and in `medgemma merge`.
Source: LoRA (arXiv:2106.09685), DoRA (arXiv:2402.09353), QLoRA (arXiv:2305.14314), all by PEFT.
"""

import logging
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field

from finetune.configuration import Section
from medgemma.checkpoints.adapters.merge import WEIGHTS_FILE
from medgemma.checkpoints.adapters.trained_on import trained_on, write_trained_on
from medgemma.checkpoints.convert import whole_folder
from medsiglip.checkpoints.safetensors_files import tensors_of_file

Method = Literal["full", "lora", "dora", "qlora"]
Part = Literal["language", "tower", "projector", "head", "text"]

PARTS: Mapping[str, str] = {
    "tower": r"(^|.*\.)(vision_tower|vision_model)\..*",
    "projector": r"(^|.*\.)multi_modal_projector\..*",
    "head": r"(^|.*\.)lm_head\..*",
    "classifier": r"(^|.*\.)classifier\..*",
    "text": r"(^|.*\.)text_model\..*",
    "language": r"(^|.*\.)(language_model|model)\..*",
}
"""Part to its parameters' names in memory, under any transformers version; the first that fits counts."""
LAYERS: Mapping[str, str] = {
    "tower": r"(.*\.)?(vision_tower|vision_model)\.(vision_model\.)?encoder\.layers\.\d+\.(self_attn|mlp)"
    r"\.(q_proj|k_proj|v_proj|out_proj|fc1|fc2)",
    "text": r"(.*\.)?text_model\.encoder\.layers\.\d+\.(self_attn|mlp)\.(q_proj|k_proj|v_proj|out_proj|fc1|fc2)",
    "head": r"(.*\.)?lm_head",
    "language": r"(.*\.)?(language_model|model)\.layers\.\d+\.(self_attn|mlp)"
    r"\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)",
}
"""Part to the linear layers that get an update. Bare endings, such as q_proj, would name the tower's too."""
PROJECTOR = "multi_modal_projector"
"""Its weight is a parameter of no linear layer, so it has no low-rank update: it is trained whole."""


class AdapterSection(Section):
    """What is trained, and how."""

    method: Method = "lora"
    """full; lora; dora: with weight decomposition; qlora: lora over 4-bit weights (nf4), CUDA only."""
    parts: tuple[Part, ...] = ("language",)
    """language: attention and MLP of the decoder's layers; tower: those of the picture encoder; projector: whole;
    head: the output head, which leaves the embeddings that it is tied to as they are; text:
    the layers of a MedSigLIP's text encoder."""
    rank: int = Field(default=16, ge=1)
    alpha: int = Field(default=32, ge=1)
    """The update is multiplied by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Of what goes into the update."""


class TrainedRow(NamedTuple):
    """What of one part is trained."""

    part: str
    how: str
    tensors: int
    trained: int
    """Parameters."""
    parameters: int
    """Of the whole part, updates left out."""


@dataclass(frozen=True)
class Adapted:
    """A model with what of it is trained."""

    model: Any
    """The network itself, its layers with updates inside."""
    section: AdapterSection
    peft: Any = None
    """PEFT's model around it; None where it is trained in full."""


def adapt(model: Any, section: AdapterSection, *, seed: int) -> Adapted:
    """Freeze a model but for what `section` names; low-rank updates start at zero.

    Args:
        model: Gemma3ForConditionalGeneration, Gemma3ForCausalLM, SiglipModel, or a module that holds one of these;
            loaded with quantize="nf4" for qlora.
        section: what is trained.
        seed: of the updates' first factors.

    Raises:
        ValueError: the model has no such part, a part cannot be trained by the method, or the method does not fit how
            the weights are held.
    """
    is_in_4_bits = getattr(model, "is_loaded_in_4bit", False)
    if section.method == "qlora" and not is_in_4_bits:
        raise ValueError(
            "adapter.method qlora: needs weights loaded as nf4, on CUDA; choose lora, which runs everywhere"
        )
    if is_in_4_bits and section.method != "qlora":
        raise ValueError(
            f"adapter.method {section.method}: the weights are in 4 bits; choose qlora, or load them whole"
        )
    _refuse_missing(model, section)
    model.requires_grad_(False)
    if section.method == "full":
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(part_of(name) in section.parts)
        return Adapted(model, section)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it advises packages that are not needed
    from peft import get_peft_model

    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Model has `tie_word_embeddings=True`")  # a merge unties them
        torch.manual_seed(seed)
        return Adapted(model, section, get_peft_model(model, _peft_config(model, section)))


def trained_rows(model: Any) -> list[TrainedRow]:
    """What is trained, by part, in the order of the model."""
    found: dict[tuple[str, str], list[int]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            how = "whole" if _is_of_base(name) or ".modules_to_save." in name else "low-rank"
            found.setdefault((part_of(name), how), []).append(parameter.numel())
    sizes: dict[str, int] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):  # a tied head is the embeddings
        if _is_of_base(name):
            sizes[part_of(name)] = sizes.get(part_of(name), 0) + _elements(parameter)
    return [TrainedRow(part, how, len(ns), sum(ns), sizes[part]) for (part, how), ns in found.items()]


def trained_table(model: Any) -> str:
    """`trained_rows` as lines, with a total."""
    rows = trained_rows(model)
    lines = [f"{'trained':12}{'how':10}{'tensors':>9}{'parameters':>15}{'of the part':>15}"]
    lines += [f"{r.part:12}{r.how:10}{r.tensors:>9}{r.trained:>15,}{r.parameters:>15,}" for r in rows]
    whole = sum(_elements(p) for name, p in model.named_parameters() if _is_of_base(name))
    trained = sum(r.trained for r in rows)
    lines.append(f"{'all':22}{sum(r.tensors for r in rows):>9}{trained:>15,}{whole:>15,}  {trained / whole:.2%}")
    return "\n".join(lines)


def output_weight(model: Any) -> torch.Tensor:
    """(V, H): the output head's weight as it is with its update, for losses that multiply it themselves.

    `lm_head.weight` of an adapted head is the base's, and an update that is left out learns nothing. Dropout before the
    head's update plays no part.
    """
    head = model.get_output_embeddings()
    if not hasattr(head, "lora_A") or head.disable_adapters:
        weight: torch.Tensor = head.weight
        return weight
    [name] = head.active_adapters
    changed: torch.Tensor = head.get_base_layer().weight + head.get_delta_weight(name)
    if head.use_dora.get(name):
        # The length is a constant in DoRA's gradient (section 4.3).
        magnitude = head.lora_magnitude_vector[name].weight
        changed = changed * (magnitude / changed.detach().norm(dim=1))[:, None]
    return changed


def save_adapter(
    adapted: Adapted,
    folder: Path,
    *,
    base: str,
    base_folder: Path,
    prompt_form: Mapping[str, Any],
    overwrite: bool = False,
) -> None:
    """Write adapter_config.json and adapter_model.safetensors, what was trained alone, and trained_on.json.

    Args:
        adapted: with low-rank updates.
        folder: takes its name when it is whole.
        base: the base's name: "nano", a Hub id, or its folder; PEFT loads it under this name.
        base_folder: where its files are.
        prompt_form: how the examples were put: a later caller must ask in the same form.
        overwrite: replace a folder that is there.

    Raises:
        ValueError: the folder holds files and may not be overwritten.
    """
    assert adapted.peft is not None, "a model trained in full is saved as a checkpoint"
    name = adapted.peft.active_adapter
    adapted.peft.peft_config[name].base_model_name_or_path = base
    with whole_folder(folder, overwrite, base_folder) as partial:
        # "auto" would store the embeddings too, and ask the Hub whether they have changed.
        adapted.peft.save_pretrained(partial, save_embedding_layers=False)
        (partial / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
        write_trained_on(trained_on(base, base_folder, adapted.section.method, prompt_form), partial)
        _demand_only_trained(adapted.model, partial)


def part_of(name: str) -> str:
    """The part that a parameter belongs to, by its name in memory; "other" if none."""
    return next((part for part, pattern in PARTS.items() if re.fullmatch(pattern, name)), "other")


def _refuse_missing(model: Any, section: AdapterSection) -> None:
    if not section.parts:
        raise ValueError("adapter.parts is empty; name what to train, such as language")
    there = {part_of(name) for name, _ in model.named_parameters(remove_duplicate=False)}
    for part in section.parts:
        if part not in there:
            raise ValueError(f"adapter.parts: this model has no {part}; leave it out")
    if section.method != "full" and not set(section.parts) & set(LAYERS):
        raise ValueError("adapter.parts: the projector alone has no low-rank update; choose full, or name language too")
    if section.method == "full" and "head" in section.parts and _is_tied(model):
        raise ValueError("adapter.parts: the head is tied to the embeddings and is trained with language, or by lora")


def _is_of_base(name: str) -> bool:
    """Whether a parameter was there before PEFT's."""
    return ".lora_" not in name and ".modules_to_save." not in name


def _is_tied(model: Any) -> bool:
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    return head is not None and head.weight is embeddings.weight


def _peft_config(model: Any, section: AdapterSection) -> Any:
    from peft import LoraConfig

    layers = [LAYERS[part] for part in section.parts if part in LAYERS]
    return LoraConfig(
        r=section.rank,
        lora_alpha=section.alpha,
        lora_dropout=section.dropout,
        use_dora=section.method == "dora",
        target_modules="|".join(f"({pattern})" for pattern in layers),
        modules_to_save=[PROJECTOR] if "projector" in section.parts else None,
    )


def _elements(parameter: torch.nn.Parameter) -> int:
    """Of the weight that a parameter stands for: 4-bit ones are packed two a byte."""
    shape = getattr(getattr(parameter, "quant_state", None), "shape", parameter.shape)
    return int(torch.Size(shape).numel())


def _demand_only_trained(model: Any, folder: Path) -> None:
    """Compare the file with the model: every trained parameter is in it, and nothing else."""
    saved = sum(t.num_elements for t in tensors_of_file(folder / WEIGHTS_FILE))
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert saved == trained, f"{saved} parameters in the file, {trained} were trained"
