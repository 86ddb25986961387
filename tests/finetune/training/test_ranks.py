"""Two processes over gloo, as torchrun starts them: the losses and weights of one, by DDP and by fully_shard.

What was written is judged, not the exit status: gloo may abort while it ends.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from finetune.packing import Layout
from finetune.training import Ranks
from tests.conftest import ROOT
from tests.finetune.test_packing import IMAGE
from tests.finetune.training.ranks import PADDED, drawn, tuned

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process."""
    out = tmp_path_factory.mktemp("one")
    tuned(out / "whole" / "stage")
    return out


@pytest.fixture(scope="module", params=["ddp", "fully_shard"])
def two(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of two processes."""
    out = tmp_path_factory.mktemp(request.param) / request.param
    out.mkdir()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, "-m", "tests.finetune.training.ranks", str(out), request.param],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert all((out / f"done-{rank}").is_file() for rank in (0, 1)), done.stderr[-3000:]
    return out


def log(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "stage/log.jsonl").read_text().splitlines()]


def assert_close(ours: Path, theirs: Path) -> None:
    left, right = (load_file(folder / "stage/state.safetensors") for folder in (ours, theirs))
    assert left.keys() == right.keys()
    for name, tensor in right.items():
        assert (left[name] - tensor).abs().max() <= 1e-4 * max(1, tensor.abs().max()), name


def test_losses_and_weights_are_those_of_one_process(one: Path, two: Path) -> None:
    for ours, theirs in zip(log(two / "whole"), log(one / "whole"), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5, abs=2e-5)
    assert_close(two / "whole", one / "whole")


def test_parameters_are_really_sharded(two: Path) -> None:
    """Each rank holds a half under fully_shard (odd sizes to an element), all of them under DDP."""
    held = [json.loads((two / f"held-{rank}.json").read_text()) for rank in (0, 1)]
    for name, (total, first) in held[0].items():
        second = held[1][name][1]
        if two.name == "ddp":
            assert first == second == total
        else:
            assert first + second == total and 0 < first < total, name


def test_interrupted_and_resumed_is_uninterrupted(two: Path) -> None:
    """Bit for bit, with dropout and augmentation."""
    left, right = (load_file(two / name / "stage/state.safetensors") for name in ("dropout", "resumed"))
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert log(two / "dropout") == log(two / "resumed")
    plain = load_file(two / "whole/stage/state.safetensors")
    assert any(not torch.equal(left[name], plain[name]) for name in left)  # control: dropout is there


def test_one_process_goes_on_with_what_two_have_written(one: Path, two: Path) -> None:
    assert [line["step"] for line in log(two / "cut")] == [0, 1]
    tuned(two / "cut" / "stage")
    assert_close(two / "cut", one / "whole")


def test_every_rank_names_the_row_of_a_loss_that_is_not_finite(two: Path) -> None:
    step = next(step for step in range(4) if any(2 in example.pictures for example in drawn(step)))
    parts = [part for rank in (0, 1) for part in PADDED.parts(drawn(step), Ranks(rank, 2))]
    [bad] = [part for part in parts if 2 in part.drawn.pictures]
    kept = f"the checkpoint before step {step} is kept" if step else "no checkpoint yet"
    for rank in (0, 1):
        message = (two / f"spoiled-{rank}.txt").read_text()
        assert message.startswith(
            f"the loss is nan at step {step}, in the batch of {', '.join(dict.fromkeys(bad.places))}; {kept};"
        )


def test_layouts_end_with_the_same_weights(one: Path, tmp_path: Path) -> None:
    """One process, parts of other sizes: the whole step at once, and packed."""
    for name, layout in {
        "whole": Layout(0, IMAGE, 64),
        "packed": Layout(0, IMAGE, 64, tokens_a_part=64, packed=True),
    }.items():
        tuned(tmp_path / name / "stage", layout=layout)
        assert_close(tmp_path / name, one / "whole")


def test_shares_are_dealt_in_turn() -> None:
    assert [Ranks(rank, 3).share("abcdefg") for rank in range(3)] == [list("adg"), list("be"), list("cf")]
