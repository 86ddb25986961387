"""Our rewards inside TRL's GRPOTrainer: `make test-trl`."""

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from transformers import AutoProcessor
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
@pytest.mark.parametrize("name", ["kit-pubmedqa", "vqa-rad"])
def test_grpo_trains_with_a_tasks_reward_and_logs_it(kit: Path, tmp_path: Path, name: str) -> None:
    gemma = MedGemma.from_pretrained("nano", device="cpu", dtype="float32")
    found = training_items(name, kit, limit=4)
    reward = reward_function(found)
    given: list[tuple[list[str], list[float]]] = []

    def watched(**columns: Any) -> list[float]:
        values = reward(**columns)
        given.append((columns["item_id"], values))
        return values

    watched.__name__ = reward.__name__
    has_pictures = any(item.files for item in found.items)
    trainer = GRPOTrainer(
        gemma.model,
        reward_funcs=watched,
        args=settings(tmp_path),
        train_dataset=Dataset.from_list(rows(found)),
        processing_class=AutoProcessor.from_pretrained(gemma.folder) if has_pictures else gemma.tokenizer,
    )
    trainer.train()
    asked = {item_id for names, _ in given for item_id in names}
    assert asked and asked <= {item.item_id for item in found.items}
    assert all(len(set(names)) == 1 for names, _ in given)  # both draws of a step answer one item
    logged = [row for row in trainer.state.log_history if f"rewards/{reward.__name__}/mean" in row]
    means = [sum(values) / len(values) for _, values in given]
    assert [row[f"rewards/{reward.__name__}/mean"] for row in logged] == pytest.approx(means)
