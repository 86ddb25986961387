"""Run by another Python: load a folder of ours with nothing but transformers and print what comes out as JSON.

Arguments: "encoder" or "decoder", the folder, a picture.
"""

import json
import sys
from typing import Any

import torch
import transformers
from PIL import Image


def encoder(folder: str, image: Image.Image) -> dict[str, Any]:
    from transformers import AutoImageProcessor, SiglipModel, SiglipTokenizer

    model, report = SiglipModel.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    tokenizer = SiglipTokenizer.from_pretrained(folder)
    ids = tokenizer(["a chest X-ray, PA view", "lung"], padding="max_length", max_length=64, return_tensors="pt")
    pixels = AutoImageProcessor.from_pretrained(folder)(image, return_tensors="pt").pixel_values
    logits = model.eval()(input_ids=ids.input_ids, pixel_values=pixels).logits_per_image
    return {"ids": ids.input_ids.tolist(), "logits": logits.tolist(), "report": report}


def decoder(folder: str, image: Image.Image) -> dict[str, Any]:
    from transformers import AutoProcessor, Gemma3ForConditionalGeneration

    model, report = Gemma3ForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    processor = AutoProcessor.from_pretrained(folder)
    content = [{"type": "image", "image": image}, {"type": "text", "text": "Which view is this, PA or AP?"}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    logits = model.eval()(**inputs).logits[0]
    said = model.generate(**inputs, do_sample=False, max_new_tokens=12)[0, inputs["input_ids"].shape[1] :]
    return {
        "ids": inputs["input_ids"][0].tolist(),
        "token_type_ids": inputs["token_type_ids"][0].tolist(),
        "logits": logits.tolist(),
        "answer": processor.tokenizer.decode(said, skip_special_tokens=True).strip(),
        "report": report,
    }


def main() -> None:
    torch.set_num_threads(1)
    kind, folder, picture = sys.argv[1:]
    with Image.open(picture) as image, torch.inference_mode():
        result = {"encoder": encoder, "decoder": decoder}[kind](folder, image.convert("RGB"))
    result["report"] = {name: sorted(map(str, keys)) for name, keys in result["report"].items()}
    sys.stdout.write(json.dumps({"version": transformers.__version__, **result}) + "\n")


if __name__ == "__main__":
    main()
