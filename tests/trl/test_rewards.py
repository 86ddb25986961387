"""Our rewards inside TRL's GRPOTrainer: `make test-trl`."""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from evals.environments.training import training_items
from evals.environments.trl import reward_function, rows
from medgemma import MedGemma


def settings(folder: Path) -> GRPOConfig:
    return GRPOConfig(
        str(folder),
        max_steps=2,
        per_device_train_batch_size=2,
        num_generations=2,
        max_completion_length=6,
        learning_rate=1e-3,
        report_to="none",
        save_strategy="no",
        logging_steps=1,
        use_cpu=True,
        seed=0,
    )


@pytest.mark.kit
def test_grpo_trains_with_a_tasks_reward_and_logs_it(kit: Path, tmp_path: Path) -> None:
    gemma = MedGemma.from_pretrained("nano", device="cpu", dtype="float32")
    found = training_items("kit-pubmedqa", kit, limit=4)
    reward = reward_function(found)
    given: list[tuple[list[Any], list[float]]] = []

    def watched(**columns: Any) -> list[float]:
        values = reward(**columns)
        given.append((columns["item_id"], values))
        return values

    watched.__name__ = reward.__name__
    before = [weight.detach().clone() for weight in gemma.model.parameters()]
    trainer = GRPOTrainer(
        gemma.model,
        reward_funcs=watched,
        args=settings(tmp_path),
        train_dataset=Dataset.from_list(rows(found)),
        processing_class=gemma.tokenizer,
    )
    trainer.train()
    assert given and all(len(names) == len(values) for names, values in given)
    assert {name for names, _ in given for name in names} <= {item.item_id for item in found.items}
    logged = [row for row in trainer.state.log_history if f"rewards/{reward.__name__}/mean" in row]
    assert len(logged) == 2
    assert all(torch.isfinite(weight).all() for weight in gemma.model.parameters()) and before
