"""Run by another Python, with nothing but transformers: load a folder and print what comes out of fixed inputs.

Arguments: the class, the folder, and a folder to save to, as this version saves and as it holds the model in memory.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file


def outputs(model: Any, inputs: dict[str, Any]) -> list[Any]:
    tensors = {name: torch.tensor(value) for name, value in inputs.items()}
    with torch.inference_mode():
        out = model(**tensors)
    for name in ("logits", "logits_per_image", "pooler_output"):
        if getattr(out, name, None) is not None:
            values: list[Any] = getattr(out, name).tolist()
            return values
    raise SystemExit(f"no output among {list(out)}")


def main() -> None:
    torch.set_num_threads(1)
    name, folder, saved = sys.argv[1:]
    inputs = json.load(sys.stdin)
    model, report = getattr(transformers, name).from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    model.eval().save_pretrained(Path(saved) / "file", max_shard_size="20KB")
    memory = Path(saved) / "memory"
    memory.mkdir()
    model.config.save_pretrained(memory)
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    save_file(state, memory / "model.safetensors", metadata={"format": "pt"})
    result = {
        "version": transformers.__version__,
        "outputs": outputs(model, inputs),
        "report": {kind: sorted(map(str, keys)) for kind, keys in report.items()},
        "memory": sorted(state),
    }
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
