"""A tiny random MedSigLIP-shaped checkpoint, written once by plain transformers, and a few pictures."""

import logging
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

SIZE_PX = 28
SENTENCES = [
    f"{finding} in the {side} {place} on this {picture} of the {part}"
    for finding in ("pneumothorax", "nodule", "no effusion", "mild edema", "fracture", "adenocarcinoma")
    for side in ("left", "right")
    for place in ("upper lobe", "lower zone", "apex")
    for picture in ("radiograph", "ct slice", "histology slide")
    for part in ("chest", "head", "hand")
]


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """What save_pretrained of SiglipModel, SiglipImageProcessorPil and a SiglipTokenizer writes."""
    import torch
    from transformers import SiglipConfig, SiglipModel
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    from finetune.tokenizers import train_siglip_tokenizer

    folder = tmp_path_factory.mktemp("tiny-medsiglip")
    tokenizer = train_siglip_tokenizer(SENTENCES, 48, folder)
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = SiglipConfig(
        vision_config={**tower, "image_size": SIZE_PX, "patch_size": 14},
        text_config={**tower, "vocab_size": len(tokenizer), "max_position_embeddings": 64, "projection_size": 16},
    )
    torch.manual_seed(0)
    model = SiglipModel(config)
    with torch.no_grad():  # large enough weights that no two inputs look alike, and a scale and bias of their own
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 2.0 if "token_embedding" in name else 0.5)
        model.logit_scale.fill_(1.7)
        model.logit_bias.fill_(-2.5)
    model.save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": SIZE_PX, "width": SIZE_PX}, resample=2).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def encoder(tiny_folder):
    from medsiglip.encoder import MedSigLIP

    return MedSigLIP.from_pretrained(tiny_folder, device="cpu")


@pytest.fixture(scope="session")
def arrays():
    """Nine RGB pictures (H, W, 3) uint8: square, wide, tall, smaller and larger than the model's side."""
    shapes = [(28, 28), (64, 64), (90, 40), (40, 90), (12, 30), (200, 17), (5, 5), (31, 64), (56, 56)]
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (*shape, 3), np.uint8) for shape in shapes]


@pytest.fixture
def films(tmp_path, arrays):
    """The same pictures as PNG files, in name order."""
    folder = tmp_path / "films"
    folder.mkdir()
    paths = [folder / f"film{i}.png" for i in range(len(arrays))]
    for path, pixels in zip(paths, arrays, strict=True):
        Image.fromarray(pixels).save(path)
    return paths


@pytest.fixture
def edited(tiny_folder, tmp_path):
    """Makes a copy of the tiny checkpoint whose tensors have been changed in place by `edit(tensors)`."""
    from safetensors.numpy import load_file, save_file

    def make(edit=lambda tensors: None):
        folder = tmp_path / "edited"
        shutil.copytree(tiny_folder, folder)
        tensors = load_file(folder / "model.safetensors")
        edit(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    return make


@pytest.fixture
def medsiglip(monkeypatch, capsys, tiny_folder):
    """Runs a command in this process: (exit status, stdout, lines of stderr)."""
    from medsiglip.cli import main

    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "error")
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")

    def run(*words, model=tiny_folder):
        options = ["--model", str(model), "--device", "cpu", "--quiet"] if model else []
        monkeypatch.setattr(sys, "argv", ["medsiglip", *map(str, words), *options])
        with pytest.raises(SystemExit) as exited:
            main()
        captured = capsys.readouterr()
        return exited.value.code or 0, captured.out, captured.err.splitlines()

    yield run
    logging.captureWarnings(False)
