"""A tiny tokenizer, and a tiny model's folder, with MedGemma's thinking markers."""

import shutil
from pathlib import Path
from typing import Any

BEGIN, END = "<unused94>", "<unused95>"


def thinking_tokenizer(tiny_folder: Path, *, special: bool = False) -> Any:
    """The tiny tokenizer with the two markers added, by default not special, as Google's are."""
    from tokenizers import AddedToken
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_folder, local_files_only=True)
    tokenizer.add_tokens([AddedToken(t, normalized=False, special=special) for t in (BEGIN, END)], special)
    return tokenizer


def thinking_folder(tiny_folder: Path, folder: Path) -> Path:
    """The tiny model with two more rows in its vocabulary."""
    import torch
    from transformers import Gemma3ForConditionalGeneration

    from medgemma.checkpoints.layouts import save_in_hub_layout

    shutil.copytree(tiny_folder, folder, dirs_exist_ok=True)
    tokenizer = thinking_tokenizer(tiny_folder)
    model = Gemma3ForConditionalGeneration.from_pretrained(tiny_folder)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    save_in_hub_layout(model, folder, torch.float32)
    tokenizer.save_pretrained(folder)
    return folder
