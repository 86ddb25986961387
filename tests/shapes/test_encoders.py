"""`embed` and `classify` on the encoder in every clothing: the vectors and probabilities of plain transformers."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from tests.shapes.conftest import ENCODERS, command

LABELS = ["chest X-ray", "histology of the lung"]


@pytest.mark.kit
@pytest.mark.parametrize("shape", ENCODERS)
def test_vectors_and_probabilities_are_those_of_transformers(
    shape: str,
    shapes: Callable[[str], Path],
    films: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from transformers import SiglipImageProcessorPil, SiglipModel, SiglipTokenizer

    folder = shapes(shape)
    model = SiglipModel.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = SiglipTokenizer.from_pretrained(folder)
    pictures = [Image.open(film) for film in films]
    values = SiglipImageProcessorPil.from_pretrained(folder)(pictures, return_tensors="pt").pixel_values
    ids = tokenizer(LABELS, padding="max_length", max_length=64, return_tensors="pt").input_ids
    with torch.inference_mode():
        theirs = model(input_ids=ids, pixel_values=values)

    def run(*arguments: object) -> None:
        done = command("medsiglip", (*arguments, "--model", folder, "--device", "cpu", "--quiet"), monkeypatch, capsys)
        assert done.returncode == 0, done.err

    run("embed", *films, "--out", tmp_path / "vectors.parquet", "--dtype", "float32")
    vectors = np.array(pq.read_table(tmp_path / "vectors.parquet")["embedding"].to_pylist())
    np.testing.assert_allclose(vectors, theirs.image_embeds, atol=2e-5)
    run("classify", *films, "--labels", ";".join(LABELS), "--out", tmp_path / "labels.csv", "--dtype", "float32")
    rows = list(csv.DictReader((tmp_path / "labels.csv").open()))
    cosines = (theirs.image_embeds @ theirs.text_embeds.T).flatten().tolist()
    assert [float(row["score"]) for row in rows] == pytest.approx(cosines, abs=2e-5)
    probabilities = theirs.logits_per_image.softmax(1).flatten().tolist()
    assert [float(row["probability"]) for row in rows] == pytest.approx(probabilities, abs=1e-4)
