"""A LoRA adapter of the decoder as GGUF: llama.cpp adds it to its base while it runs (`--lora`)."""

from pathlib import Path
from typing import TYPE_CHECKING

from medgemma.checkpoints.adapters.checks import CONFIG_FILE
from medgemma.checkpoints.adapters.merge import WEIGHTS_FILE, Adapter, Update, read_adapter
from medgemma.checkpoints.adapters.trained_on import refuse_other_base
from medgemma.checkpoints.convert import Advance, common_dtype, whole_folder
from medgemma.checkpoints.gguf.model import WrittenFile
from medgemma.checkpoints.gguf.writing import DECODER, demand_gguf, gguf_names, kind_named, planned, write_gguf
from medgemma.checkpoints.layouts import kind_of, matched_folder
from medsiglip.checkpoints.folders import read_json
from medsiglip.checkpoints.safetensors_files import opened

if TYPE_CHECKING:
    from gguf import GGUFWriter

ADAPTER_FILE = "adapter.gguf"


def adapter_to_gguf(
    base: Path,
    adapter: Path,
    out: Path,
    *,
    dtype: str | None = None,
    overwrite: bool = False,
    advance: Advance = lambda tensors: None,
) -> list[WrittenFile]:
    """Write an adapter as adapter.gguf.

    Args:
        base: folder of the model that it was trained on.
        adapter: folder that PEFT's save_pretrained wrote.
        out: new folder; it appears when it is whole.
        dtype: of the factors, see `convert_to_gguf`.
        overwrite: replace a folder that is there.
        advance: called with 1 after each tensor.

    Raises:
        ValueError: as in `medgemma.checkpoints.adapters.merge.merge`; it changes something that llama.cpp adds no
            update to.
    """
    demand_gguf()
    config = read_json(base / "config.json")
    kind = kind_of(config, base)
    read = read_adapter(adapter, kind, matched_folder(base))
    refuse_other_base(adapter, base)
    _refuse_unaddable(read, adapter)
    factors = {f"{key}.{part}": getattr(update, part) for key, update in read.updates.items() for part in "ab"}
    number = kind_named(dtype, common_dtype(factors))
    alpha = float(read_json(adapter / CONFIG_FILE)["lora_alpha"])
    name = gguf_names("GEMMA3", config.get("text_config", config)["num_hidden_layers"])

    def keys(writer: "GGUFWriter") -> None:
        writer.add_type("adapter")
        writer.add_name(adapter.name)
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", alpha)

    with whole_folder(out, overwrite, base, adapter) as folder, opened([adapter / WEIGHTS_FILE], "pt") as handles:
        tensors = []
        for key, update in read.updates.items():
            tensors.append(planned(update.a, f"{name(key)}.lora_a", number, handles))
            tensors.append(planned(update.b, f"{name(key)}.lora_b", number, handles, times=_beside(update, alpha)))
        write_gguf(folder / ADAPTER_FILE, DECODER, number, keys, tensors, advance)
    return [WrittenFile(out / ADAPTER_FILE, len(tensors))]


def _beside(update: Update, alpha: float) -> float:
    """What an update is scaled by beside alpha over its rank, which llama.cpp scales all by."""
    return update.scale * update.a.shape[0] / alpha


def _refuse_unaddable(read: Adapter, adapter: Path) -> None:
    advice = "put it into its base with `medgemma merge` and convert that"
    for key in read.replaced:
        raise ValueError(f"adapter {adapter}: brings {key} whole; llama.cpp replaces no weights; {advice}")
    for key, update in read.updates.items():
        if not key.startswith(("language_model.model.layers.", "model.layers.")):
            raise ValueError(
                f"adapter {adapter}: changes {key}; llama.cpp adds updates to the decoder's layers only; {advice}"
            )
        if update.magnitude is not None:
            raise ValueError(f"adapter {adapter}: trained with DoRA, which llama.cpp does not know; {advice}")
