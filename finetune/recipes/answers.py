"""answers: any table to a tuned MedGemma that answers freely, by letter, with yes or no, a number or boxes.

Rows are asked as `medgemma-eval run --table` asks them, and the answer alone is learned. OUT/adapter loads in PEFT and
in `--adapter`; OUT/model is a whole checkpoint; OUT/scores holds the base's answers to the held-out rows, those of the
tuned model, and the commonest answer's, compared over groups.
"""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field

from data_cards.table import Table
from evals.items import Item
from evals.running.local import answer_on_engine
from evals.running.options import RunOptions
from evals.tasks.tables import table_kinds, task_of
from finetune.adapters import Adapted, AdapterSection, adapt, save_adapter, trained_table
from finetune.collate import Example, fitting
from finetune.configuration import Section, keep_config
from finetune.forward import checkpoint_activations
from finetune.live import live
from finetune.packing import Layout
from finetune.supervised import tune_decoder
from finetune.tables.examples import (
    SeenPictures,
    examples_of,
    identity_line,
    read_study,
    table_items,
    usable,
    with_shuffled_answers,
)
from finetune.tables.scoring import CommonestAnswer, score_models
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
from medgemma.checkpoints.convert import copy_companions, whole_folder
from medgemma.checkpoints.layouts import save_in_hub_layout
from medgemma.checkpoints.merge import merge
from medgemma.nano import NANO_FOLDER
from medsiglip.checkpoints.folders import resolve_model
from medsiglip.command import progress, say

QUICK_STEPS, QUICK_ROWS = 150, 200


class Config(Section):
    """What is tuned, and how; the values are in answers.yaml."""

    model: str
    seed: int
    quick: bool
    device: str
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


def run_table(config: Config, table: Table, out: Path, quiet: bool) -> None:
    """Tune on the side train, keep the best by the side validation, score on the side test.

    Raises:
        ValueError: the table has rows or pictures that cannot be used, or holds nothing to learn.
        FloatingPointError: the loss is not finite; the rows are named, the last checkpoint is kept.
    """
    table = usable(table, config.faulty_rows)
    ranks, device = join_ranks(config.device)
    keep_config(config, out, identity_line(table))
    train, validation = table_items(table, "train"), table_items(table, "validation")
    if not train:
        raise ValueError(f"{table.source}: no row is on the side train; name another --split, or none")
    if config.labels == "shuffled":
        train, validation = (with_shuffled_answers(items, config.seed) for items in (train, validation))
    tune(config, table, train, validation, out, ranks, str(device), quiet)
    if ranks.rank == 0:
        finish(config, table, train, out, str(device), quiet)
    leave_ranks(ranks)


def tune(
    config: Config,
    table: Table,
    train: Sequence[Item],
    validation: Sequence[Item],
    out: Path,
    ranks: Ranks,
    device: str,
    quiet: bool,
) -> None:
    """Train, and write OUT/adapter, or OUT/model for a model that is trained in full."""
    gemma = _load(config, device)
    pictures = SeenPictures(gemma.preprocessing, read_study) if gemma.preprocessing else None
    with progress(len(train), "rows read", quiet) as advance:
        examples = examples_of(train, gemma, pictures, advance)
    fit = fitting(examples, config.max_tokens)
    if report := fit.report(config.max_tokens):
        say(report)
    if not fit.kept:
        raise ValueError(f"{table.source}: no row fits {config.max_tokens} tokens; allow more with --set max_tokens")
    adapted = adapt(gemma.model, config.adapter, seed=config.seed)
    if config.checkpoint_activations:
        checkpoint_activations(gemma.model)
    if ranks.rank == 0:
        say(trained_table(gemma.model))
    steps, stage = config.steps(len(fit.kept)), out / "stages" / "tune"
    evaluation = _evaluation(config, table, validation, gemma, steps) if validation and config.evaluations else None
    tune_decoder(
        gemma.model,
        lambda step, _: _drawn(fit.kept, config, step),
        lambda number, _: _seen(pictures, number),
        Schedule(config.learning_rate, steps, weight_decay=0.0),
        stage,
        Loop(config.seed, ranks, quiet=quiet),
        layout=_layout(config, gemma),
        precision=_precision(device),
        settings={"adapter": config.adapter.model_dump(mode="json"), "base": gemma.fingerprint, "rows": len(fit.kept)},
        evaluation=evaluation,
    )
    if ranks.rank == 0:
        if evaluation:
            best = load_best(stage, gemma.model)
            say(f"best weights: after {best['steps']} of {steps} steps, {best['metric']} {float(best['value']):.3f}")
        _save(config, adapted, gemma, table, out)


def finish(config: Config, table: Table, train: Sequence[Item], out: Path, device: str, quiet: bool) -> None:
    """Merge what was written, and score it beside its base and the commonest answer."""
    adapter = out / "adapter" if config.adapter.method != "full" else None
    if adapter and config.merge:
        merge(resolve_model(config.model, NANO_FOLDER), adapter, out / "model", overwrite=True)

    def base() -> MedGemma:
        return MedGemma.from_pretrained(config.model, device=device)

    def tuned() -> MedGemma:
        return MedGemma.from_pretrained(config.model if adapter else out / "model", device=device, adapter=adapter)

    score_models(
        table,
        {"commonest answer": lambda: CommonestAnswer.of(train), "base": base, "tuned": tuned},
        out / "scores",
        limit=QUICK_ROWS if config.quick else None,
        command="medgemma-finetune run answers",
        quiet=quiet,
    )


def _load(config: Config, device: str) -> MedGemma:
    """The base: whole weights in float32 where they are trained in full, else as `medgemma ask` holds them."""
    full, four_bits = config.adapter.method == "full", config.adapter.method == "qlora"
    return MedGemma.from_pretrained(
        config.model, device=device, dtype="float32" if full else None, quantize="nf4" if four_bits else None
    )


def _precision(device: str) -> Precision:
    return "bfloat16" if device.startswith("cuda") else "float32"


def _drawn(examples: Sequence[Example], config: Config, step: int) -> list[Example]:
    return [examples[n] for n in rows_of_step(len(examples), config.examples_per_step, config.seed, step)]


def _seen(pictures: SeenPictures | None, number: int) -> torch.Tensor:
    assert pictures is not None
    return pictures.pixel_values(number)


def _layout(config: Config, gemma: MedGemma) -> Layout:
    return Layout(
        pad_id=gemma.tokenizer.pad_token_id,
        image_id=getattr(gemma.model.config, "image_token_id", None),
        max_tokens=config.max_tokens,
        tokens_a_part=config.tokens_a_part,
        packed=config.packed,
    )


def _evaluation(
    config: Config, table: Table, validation: Sequence[Item], gemma: MedGemma, steps: int
) -> Evaluation | None:
    """The main metric of the table's first kind, on validation rows, answered by the live weights."""
    task = task_of(table, table_kinds(table)[0])
    items = [item for item in validation if item.meta["table_kind"] == table_kinds(table)[0]]
    random.Random(config.seed).shuffle(items)  # a table is often in the order of its labels
    items = items[: config.evaluated_rows]
    generation = RunOptions().generation(task)

    def metric(step: int) -> float:
        outputs = {output.item_id: output for output in answer_on_engine(items, live(gemma), generation)}
        graded = [task.grade(item, outputs[item.item_id])[task.main_metric] for item in items]
        return sum(graded) / len(graded)

    return Evaluation(metric, task.main_metric, every_steps=max(1, steps // config.evaluations)) if items else None


def _save(config: Config, adapted: Adapted, gemma: MedGemma, table: Table, out: Path) -> None:
    if adapted.peft is not None:
        form = _prompt_form(gemma, table)
        save_adapter(
            adapted, out / "adapter", base=config.model, base_folder=gemma.folder, prompt_form=form, overwrite=True
        )
        return
    with whole_folder(out / "model", True, gemma.folder) as folder:
        save_in_hub_layout(gemma.model, folder, torch.bfloat16)
        copy_companions(gemma.folder, folder)


def _prompt_form(gemma: MedGemma, table: Table) -> dict[str, Any]:
    """How the rows were put; the questions themselves only where they are the task's own words."""
    kinds = {kind: task_of(table, kind).version for kind in table_kinds(table)}
    own = not table.columns.question and not table.columns.messages
    prompts = sorted({item.prompt for item in table_items(table, "train")}) if own else []
    return {
        "form": "chat" if gemma.tokenizer.chat_template else "plain",
        "system": "",
        "picture_policy": gemma.preprocessing.policy if gemma.preprocessing else None,
        "table_tasks": kinds,
        "prompts": prompts,
    }
