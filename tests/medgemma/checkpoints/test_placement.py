"""Accelerate's device maps: what goes where for the released shapes, and a spread model that answers the same.

Two GPUs are needed to run a model on two; here maps are made for devices that need not be there, and a model runs over
the CPU alone.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Gemma3ForConditionalGeneration

from medgemma import MedGemma
from medgemma.checkpoints.layouts import read_checkpoint
from medgemma.checkpoints.placement import spread
from medgemma.checkpoints.reference import CONFIGS
from tests import checkpoints

BF16 = torch.bfloat16


@pytest.fixture
def folder_4b(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS["medgemma-4b"]))
    return tmp_path


def layers(placed: dict[str, int | str]) -> list[int | str]:
    return [placed[f"model.language_model.layers.{i}"] for i in range(34)]


@pytest.mark.parametrize("way", ["auto", "balanced", "sequential"])
def test_4b_splits_between_layers_over_two_gpus(folder_4b: Path, way: str) -> None:
    placed = spread(folder_4b, BF16, way, {0: "6GiB", 1: "6GiB", "cpu": 0})
    assert set(placed.values()) == {0, 1}
    assert "lm_head" in placed
    assert layers(placed) == sorted(layers(placed))  # one cut: a token crosses once
    assert placed["model.vision_tower"] == placed["lm_head"] == placed["model.language_model.embed_tokens"] == 0
    sizes = {"model.vision_tower": 416_866_032, "model.language_model.embed_tokens": 262_208 * 2560}
    used = Counter({placed[name]: size for name, size in sizes.items()})
    for device in layers(placed):
        used[device] += (3_880_263_168 - 262_208 * 2560) // 34
    assert all(2 * parameters < 6 * 2**30 for parameters in used.values())


def test_in_turn_fills_the_first_and_alike_shares(folder_4b: Path) -> None:
    given: dict[int | str, int | str] = {0: "7GiB", 1: "7GiB", "cpu": 0}
    in_turn, alike = (Counter(layers(spread(folder_4b, BF16, way, given))) for way in ("sequential", "balanced"))
    assert in_turn[0] > alike[0] and in_turn[1] < alike[1]


def test_float32_takes_more_devices_than_bfloat16(folder_4b: Path) -> None:
    given: dict[int | str, int | str] = {0: "11GiB", 1: "11GiB", "cpu": 0}
    assert set(spread(folder_4b, BF16, "sequential", given).values()) == {0}
    assert set(spread(folder_4b, torch.float32, "sequential", given).values()) == {0, 1}


def test_what_does_not_fit_is_refused_with_the_numbers(folder_4b: Path) -> None:
    with pytest.raises(ValueError, match=r"8.0 GiB of weights do not fit the devices \(.*cpu: 1.0 GiB\)"):
        spread(folder_4b, BF16, "auto", {"cpu": "1GiB"})
    with pytest.raises(ValueError, match="device_map 'cuda:7': choose one of auto, balanced"):
        spread(folder_4b, BF16, "cuda:7")


def test_a_map_of_ones_own_is_taken_as_it_is(folder_4b: Path) -> None:
    assert spread(folder_4b, BF16, {"": "cpu"}) == {"": "cpu"}


def test_a_model_placed_by_a_map_answers_the_same(tmp_path: Path) -> None:
    model = checkpoints.multimodal()
    for layout, rename in checkpoints.LAYOUTS.items():
        folder = checkpoints.write(model, tmp_path / layout, rename, shards=2)
        placed = spread(folder, torch.float32, "auto", {"cpu": "1GiB"})
        assert set(placed.values()) == {"cpu"}
        loaded = read_checkpoint(Gemma3ForConditionalGeneration, folder, dtype=torch.float32, device_map=placed)
        torch.testing.assert_close(checkpoints.outputs(loaded), checkpoints.outputs(model), rtol=0, atol=1e-5)


def test_the_facade_takes_a_map(tiny_folder: Path, gemma: MedGemma, images: list[Any]) -> None:
    placed = MedGemma.from_pretrained(tiny_folder, device="cpu", device_map="auto", max_memory={"cpu": "1GiB"})
    ours, theirs = (m.ask(images[0], ["View?", "Organ?"], max_new_tokens=6) for m in (placed, gemma))
    assert [answer.text for answer in ours] == [answer.text for answer in theirs]
    with pytest.raises(ValueError, match="do not fit the devices"):
        MedGemma.from_pretrained(tiny_folder, device="cpu", device_map="auto", max_memory={"cpu": "1KiB"})
