"""Items with their right answers become a tuned MedGemma: what every recipe that teaches answers shares.

OUT/adapter loads in PEFT and in `--adapter`, OUT/model is a whole checkpoint. What is asked, which answer is right and
how the result is scored is the recipe's.
"""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field

from data_cards.split import is_kept_from_training
from evals.items import Item
from evals.running.local import answer_on_engine
from evals.running.options import RunOptions
from evals.tasks.task import Task
from finetune.adapters import Adapted, AdapterSection, adapt, save_adapter, trained_table
from finetune.collate import Example, fitting
from finetune.configuration import Section, keep_config
from finetune.forward import checkpoint_activations
from finetune.live import live
from finetune.packing import Layout
from finetune.supervised import tune_decoder
from finetune.tables.before_after import Load
from finetune.tables.examples import SeenPictures, examples_of, read_study, with_shuffled_answers
from finetune.training import (
    Evaluation,
    Loop,
    Precision,
    Ranks,
    Schedule,
    join_ranks,
    leave_ranks,
    load_best,
    rows_of_step,
)
from medgemma import MedGemma
from medgemma.checkpoints.adapters.merge import merge
from medgemma.checkpoints.convert import copy_companions, whole_folder
from medgemma.checkpoints.float16 import to_float16
from medgemma.checkpoints.layouts import save_in_hub_layout
from medgemma.nano import NANO_FOLDER
from medsiglip.checkpoints.folders import resolve_model
from medsiglip.command import progress, say

QUICK_STEPS = 150
VALIDATION_PERCENT = 10
"""Of the training side's groups, where a set has no validation side of its own."""


class AnswersConfig(Section):
    """What is tuned, and how; the values are in the recipe's YAML."""

    model: str
    seed: int
    quick: bool
    device: str
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """What is computed in; float16 is for cards without bfloat16."""
    faulty_rows: Literal["refused", "left-out"]
    labels: Literal["real", "shuffled"]
    adapter: AdapterSection
    learning_rate: float = Field(gt=0)
    epochs: float = Field(gt=0)
    examples_per_step: int = Field(ge=1)
    tokens_a_part: int = Field(ge=1)
    max_tokens: int = Field(ge=1)
    packed: bool
    checkpoint_activations: bool
    evaluations: int = Field(ge=0)
    evaluated_rows: int = Field(ge=1)
    merge: bool

    def steps(self, num_examples: int) -> int:
        """Updates of the run."""
        steps = max(1, round(self.epochs * num_examples / self.examples_per_step))
        return min(steps, QUICK_STEPS) if self.quick else steps


@dataclass(frozen=True)
class Lessons:
    """What a recipe learns from, and what chooses its weights."""

    source: str
    """The table or the set, for messages."""
    identity: str
    """What was learned from, with a hash: a line kept in OUT/config.yaml."""
    train: Sequence[Item]
    validation: Sequence[Item]
    """In the order of the data; the first of a seeded order are asked. Empty: the last weights are kept."""
    task: Task
    """Grades the validation items."""
    completion: Callable[[Item], str]
    """An item to the reply that is graded as right: what is learned."""
    prompt_form: Mapping[str, Any]
    """Kept beside the adapter: which tasks, in which version, and the prompts where they are the task's own."""


def learn(
    config: AnswersConfig, lessons: Lessons, out: Path, quiet: bool, score: Callable[[str, Load, Load], None]
) -> None:
    """Tune, write OUT/adapter and OUT/model, and score both models on the first process.

    Args:
        config: The recipe's.
        lessons: What it teaches.
        out: The run's folder; an interrupted run goes on.
        quiet: No progress bars.
        score: Gets the device and what loads the base and the tuned model.

    Raises:
        ValueError: Nothing is on the training side, or what is there cannot be used.
        FloatingPointError: The loss is not finite; the rows are named, the last checkpoint is kept.
    """
    ranks, device = join_ranks(config.device)
    keep_config(config, out, lessons.identity)
    if not lessons.train:
        raise ValueError(f"{lessons.source}: no row is on the side train; name another --split, or none")
    _tune(config, lessons, out, ranks, str(device), quiet)
    if ranks.rank == 0:
        adapter = out / "adapter" if config.adapter.method != "full" else None
        if adapter and config.merge:
            merge(resolve_model(config.model, NANO_FOLDER), adapter, out / "model", overwrite=True)

        def base() -> MedGemma:
            return MedGemma.from_pretrained(config.model, device=str(device), dtype=config.dtype)

        def tuned() -> MedGemma:
            model = config.model if adapter else out / "model"
            return MedGemma.from_pretrained(model, device=str(device), dtype=config.dtype, adapter=adapter)

        score(str(device), base, tuned)
    leave_ranks(ranks)


def divided(items: Sequence[Item]) -> tuple[list[Item], list[Item]]:
    """Divide a training side by group: what is learned, and what chooses the weights."""
    train: list[Item] = []
    validation: list[Item] = []
    for item in items:
        chosen = is_kept_from_training(f"validation:{item.group}", VALIDATION_PERCENT)
        (validation if chosen else train).append(item)
    return train, validation


def set_line(folder: Path, items: Sequence[Item]) -> str:
    """What a run has learned from, of a set with a card: its folder's name, and a hash of what is asked and right."""
    asked = json.dumps([(item.item_id, item.prompt, item.reference) for item in items])
    return f"set {folder.name}, {len(items)} items, sha256 {sha256(asked.encode()).hexdigest()[:16]}"


def _tune(config: AnswersConfig, lessons: Lessons, out: Path, ranks: Ranks, device: str, quiet: bool) -> None:
    """Train, and write OUT/adapter, or OUT/model for a model that is trained in full."""
    train, validation = lessons.train, lessons.validation
    if config.labels == "shuffled":
        train, validation = (with_shuffled_answers(items, config.seed) for items in (train, validation))
    gemma = _load(config, device)
    pictures = SeenPictures(gemma.preprocessing, read_study) if gemma.preprocessing else None
    with progress(len(train), "rows read", quiet) as advance:
        examples = examples_of(train, gemma, pictures, advance, lessons.completion)
    fit = fitting(examples, config.max_tokens)
    if report := fit.report(config.max_tokens):
        say(report)
    if not fit.kept:
        raise ValueError(f"{lessons.source}: no row fits {config.max_tokens} tokens; allow more with --set max_tokens")
    adapted = adapt(gemma.model, config.adapter, seed=config.seed)
    if config.checkpoint_activations:
        checkpoint_activations(gemma.model)
    if ranks.rank == 0:
        say(trained_table(gemma.model))
    steps, stage = config.steps(len(fit.kept)), out / "stages" / "tune"
    evaluation = _evaluation(config, lessons.task, validation, gemma, steps)
    tune_decoder(
        gemma.model,
        lambda step, _: _drawn(fit.kept, config, step),
        lambda number, _: _seen(pictures, number),
        Schedule(config.learning_rate, steps, weight_decay=0.0),
        stage,
        Loop(config.seed, ranks, quiet=quiet),
        layout=_layout(config, gemma),
        precision=_precision(config, device),
        settings={"adapter": config.adapter.model_dump(mode="json"), "base": gemma.fingerprint, "rows": len(fit.kept)},
        evaluation=evaluation,
    )
    if ranks.rank == 0:
        if evaluation:
            best = load_best(stage, gemma.model)
            say(f"best weights: after {best['steps']} of {steps} steps, {best['metric']} {float(best['value']):.3f}")
        save_tuned(adapted, gemma, config.model, lessons.prompt_form, out)


def _load(config: AnswersConfig, device: str) -> MedGemma:
    """The base: whole weights in float32 where they are trained in full, else as `medgemma ask` holds them."""
    full, four_bits = config.adapter.method == "full", config.adapter.method == "qlora"
    gemma = MedGemma.from_pretrained(
        config.model, device=device, dtype="float32" if full else config.dtype, quantize="nf4" if four_bits else None
    )
    if full and config.dtype == "float16":
        to_float16(gemma.model, config.model, keeps_weights=True)
    return gemma


def _precision(config: AnswersConfig, device: str) -> Precision:
    """On a GPU bfloat16, unless its layers compute in float16 by themselves or float32 was asked for."""
    return "bfloat16" if device.startswith("cuda") and config.dtype in ("auto", "bfloat16") else "float32"


def _drawn(examples: Sequence[Example], config: AnswersConfig, step: int) -> list[Example]:
    return [examples[n] for n in rows_of_step(len(examples), config.examples_per_step, config.seed, step)]


def _seen(pictures: SeenPictures | None, number: int) -> torch.Tensor:
    assert pictures is not None
    return pictures.pixel_values(number)


def _layout(config: AnswersConfig, gemma: MedGemma) -> Layout:
    return Layout(
        pad_id=gemma.tokenizer.pad_token_id,
        image_id=getattr(gemma.model.config, "image_token_id", None),
        max_tokens=config.max_tokens,
        tokens_a_part=config.tokens_a_part,
        packed=config.packed,
    )


def _evaluation(
    config: AnswersConfig, task: Task, validation: Sequence[Item], gemma: MedGemma, steps: int
) -> Evaluation | None:
    """The task's main metric on validation items, answered by the live weights."""
    if not validation or not config.evaluations:
        return None
    items = list(validation)
    random.Random(config.seed).shuffle(items)  # a table is often in the order of its labels
    items = items[: config.evaluated_rows]
    generation = RunOptions().generation(task)

    def metric(step: int) -> float:
        outputs = {output.item_id: output for output in answer_on_engine(items, live(gemma), generation)}
        graded = [task.grade(item, outputs[item.item_id])[task.main_metric] for item in items]
        return sum(graded) / len(graded)

    return Evaluation(metric, task.main_metric, every_steps=max(1, steps // config.evaluations))


def save_tuned(adapted: Adapted, gemma: MedGemma, base: str, prompt_form: Mapping[str, Any], out: Path) -> None:
    """Write OUT/adapter, or OUT/model for a model that is trained in full.

    Args:
        adapted: What was trained.
        gemma: Around the same network.
        base: Its name or folder, as the adapter's file gives it.
        prompt_form: How the rows were put: which tasks, in which version.
        out: The run's folder.
    """
    if adapted.peft is not None:
        form = {
            "form": "chat" if gemma.tokenizer.chat_template else "plain",
            "system": "",
            "picture_policy": gemma.preprocessing.policy if gemma.preprocessing else None,
            **prompt_form,
        }
        save_adapter(adapted, out / "adapter", base=base, base_folder=gemma.folder, prompt_form=form, overwrite=True)
        return
    with whole_folder(out / "model", True, gemma.folder) as folder:
        save_in_hub_layout(gemma.model, folder, torch.bfloat16)
        copy_companions(gemma.folder, folder)
