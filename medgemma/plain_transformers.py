"""What plain transformers makes of a folder, in a process of its own: the other side of `medgemma verify`.

    python -m medgemma.plain_transformers FOLDER DTYPE DEVICE OUT

Nothing of this package's reading, prompts or engine takes part. OUT.json holds what was found, OUT.npz arrays.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

MAX_NEW_TOKENS = 8
TEXTS = ("chest X-ray", "a histology image of the colon, H&E", "no pleural effusion")
"""What an encoder is given."""


def made_pixels() -> np.ndarray:
    """(256, 320, 3) uint8: smooth stripes and a grid, the same on every machine; nobody's picture."""
    rows, columns = np.mgrid[0:256, 0:320]
    planes = [rows, 255 - columns * 255 // 319, (rows // 32 + columns // 32) % 2 * 160 + 40]
    return np.stack(planes, -1).astype(np.uint8)


def conversations() -> dict[str, list[dict[str, Any]]]:
    """Conversations by name; an image part stands for the made picture."""
    question = {"type": "text", "text": "Describe this picture.\n\nWhat is it?"}
    picture = {"role": "user", "content": [{"type": "image"}, question]}
    return {
        "text": [{"role": "user", "content": [{"type": "text", "text": "Which organ is left of the heart? "}]}],
        "picture": [picture],
        "conversation": [
            {"role": "system", "content": [{"type": "text", "text": "You are an expert radiologist."}]},
            picture,
            {"role": "assistant", "content": [{"type": "text", "text": "A grid."}]},
            {"role": "user", "content": [{"type": "text", "text": "Are you sure?"}]},
        ],
    }


def peak_memory_bytes() -> int:
    """The most that this process has had in memory, mapped files included."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def seen_by_a_decoder(folder: Path, dtype: Any, device: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Ids of every conversation, pixels, special tokens, and greedy answers to those of one turn."""
    import torch
    import transformers
    from PIL import Image

    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    sees = hasattr(config, "vision_config")
    network = transformers.Gemma3ForConditionalGeneration if sees else transformers.Gemma3ForCausalLM
    auto: Any = transformers.AutoProcessor if sees else transformers.AutoTokenizer
    processor = auto.from_pretrained(folder, local_files_only=True)
    model = network.from_pretrained(folder, dtype=dtype, local_files_only=True).to(device).eval()
    image = Image.fromarray(made_pixels())
    tokenizer = getattr(processor, "tokenizer", processor)
    flagged = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    said: dict[str, Any] = {"prompts": {}, "tokens": {}, "seconds": {}, "special_tokens": flagged}
    arrays = {}
    for name, messages in conversations().items():
        if not sees and name != "text":
            continue
        shown = [
            {**m, "content": [{**p, "image": image} if p["type"] == "image" else p for p in m["content"]]}
            for m in messages
        ]
        inputs = processor.apply_chat_template(
            shown, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        ).to(device)
        said["prompts"][name] = inputs["input_ids"][0].tolist()
        if "pixel_values" in inputs:
            arrays["pixels"] = inputs["pixel_values"].float().cpu().numpy()
            inputs["pixel_values"] = inputs["pixel_values"].to(dtype)
        if name in ("text", "picture"):
            started = time.perf_counter()
            with torch.inference_mode():
                whole = model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
            said["tokens"][name] = whole[0, inputs["input_ids"].shape[1] :].tolist()
            said["seconds"][name] = time.perf_counter() - started
    return said, arrays


def seen_by_an_encoder(folder: Path, dtype: Any, device: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Pixels, ids and unit vectors of the made picture and of `TEXTS`."""
    import torch
    from PIL import Image
    from transformers import AutoImageProcessor, AutoTokenizer, SiglipModel

    model = SiglipModel.from_pretrained(folder, dtype=dtype, local_files_only=True).to(device).eval()
    images = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    values = images([Image.fromarray(made_pixels())], return_tensors="pt").pixel_values
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    ids = tokenizer(list(TEXTS), padding="max_length", max_length=64, truncation=True, return_tensors="pt").input_ids
    with torch.inference_mode():
        out = model(input_ids=ids.to(device), pixel_values=values.to(device, dtype))
    vectors = {"images": out.image_embeds, "texts": out.text_embeds}
    return {"ids": ids.tolist()}, {
        "pixels": values.float().numpy(),
        **{name: part.float().cpu().numpy() for name, part in vectors.items()},
    }


def main() -> None:
    """Write what transformers makes of a folder."""
    import torch

    folder, dtype_name, device, out = Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
    kind = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
    see = seen_by_a_decoder if kind.startswith("gemma3") else seen_by_an_encoder
    said, arrays = see(folder, getattr(torch, dtype_name), device)
    np.savez(f"{out}.npz", **arrays)  # type: ignore[arg-type]
    Path(f"{out}.json").write_text(json.dumps({**said, "peak_memory_bytes": peak_memory_bytes()}), encoding="utf-8")


if __name__ == "__main__":
    main()
