"""Several versions into one: the sphere's formulas by hand, and folders beside weights averaged in memory."""

import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from medgemma.checkpoints.adapters.merge import merge
from medgemma.checkpoints.adapters.slerp import slerp_coefficients, slerp_merge

PEFT = Path(__file__).parents[2] / "peft"
BASE = PEFT / "base"
ONE = PEFT / "all-linear"


def stored(folder: Path) -> dict[str, torch.Tensor]:
    return {name: t for file in folder.glob("*.safetensors") for name, t in load_file(file).items()}


def products(*vectors: torch.Tensor) -> list[list[float]]:
    return [[float(a @ b) for b in vectors] for a in vectors]


def mean(*vectors: torch.Tensor) -> torch.Tensor:
    return sum((c * v for c, v in zip(slerp_coefficients(products(*vectors)), vectors, strict=True)), torch.zeros(()))


def test_the_sphere_keeps_the_length_that_the_straight_line_loses() -> None:
    one, other = torch.eye(2, dtype=torch.float64)
    assert mean(one, other).norm() == pytest.approx(1.0, abs=1e-12)
    assert ((one + other) / 2).norm() == pytest.approx(math.sqrt(0.5), abs=1e-12)  # LERP


def test_at_sixty_degrees_each_counts_by_hand() -> None:
    turned = torch.tensor([0.5, math.sqrt(0.75)], dtype=torch.float64)
    factors = slerp_coefficients(products(torch.tensor([1.0, 0.0], dtype=torch.float64), turned))
    assert factors == pytest.approx([0.5 / math.sqrt(0.75)] * 2, abs=1e-12)  # sin 30 / sin 60


def test_a_third_version_joins_the_mean_of_two_with_a_third() -> None:
    vectors = torch.eye(3, dtype=torch.float64)
    joined = mean(*vectors)
    assert joined.norm() == pytest.approx(1.0, abs=1e-12)
    assert joined[2] == pytest.approx(math.sin(math.pi / 6), abs=1e-12)  # sin(90/3) / sin 90


@pytest.mark.parametrize("other", [(2.0, 0.0), (-1.0, 0.0), (0.0, 0.0)])
def test_without_an_angle_it_is_the_straight_mean(other: tuple[float, float]) -> None:
    one, second = torch.tensor([1.0, 0.0], dtype=torch.float64), torch.tensor(other, dtype=torch.float64)
    torch.testing.assert_close(mean(one, second), (one + second) / 2)


def test_one_version_alone_is_its_merge(tmp_path: Path) -> None:
    slerp_merge(BASE, [ONE], tmp_path / "alone")
    merge(BASE, ONE, tmp_path / "merged")
    for name, weight in stored(tmp_path / "merged").items():
        torch.testing.assert_close(stored(tmp_path / "alone")[name], weight, rtol=0, atol=1e-6)


def test_all_the_way_back_is_the_base(tmp_path: Path) -> None:
    slerp_merge(BASE, [ONE, PEFT / "vision"], tmp_path / "back", toward_base=1.0)
    assert stored(tmp_path / "back").keys() == stored(BASE).keys()
    assert all(torch.equal(stored(tmp_path / "back")[name], weight) for name, weight in stored(BASE).items())


def test_adapters_and_checkpoints_are_averaged_a_layer_at_a_time(tmp_path: Path) -> None:
    merge(BASE, PEFT / "one-layer", tmp_path / "tuned")  # a whole checkpoint as the second version
    done = slerp_merge(BASE, [ONE, tmp_path / "tuned"], tmp_path / "out", toward_base=0.7)
    merge(BASE, ONE, tmp_path / "one")
    base, one, other = stored(BASE), stored(tmp_path / "one"), stored(tmp_path / "tuned")
    groups: dict[str, list[str]] = {}
    for name in base:
        before, found, after = name.partition("layers.")
        groups.setdefault(f"{before}{after.split('.')[0]}" if found else name, []).append(name)
    assert done.layers == len(groups)
    result = stored(tmp_path / "out")
    for names in groups.values():
        deltas = [torch.cat([(v[n] - base[n]).double().flatten() for n in names]) for v in (one, other)]
        cosine = float(deltas[0] @ deltas[1] / (deltas[0].norm() * deltas[1].norm()).clamp_min(1e-30))
        angle = math.acos(cosine)
        sphere = deltas[0].norm() > 0 and deltas[1].norm() > 0
        factor = math.sin(angle / 2) / math.sin(angle) if sphere else 0.5
        wanted = torch.cat([base[n].double().flatten() for n in names]) + 0.3 * factor * (deltas[0] + deltas[1])
        torch.testing.assert_close(torch.cat([result[n].double().flatten() for n in names]), wanted, rtol=0, atol=1e-6)


def test_whole_weights_on_the_sphere_lose_what_task_vectors_keep() -> None:
    """The paper's control: whole weights are nearly parallel, so their SLERP is LERP."""
    base = torch.tensor([100.0, 0.0, 0.0], dtype=torch.float64)
    one, other = torch.eye(3, dtype=torch.float64)[1:]
    assert mean(one, other).norm() == pytest.approx(1.0, abs=1e-12)
    assert (mean(base + one, base + other) - base).norm() == pytest.approx(math.sqrt(0.5), abs=1e-3)


def test_versions_of_another_base_are_named(tmp_path: Path) -> None:
    shutil.copytree(BASE, tmp_path / "other")
    weights = stored(BASE)
    name = next(iter(sorted(weights)))
    save_file(
        {**weights, name: weights[name].repeat(*[2] * weights[name].ndim)},
        tmp_path / "other" / "model.safetensors",
        metadata={"format": "pt"},
    )
    with pytest.raises(ValueError, match=r"other"):
        slerp_merge(BASE, [ONE, tmp_path / "other"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match=r"toward_base is 1\.5; expected 0 \(the mean\) to 1 \(the base\)"):
        slerp_merge(BASE, [ONE], tmp_path / "out", toward_base=1.5)
