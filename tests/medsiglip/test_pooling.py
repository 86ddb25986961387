"""A series is one row, its slices on request; other encoders of transformers beside."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from medsiglip import embedded_rows
from medsiglip.checkpoints.weights import quiet_transformers
from medsiglip.imaging import Volume, open_images
from medsiglip.pooling import embed_volumes, pooled
from tests.medsiglip.imaging.made_series import ct_file


def test_pooled_is_the_direction_of_the_mean_and_refuses_what_has_none():
    np.testing.assert_allclose(pooled(np.array([[1, 0], [0, 1]], np.float32)), [0.5**0.5, 0.5**0.5])
    for vectors in (np.zeros((0, 2)), np.array([[1.0, 0], [-1, 0]]), np.full((1, 2), np.nan)):
        with pytest.raises(ValueError, match="no vectors to pool|cancel out or are not finite"):
            pooled(vectors)


@pytest.fixture
def series(tmp_path):
    folder = tmp_path / "ct"
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(4):
        stored = random.integers(900, 1100, (32, 32)).astype(np.int16)
        (folder / f"{number}.dcm").write_bytes(ct_file(stored, (0, 0, 5.0 * number)))
    return folder


def test_a_series_is_one_row_and_its_slices_come_on_request(medsiglip, series, encoder, films, tmp_path):
    out = tmp_path / "v.parquet"
    assert medsiglip("embed", series, films[0], "--volumes", "--out", out)[0] == 0
    rows = pq.read_table(out).to_pylist()
    (volume,) = (item for item in open_images([series]) if isinstance(item, Volume))
    slices = encoder.encode_images(list(volume.pictures("voi")))
    assert [(row["file"], row["frame"]) for row in rows] == [(volume.file, -1), (str(films[0]), -1)]
    np.testing.assert_allclose(rows[0]["embedding"], pooled(slices), atol=1e-5)
    assert rows[0]["sha256"] == volume.sha256
    status, _, err = medsiglip("embed", series, "--volumes", "--slices", "--out", out)
    assert status == 1 and "a row of it is a series, and was to be a series or a slice of one" in err[0]
    out = tmp_path / "slices.parquet"
    assert medsiglip("embed", series, "--volumes", "--slices", "--out", out)[0] == 0
    rows = pq.read_table(out).to_pylist()
    assert [row["frame"] for row in rows] == [-1, 0, 1, 2, 3]
    np.testing.assert_allclose([row["embedding"] for row in rows[1:]], slices, atol=1e-5)


def test_series_that_are_written_are_not_embedded_again(medsiglip, series, encoder, films, tmp_path, monkeypatch):
    """After an interruption, and when the command is run again; a series with another slice is embedded anew."""
    whole, out, embedded = tmp_path / "whole.parquet", tmp_path / "v.parquet", []
    assert medsiglip("embed", series, *films[:3], "--volumes", "--out", whole)[0] == 0
    monkeypatch.setattr(embedded_rows, "ROWS_PER_PART", 1)

    def stop(rows):
        embedded.append(rows)
        if len(embedded) == 3:
            raise KeyboardInterrupt

    files = [*sorted(series.iterdir()), *films[:3]]
    with pytest.raises(KeyboardInterrupt):
        embed_volumes(encoder, files, out, on_problem=pytest.fail, on_progress=stop)
    assert not out.exists()
    left = embed_volumes(encoder, files, out, on_problem=pytest.fail, on_progress=embedded.append)
    assert 0 < left < 4 and embed_volumes(encoder, files, out, on_problem=pytest.fail) == 0
    rows, expected = (pq.read_table(path).to_pylist() for path in (out, whole))
    assert [row["sha256"] for row in rows] == [row["sha256"] for row in expected]
    np.testing.assert_allclose([row["embedding"] for row in rows], [row["embedding"] for row in expected], atol=1e-6)
    stored = np.random.default_rng(9).integers(900, 1100, (32, 32)).astype(np.int16)
    (series / "4.dcm").write_bytes(ct_file(stored, (0, 0, 20.0)))
    assert embed_volumes(encoder, [*sorted(series.iterdir()), *films[:3]], out, on_problem=pytest.fail) == 1
    assert pq.read_table(out).num_rows == 4


def test_slices_without_volumes_are_refused(medsiglip, series, tmp_path):
    status, _, err = medsiglip("embed", series, "--slices", "--out", tmp_path / "v.parquet")
    assert status == 1 and "--slices goes with --volumes" in err[0]


# Other encoders


def saved(kind, folder):
    import transformers

    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    torch.manual_seed(0)
    if kind == "dinov2":
        model = transformers.Dinov2Model(transformers.Dinov2Config(**size, mlp_ratio=2))
    elif kind == "vit":
        model = transformers.ViTModel(transformers.ViTConfig(**size, intermediate_size=32), add_pooling_layer=False)
    else:
        tower = {**size, "intermediate_size": 32}
        text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 10}
        model = transformers.CLIPModel(transformers.CLIPConfig(vision_config=tower, text_config=text, projection_dim=8))
    with quiet_transformers():
        model.save_pretrained(folder)
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    ViTImageProcessorPil(size={"height": 28, "width": 28}).save_pretrained(folder)
    return model.eval()


@pytest.mark.parametrize("kind", ["dinov2", "vit", "clip"])
def test_other_encoders_of_transformers_embed_as_they_do_there(medsiglip, films, arrays, tmp_path, kind):
    from PIL import Image
    from transformers import AutoImageProcessor

    model = saved(kind, tmp_path / kind)
    out = tmp_path / "v.parquet"
    assert medsiglip("embed", *films, "--out", out, model=tmp_path / kind) == (0, "", [])
    processor = AutoImageProcessor.from_pretrained(tmp_path / kind)
    values = processor(images=[Image.fromarray(array) for array in arrays], return_tensors="pt").pixel_values
    with torch.inference_mode():
        if kind == "clip":
            found = model.get_image_features(values).pooler_output
        else:
            found = model(values).last_hidden_state[:, 0]
    expected = found / found.norm(dim=-1, keepdim=True)
    rows = pq.read_table(out)
    np.testing.assert_allclose(np.stack(rows["embedding"].to_pylist()), expected, atol=1e-5)
    assert set(rows["policy"].to_pylist()) == {"stored+own-processor"}


def test_another_encoder_has_no_labels_and_no_size(medsiglip, films, tmp_path):
    saved("vit", tmp_path / "vit")
    words = ("embed", films[0], "--out", tmp_path / "v.parquet", "--size-px", "56")
    status, _, err = medsiglip(*words, model=tmp_path / "vit")
    assert status == 1 and "--resize, --size-px and int8 are for SigLIP" in err[0]
    status, _, err = medsiglip("classify", films[0], "--labels", "a;b", model=tmp_path / "vit")
    assert status == 1 and "model_type 'vit', expected 'siglip'" in err[0]
