"""Weights in training answer a task's items under an identity of their own."""

import json
from pathlib import Path

import pytest
import torch

from evals.results.scores import score_dir
from evals.running.options import RunOptions
from evals.tasks.catalogue import task_named
from finetune.live import live, task_metric, weights_sha256
from finetune.training import Evaluation, Loop, Part, Schedule, Turn, load_best, train
from medgemma import MedGemma
from tests.nano import needs_nano

pytestmark = needs_nano


@pytest.fixture
def gemma() -> MedGemma:
    gemma = MedGemma.from_pretrained("nano", device="cpu", dtype="float32")
    gemma.model.requires_grad_(False)
    gemma.model.model.multi_modal_projector.requires_grad_(True)
    return gemma


def test_the_identity_follows_what_is_trained(gemma: MedGemma) -> None:
    first = live(gemma)
    assert first.fingerprint == f"{gemma.fingerprint}-live-{weights_sha256(gemma.model)[:16]}"
    assert live(gemma).identity == first.identity != gemma.identity
    assert first.engine is not gemma.engine and first.engine.network.model is gemma.model
    with torch.no_grad():
        gemma.model.model.multi_modal_projector.mm_input_projection_weight[0, 0] += 1e-6
    assert live(gemma).fingerprint != first.fingerprint and live(gemma).identity != first.identity
    assert gemma.fingerprint == MedGemma.from_pretrained("nano", device="cpu").fingerprint  # the folder's, as before


@pytest.mark.kit
def test_a_tasks_metric_is_what_the_evaluations_say(gemma: MedGemma, kit: Path, tmp_path: Path) -> None:
    """The best weights are those before the projector is spoiled; their folders keep answers and identities apart."""
    task, projector = task_named("vqa-rad"), gemma.model.model.multi_modal_projector
    metric = task_metric(gemma, task, kit, tmp_path / "evals", RunOptions(limit=12))
    values: list[float] = []

    def measured(steps: int) -> float:
        values.append(metric(steps))
        return values[-1]

    def loss_of(drawn: None, turn: Turn) -> torch.Tensor:
        with torch.no_grad():
            if turn.step == 1:
                projector.mm_input_projection_weight.zero_()
                projector.mm_soft_emb_norm.weight.fill_(-1)
        loss: torch.Tensor = 0 * projector.mm_input_projection_weight.sum()
        return loss

    train(
        gemma.model,
        lambda step: [Part(None)],
        loss_of,
        Schedule(0.0, 2),
        tmp_path / "stage",
        Loop(quiet=True),
        evaluation=Evaluation(measured, task.main_metric, every_steps=1),
    )
    records = [json.loads((tmp_path / f"evals/step-{n}/vqa-rad/run.json").read_text()) for n in (1, 2)]
    for value, number in zip(values, (1, 2), strict=True):
        scores = score_dir(tmp_path / f"evals/step-{number}")
        assert value == pytest.approx(scores["vqa-rad"][task.main_metric]["value"])
    assert len({record["model_identity"] for record in records} | {gemma.identity}) == 3
    assert values[0] > values[1]
    assert load_best(tmp_path / "stage", gemma.model) == {
        "format": "pt",
        "steps": "1",
        "metric": task.main_metric,
        "value": repr(values[0]),
    }
    assert live(gemma).fingerprint == records[0]["model_fingerprint"]
