"""Our collator, loss and table door inside transformers' Trainer and TRL's SFTTrainer: `make test-trl`."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import Trainer, TrainingArguments
from trl import SFTConfig, SFTTrainer

from data_cards.table import read_table
from finetune.adapters import LAYERS
from finetune.collate import collate
from finetune.losses.completion import IGNORED
from finetune.supervised import batch_loss
from finetune.tables.examples import SeenPictures, examples_of, read_study, table_items
from finetune.trainers import TrainerCollator, rows_of, with_completion_loss
from medgemma import MedGemma
from tests.finetune.tables.test_examples import colour_table

REPOSITORY = Path(__file__).parents[2]


class TileLossSFTTrainer(SFTTrainer):
    """As docs/trainers.md has it."""

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        return Trainer.compute_loss(self, model, inputs, return_outputs, num_items_in_batch)


class Tuning:
    """Twelve rows, their pictures, and nano with LoRA in its language layers."""

    def __init__(self, folder: Path) -> None:
        self.gemma = MedGemma.from_pretrained("nano", device="cpu", dtype="float32")
        self.pictures = SeenPictures(self.gemma.preprocessing, read_study)
        items = table_items(read_table(colour_table(folder)), "train")
        self.examples = examples_of(items, self.gemma, self.pictures, lambda _: None)
        self.collator = TrainerCollator.of(self.gemma, self.pictures)
        torch.manual_seed(0)
        lora = LoraConfig(r=4, lora_alpha=8, target_modules=LAYERS["language"])
        self.model = get_peft_model(with_completion_loss(self.gemma.model), lora)

    @property
    def rows(self) -> Dataset:
        return Dataset.from_list(rows_of(self.examples))

    def loss(self) -> float:
        """Of all rows, by our own loop's function."""
        batch = collate(self.examples, pad_id=self.collator.pad_id, image_id=self.collator.image_id, max_tokens=4096)
        values = torch.stack([self.pictures.pixel_values(number) for number in batch.pictures])
        with torch.no_grad():
            return batch_loss(self.gemma.model, batch, len(batch.targets), values).item()

    def trained(self) -> dict[str, torch.Tensor]:
        return {name: p.detach().clone() for name, p in self.model.named_parameters() if p.requires_grad}


def arguments(out: Path, batch: int, accumulation: int, steps: int = 1) -> dict[str, Any]:
    return {
        "output_dir": str(out),
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": accumulation,
        "max_steps": steps,
        "learning_rate": 1e-2,
        "optim": "sgd",
        "max_grad_norm": 1e9,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "remove_unused_columns": False,
        "disable_tqdm": True,
        "seed": 1,
    }


def in_trainer(tuning: Tuning, out: Path, batch: int, accumulation: int) -> Trainer:
    return Trainer(
        tuning.model,
        TrainingArguments(**arguments(out, batch, accumulation)),
        data_collator=tuning.collator,
        train_dataset=tuning.rows,
    )


def in_trl(tuning: Tuning, out: Path, batch: int, accumulation: int) -> Trainer:
    config = SFTConfig(
        **arguments(out, batch, accumulation),
        dataset_kwargs={"skip_prepare_dataset": True},
        gradient_checkpointing=False,
        max_length=None,
    )
    return TileLossSFTTrainer(
        tuning.model,
        config,
        data_collator=tuning.collator,
        train_dataset=tuning.rows,
        processing_class=tuning.gemma.tokenizer,
    )


@pytest.mark.parametrize("trainer_of", [in_trainer, in_trl])
def test_the_loss_is_ours_whatever_the_accumulation(trainer_of: Any, tmp_path: Path) -> None:
    """One update over twelve rows: as one batch, and as six of two; the logged loss is our own function's."""
    updated = []
    for batch, accumulation in ((12, 1), (2, 6)):
        tuning = Tuning(tmp_path / f"data{batch}")
        expected, before = tuning.loss(), tuning.trained()
        trainer = trainer_of(tuning, tmp_path / "out", batch, accumulation)
        trainer.train()
        [logged] = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        assert logged == pytest.approx(expected, abs=2e-4)
        after = tuning.trained()
        assert max((after[name] - before[name]).abs().max() for name in after) > 1e-5
        updated.append(after)
    for name, value in updated[0].items():
        torch.testing.assert_close(updated[1][name], value, rtol=1e-4, atol=1e-7)


def test_no_logits_and_a_model_without_labels_as_it_was(tmp_path: Path) -> None:
    tuning = Tuning(tmp_path / "data")
    batch = tuning.collator(rows_of(tuning.examples[:2]))
    said = tuning.model(**batch)
    assert said.logits is None and said.loss.requires_grad
    labels = batch.pop("labels")
    asked = tuning.model(**batch)
    logits = asked.logits[:, :-1].flatten(0, 1)
    dense = torch.nn.functional.cross_entropy(logits.float(), labels[:, 1:].flatten(), ignore_index=IGNORED)
    torch.testing.assert_close(said.loss, dense)


def test_only_answers_carry_labels_and_pictures_their_type(tmp_path: Path) -> None:
    tuning = Tuning(tmp_path / "data")
    batch = tuning.collator(rows_of(tuning.examples))
    for ids, types, labels, example in zip(
        batch["input_ids"], batch["token_type_ids"], batch["labels"], tuning.examples, strict=True
    ):
        assert labels[labels != IGNORED].tolist() == list(example.completion_ids)
        assert types.sum() == (ids == tuning.collator.image_id).sum() > 0
    assert len(batch["pixel_values"]) == len(tuning.examples)


def test_what_trl_saved_answers_in_the_engine(tmp_path: Path) -> None:
    tuning = Tuning(tmp_path / "data")
    trainer = in_trl(tuning, tmp_path / "out", 12, 1)
    trainer.train()
    trainer.save_model(str(tmp_path / "adapter"))
    film = tmp_path / "data" / "0.png"
    engine = MedGemma.from_pretrained("nano", device="cpu", adapter=tmp_path / "adapter")
    peft = MedGemma.from_pretrained("nano", device="cpu")
    peft.model = PeftModel.from_pretrained(peft.model, tmp_path / "adapter").eval().get_base_model()
    question = "Which imaging modality is this?"
    assert engine.ask(film, question)[0].text == peft.ask(film, question)[0].text


def test_the_pages_program_runs(tmp_path: Path) -> None:
    page = (REPOSITORY / "docs" / "trainers.md").read_text(encoding="utf-8")
    [code] = re.findall(r"^```python\n(.*?)^```$", page, flags=re.DOTALL | re.MULTILINE)
    colour_table(tmp_path)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()
    shutil.rmtree(tmp_path / "adapter")
