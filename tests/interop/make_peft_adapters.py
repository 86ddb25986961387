"""Write tests/medgemma/peft: a small base, adapters that PEFT itself saved for it, and the logits PEFT gives unmerged.

Run once, in an environment with transformers 5 and peft (0.21.2 made what is stored):
python -m tests.interop.make_peft_adapters
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import Gemma3ForConditionalGeneration

from tests import checkpoints

FOLDER = Path(__file__).parents[1] / "medgemma" / "peft"
DECODER = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ADAPTERS: dict[str, dict[str, Any]] = {
    "all-linear": {"target_modules": "all-linear"},
    "patterns": {
        "target_modules": DECODER,
        "use_rslora": True,
        "rank_pattern": {"q_proj": 1, "layers.1.mlp.up_proj": 4},
        "alpha_pattern": {"v_proj": 32},
    },
    "vision": {"target_modules": ["out_proj", "fc1", "fc2", "patch_embedding"], "bias": "lora_only"},
    "dora": {"target_modules": ["o_proj", "fc1"], "use_dora": True},
    "head-and-embeddings": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "embed_tokens"]},
    "head-tied-to-embeddings": {
        "target_modules": ["q_proj"],
        "modules_to_save": ["embed_tokens"],
        "ensure_weight_tying": True,
    },
    "low-rank-embeddings": {"target_modules": ["q_proj", "embed_tokens"]},
    "low-rank-head": {"target_modules": ["q_proj", "lm_head"]},
    "projector": {"target_modules": ["q_proj"], "modules_to_save": ["multi_modal_projector"]},
    "one-layer": {"target_modules": ["q_proj"], "layers_to_transform": [1]},
    "expression": {"target_modules": r".*language_model.*\.(q_proj|v_proj)"},
}


def base() -> Any:
    return Gemma3ForConditionalGeneration.from_pretrained(FOLDER / "base", dtype=torch.float32)


def main() -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    checkpoints.write(checkpoints.multimodal(text_layers=2, vision_layers=1), FOLDER / "base")
    expected = {"base": checkpoints.outputs(base())[0, -2:].tolist()}
    for name, settings in ADAPTERS.items():
        model = get_peft_model(base(), LoraConfig(r=2, lora_alpha=5, **settings))
        torch.manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter) * 0.3)
        model.base_model.model.name_or_path = "base"
        model.peft_config["default"].base_model_name_or_path = "some/base"
        model.save_pretrained(FOLDER / name)
        (FOLDER / name / "README.md").unlink()
        loaded = PeftModel.from_pretrained(base(), FOLDER / name).eval()
        logits = checkpoints.outputs(loaded.get_base_model())
        expected[name] = logits[0, -2:].tolist()
    (FOLDER / "logits.json").write_text(json.dumps(expected) + "\n")


if __name__ == "__main__":
    main()
