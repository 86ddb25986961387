"""A timm encoder on the same rows and folds beside nano, as transformers' TimmWrapper loads it."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from medsiglip.cli import app
from tests.finetune.tables.test_examples import colour_table


@pytest.fixture(scope="module", autouse=True)
def torchvision() -> torch.library.Library:
    """Beside a CPU torch torchvision has no compiled operators, and its import asks for two that timm never calls."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random ResNet of timm's, saved as its checkpoints on the Hub are."""
    import timm
    from transformers import TimmWrapperConfig, TimmWrapperModel

    folder = tmp_path_factory.mktemp("resnet10t")
    torch.manual_seed(0)
    facts = timm.get_pretrained_cfg("resnet10t").to_dict()
    config = TimmWrapperConfig(architecture="resnet10t", num_labels=0, pretrained_cfg=facts)
    TimmWrapperModel(config).save_pretrained(folder)
    return folder


def ran(*words: object) -> str:
    done = CliRunner().invoke(app, [*map(str, words), "--quiet"])
    assert done.exit_code == 0, (done.output, done.exception)
    return done.output


def test_timm_is_scored_on_our_rows_and_folds(resnet: Path, tmp_path: Path) -> None:
    table = colour_table(tmp_path / "data", rows=48)
    files = sorted((tmp_path / "data").glob("*.png"))
    ran("embed", *files, "--out", tmp_path / "nano.parquet")
    ran("embed", *files, "--model", resnet, "--out", tmp_path / "timm.parquet")
    words = ("--target", "label", "--group", "patient", "--no-curve", "--beside", tmp_path / "timm.parquet")
    ran("probe", tmp_path / "nano.parquet", table, *words, "--out", tmp_path / "probe")
    found = json.loads((tmp_path / "probe" / "metrics.json").read_text())
    beside = found["beside"]["timm"]
    assert found["rows"] == beside["mean_auroc"]["n"] == 48
    assert beside["ours minus this"]["value"] == pytest.approx(
        found["mean_auroc"]["value"] - beside["mean_auroc"]["value"], abs=1e-6
    )


def test_its_vectors_are_timms_own(resnet: Path, tmp_path: Path) -> None:
    import timm
    from timm.data import create_transform, resolve_data_config
    from transformers import AutoModel

    picture = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.png")
    ran("embed", tmp_path / "a.png", "--model", resnet, "--out", tmp_path / "v.parquet")
    network = timm.create_model("resnet10t", num_classes=0).eval()
    network.load_state_dict(AutoModel.from_pretrained(resnet).timm_model.state_dict())
    seen = create_transform(**resolve_data_config({}, model=network))(Image.fromarray(picture))
    with torch.inference_mode():
        vector = network(seen[None])[0]
    ours = pq.read_table(tmp_path / "v.parquet")["embedding"].to_pylist()[0]
    np.testing.assert_allclose(ours, vector / vector.norm(), atol=1e-5)
