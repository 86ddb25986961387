"""Contrastive steps over pairs: those of one whole batch by autograd, in parts, by two processes over gloo, resumed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import normalize

from finetune.losses.contrastive import sigmoid_loss
from finetune.tables.contrastive import Mixture
from tests.conftest import ROOT
from tests.finetune.tables.contrastive_ranks import (
    GENERAL,
    OWN,
    MadePictures,
    first_and_four,
    made_encoder,
    made_pairs,
    made_texts,
    tuned,
)

State = dict[str, torch.Tensor]


def state(folder: Path) -> State:
    return dict(load_file(folder / "stage/state.safetensors"))


def log(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "stage/log.jsonl").read_text().splitlines()]


def assert_same_run(ours: Path, theirs: Path) -> None:
    """The first step's gradients, as its first moments keep them, and the losses of all steps.

    Later weights differ more: Adam gives a gradient of rounding alone, such as that of a bias of keys, a whole step.
    """
    left, right = (state(folder / "first") for folder in (ours, theirs))
    names = [name for name in right if name.startswith("exp_avg.")]
    assert left.keys() == right.keys() and {"exp_avg.logit_scale", "exp_avg.logit_bias"} <= set(names)
    largest = max(float(right[name].abs().max()) for name in names)
    for name in names:
        assert (left[name] - right[name]).abs().max() <= 1e-5 * largest, name
    for mine, its in zip(log(ours / "four"), log(theirs / "four"), strict=True):
        assert mine == pytest.approx(its, rel=1e-4)


def dense_loss(rows: list[int]) -> float:
    """Of a whole step, by transformers' own forward pass and the dense loss."""
    model, pairs, pictures = made_encoder().train(), made_pairs(), MadePictures()
    images = []
    for row in rows:
        values = torch.stack([pictures.pixel_values(number) for number in pairs.pictures[row]])
        each = normalize(model.get_image_features(pixel_values=values).pooler_output)
        images.append(normalize(each.mean(0, keepdim=True)))
    ids = made_texts(pairs)["input_ids"][pairs.captions[rows]]
    texts = normalize(model.get_text_features(input_ids=ids).pooler_output)
    chosen = torch.tensor(rows)
    relations = pairs.relations(chosen, chosen)
    return sigmoid_loss(torch.cat(images), texts, model.logit_scale.exp(), model.logit_bias, relations).item()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process, a step in one part."""
    out = tmp_path_factory.mktemp("whole")
    first_and_four(out, pairs_a_part=100)
    return out


def test_a_step_is_the_dense_loss_of_its_whole_batch(whole: Path) -> None:
    rows = Mixture(OWN, GENERAL, 0.25).rows_of_step(7, 0, 0)
    assert log(whole / "first")[0]["loss"] == pytest.approx(dense_loss(rows), rel=1e-5)
    assert log(whole / "first")[0]["loss"] != pytest.approx(dense_loss(rows[:-1]), rel=1e-3)  # control: another batch


@pytest.mark.parametrize("pairs_a_part", [1, 3])
def test_parts_have_the_gradients_of_the_whole(pairs_a_part: int, whole: Path, tmp_path: Path) -> None:
    """Each part meets the captions of all."""
    first_and_four(tmp_path, pairs_a_part=pairs_a_part)
    assert_same_run(tmp_path, whole)


def test_interrupted_and_resumed_is_uninterrupted(tmp_path: Path) -> None:
    tuned(tmp_path / "uninterrupted" / "stage")
    with pytest.raises(KeyboardInterrupt):
        tuned(tmp_path / "resumed" / "stage", stops_at=3)
    tuned(tmp_path / "resumed" / "stage")
    left, right = state(tmp_path / "uninterrupted"), state(tmp_path / "resumed")
    assert left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_a_loss_that_is_not_finite_names_the_row_of_its_part(tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError) as fault:
        tuned(tmp_path / "stage", pairs_a_part=1, spoiled=4)
    assert "in the batch of T.csv row 6;" in str(fault.value)


def test_general_pairs_are_a_share_of_all_pairs_and_none_is_missed() -> None:
    mixture = Mixture(own=40, general=5, general_weight=0.02)
    drawn = [row for step in range(100) for row in mixture.rows_of_step(10, 0, step)]
    general = [row for row in drawn if row >= 40]
    assert len(general) == 20 and {general.count(row) for row in range(40, 45)} == {4}
    own = [row for row in drawn if row < 40]
    assert {own[:40].count(row) for row in range(40)} == {1}  # an epoch of one's own, whatever is between
    assert len(own) == 980 and Mixture(own=40).rows_of_step(10, 0, 0) == own[:10]


def test_replay_keeps_what_general_pairs_say(tmp_path: Path) -> None:
    """The loss on the general pairs alone after tuning, with and without a share of them."""
    general = list(range(OWN, OWN + GENERAL))
    losses = {}
    for weight in (0.0, 0.25):
        model = tuned(tmp_path / str(weight) / "stage", weight=weight, steps=12)
        pairs, pictures = made_pairs(), MadePictures()
        with torch.no_grad():
            values = torch.stack([pictures.pixel_values(row) for row in general])
            images = normalize(model.get_image_features(pixel_values=values).pooler_output)
            ids = made_texts(pairs)["input_ids"][pairs.captions[general]]
            texts = normalize(model.get_text_features(input_ids=ids).pooler_output)
            losses[weight] = sigmoid_loss(images, texts, model.logit_scale.exp(), model.logit_bias).item()
    assert losses[0.25] < 0.9 * losses[0.0]


def test_too_few_pairs_for_the_processes_are_refused(tmp_path: Path) -> None:
    from finetune.training import Ranks

    with pytest.raises(ValueError, match="pairs_per_step is 2; expected one at least for each of 3 processes"):
        tuned(tmp_path / "stage", Ranks(0, 3), pairs_per_step=2)


@pytest.mark.slow
def test_two_processes_are_one(whole: Path, tmp_path: Path) -> None:
    """Seven pairs, so the ranks have four and three, in two and two parts: losses and gradients of one process.

    What was written is judged, not the exit status: gloo may abort while it ends.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, "-m", "tests.finetune.tables.contrastive_ranks", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert all((tmp_path / f"done-{rank}").is_file() for rank in (0, 1)), done.stderr[-3000:]
    for parts in (2, 100):
        assert_same_run(tmp_path / f"parts-{parts}", whole)
    for rank in (0, 1):
        assert "T.csv row 6" in (tmp_path / f"spoiled-{rank}.txt").read_text()
