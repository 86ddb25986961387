"""Both conventions on nano, also under the Hub's files: transformers' own processor and pipeline as the oracle."""

import numpy as np
import pytest
from PIL import Image

from medsiglip import MedSigLIP, ZeroShotClassifier

CAPTIONS = ["a chest X-ray", "a CT slice of the head", "lung adenocarcinoma"]
SHAPES = ["medsiglip nano", pytest.param("medsiglip hub", marks=pytest.mark.kit)]


@pytest.fixture(scope="module")
def pictures():
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 256, (90, 120, 3), np.uint8)) for _ in range(3)]


@pytest.mark.parametrize("shape", SHAPES)
def test_softmax_is_that_of_the_processor_and_the_model(shape, shapes, pictures):
    """As the model card calls them: AutoProcessor, AutoModel, logits_per_image.softmax."""
    import torch
    from transformers import AutoProcessor, SiglipModel
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    folder = shapes(shape)
    processor = AutoProcessor.from_pretrained(folder, use_fast=False)
    processor.image_processor = SiglipImageProcessorPil.from_pretrained(folder)
    model = SiglipModel.from_pretrained(folder, dtype=torch.float32).eval()
    inputs = processor(text=CAPTIONS, images=pictures, padding="max_length", max_length=64, return_tensors="pt")
    with torch.inference_mode():
        logits = model(input_ids=inputs["input_ids"], pixel_values=inputs["pixel_values"]).logits_per_image
    ours = ZeroShotClassifier(MedSigLIP.from_pretrained(folder, device="cpu", dtype="float32"), CAPTIONS)
    result = ours.classify(pictures)
    assert result.convention == "softmax"
    np.testing.assert_allclose(result.probabilities, logits.softmax(1), atol=1e-4)
    assert np.ptp(result.probabilities) > 0.05  # a flat prediction would match anything


@pytest.mark.parametrize("shape", SHAPES)
def test_sigmoid_is_that_of_the_pipeline(shape, shapes, pictures):
    from transformers import AutoTokenizer, pipeline
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    folder = shapes(shape)
    peer = pipeline(
        "zero-shot-image-classification",
        model=str(folder),
        tokenizer=AutoTokenizer.from_pretrained(folder, model_input_names=["input_ids"]),
        image_processor=SiglipImageProcessorPil.from_pretrained(folder),
        dtype="float32",
        device="cpu",
    )
    said = peer(pictures, candidate_labels=CAPTIONS, hypothesis_template="{}")
    expected = [[{row["label"]: row["score"] for row in rows}[caption] for caption in CAPTIONS] for rows in said]
    encoder = MedSigLIP.from_pretrained(folder, device="cpu", dtype="float32")
    result = ZeroShotClassifier(encoder, CAPTIONS, independent=True).classify(pictures)
    assert result.convention == "sigmoid"
    np.testing.assert_allclose(result.probabilities, expected, atol=1e-4)
