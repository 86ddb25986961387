"""classify: any table to a picture classifier on MedSigLIP: one of several classes, or findings present or absent.

OUT/model loads in transformers' AutoModelForImageClassification; OUT/adapter, of a tower tuned by lora, in PEFT and in
`medgemma merge` over the encoder. OUT/scores.json holds the figures of the held-out rows beside the commonest answer's,
with intervals over groups; OUT/predictions.csv every row's probabilities.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field

from data_cards.table import Row, Split, Table, Target
from data_cards.table.rows import SPLITS
from finetune.adapters import Adapted, AdapterSection, adapt, save_adapter, trained_table
from finetune.configuration import Section, keep_config
from finetune.tables.classification import (
    Answer,
    LabelledRows,
    all_features,
    classifier_of,
    probabilities,
    save_classifier,
    train_head,
    train_tower,
)
from finetune.tables.classification_scores import metric_of, score, write_predictions
from finetune.tables.examples import SeenPictures, identity_line, read_pictures, read_study, usable
from finetune.tables.scoring import scored_side
from finetune.training import Evaluation, Loop, Ranks, Schedule, join_ranks, leave_ranks, load_best
from medsiglip.command import progress, say
from medsiglip.encoder import MedSigLIP

QUICK_STEPS = 60


class Config(Section):
    """What is tuned, and how; the values are in classify.yaml."""

    model: str
    seed: int
    quick: bool
    device: str
    faulty_rows: Literal["refused", "left-out"]
    labels: Literal["real", "shuffled"]
    target: str
    tower: Literal["frozen", "lora", "dora", "last", "full"]
    last_layers: int = Field(ge=1)
    rank: int = Field(ge=1)
    alpha: int = Field(ge=1)
    head_learning_rate: float = Field(gt=0)
    head_steps: int = Field(ge=1)
    head_rows_per_step: int = Field(ge=1)
    head_weight_decay: float = Field(ge=0)
    learning_rate: float = Field(gt=0)
    epochs: float = Field(gt=0)
    rows_per_step: int = Field(ge=1)
    pictures_a_part: int = Field(ge=1)
    evaluations: int = Field(ge=1)

    def tower_steps(self, num_rows: int) -> int:
        """Updates of the tower."""
        steps = max(1, round(self.epochs * num_rows / self.rows_per_step))
        return min(steps, QUICK_STEPS) if self.quick else steps


def run_table(config: Config, table: Table, out: Path, quiet: bool) -> None:
    """Tune on the side train, keep the best by the side validation, score on the side test.

    Raises:
        ValueError: the table has rows or pictures that cannot be used, or no label of this kind.
        FloatingPointError: the loss is not finite; the rows are named, the last checkpoint is kept.
    """
    table, target = usable(table, config.faulty_rows), table.target(config.target)
    if target.kind not in ("class", "multi-label"):
        raise ValueError(f"{table.source}: {target.name} is of the kind {target.kind}; expected classes or findings")
    answer: Answer = "class" if target.kind == "class" else "multi-label"
    ranks, device = join_ranks(config.device)
    keep_config(config, out, identity_line(table))
    encoder = MedSigLIP.from_pretrained(config.model, device=str(device), dtype="float32")
    pictures = SeenPictures(encoder.preprocessing, read_study)
    sides = {split: _labelled(table, target, split, pictures, quiet) for split in SPLITS}
    if not len(sides["train"]):
        raise ValueError(f"{table.source}: no row with {target.name} is on the side train; name another --split")
    if len(sides["train"]) < 2:
        raise ValueError(f"{table.source}: one row is on the side train; a head needs several of each class")
    if config.labels == "shuffled":
        for split in ("train", "validation"):
            sides[split] = _shuffled(sides[split], config.seed)
    network = classifier_of(encoder, target.classes, answer)
    adapted = _tune(config, encoder, network, sides, pictures, answer, out, ranks, quiet)
    if ranks.rank == 0:
        _save(config, encoder, network, adapted, out)
        _score(table, target, sides, pictures, answer, out, str(device), quiet)
    leave_ranks(ranks)


def _tune(
    config: Config,
    encoder: MedSigLIP,
    network: Any,
    sides: dict[Split, LabelledRows],
    pictures: SeenPictures,
    answer: Answer,
    out: Path,
    ranks: Ranks,
    quiet: bool,
) -> Adapted | None:
    """The head, and the tower if it is tuned; returns its low-rank updates."""
    loop, train, validation = Loop(config.seed, ranks, quiet=quiet), sides["train"], sides["validation"]
    network.requires_grad_(False)
    with progress(len(train) + len(validation), "rows encoded", quiet) as advance:
        features, seen = (all_features(network, rows, pictures, advance) for rows in (train, validation))

    def of_head(step: int) -> float:
        with torch.no_grad():
            return metric_of(network.classifier(seen.to(network.classifier.weight.device)), validation.values, answer)

    schedule = Schedule(config.head_learning_rate, config.head_steps, weight_decay=config.head_weight_decay)
    train_head(
        network,
        features,
        train,
        answer,
        schedule,
        out / "stages" / "head",
        loop,
        rows_per_step=config.head_rows_per_step,
        evaluation=_evaluation(of_head, config, config.head_steps, answer) if len(validation) else None,
    )
    if config.tower == "frozen":
        return None
    adapted = _open_tower(config, encoder, network)
    network.classifier.requires_grad_(True)
    if ranks.rank == 0:
        say(trained_table(network))

    def of_tower(step: int) -> float:
        with torch.inference_mode():
            found = all_features(network, validation, pictures, lambda _: None)
            return metric_of(network.classifier(found.to(network.classifier.weight.device)), validation.values, answer)

    steps = config.tower_steps(len(train))
    evaluation = _evaluation(of_tower, config, steps, answer) if len(validation) else None
    train_tower(
        network,
        train,
        pictures,
        answer,
        Schedule(config.learning_rate, steps),
        out / "stages" / "tower",
        loop,
        rows_per_step=config.rows_per_step,
        pictures_a_part=config.pictures_a_part,
        precision="bfloat16" if encoder.model.device.type == "cuda" else "float32",
        settings={"base": encoder.fingerprint, "rows": len(train), "tower": config.tower},
        evaluation=evaluation,
    )
    if evaluation:
        best = load_best(out / "stages" / "tower", network)
        say(f"best weights: after {best['steps']} of {steps} steps, {best['metric']} {float(best['value']):.3f}")
    return adapted


def _open_tower(config: Config, encoder: MedSigLIP, network: Any) -> Adapted | None:
    """Let the tower learn; returns its low-rank updates."""
    if config.tower in ("lora", "dora"):
        section = AdapterSection(method=config.tower, parts=("tower",), rank=config.rank, alpha=config.alpha)
        return adapt(encoder.model, section, seed=config.seed)
    layers = network.vision_model.encoder.layers
    learning = [network.vision_model] if config.tower == "full" else [*layers[-config.last_layers :]]
    for module in learning:
        module.requires_grad_(True)
    if config.tower == "full":  # the pooling head is not in the way from pixels to the mean of the patches
        network.vision_model.head.requires_grad_(False)
    return None


def _evaluation(metric: Callable[[int], float], config: Config, steps: int, answer: Answer) -> Evaluation:
    name = "accuracy" if answer == "class" else "macro_auroc"
    return Evaluation(metric, name, every_steps=max(1, steps // config.evaluations))


def _labelled(table: Table, target: Target, split: Split, pictures: SeenPictures, quiet: bool) -> LabelledRows:
    """The rows of a side that say what is right; every picture is read once, so that a bad one is named now."""
    rows = [row for row in table.on(split) if target.name in row.labels and row.files]
    numbers = read_pictures(rows, split, pictures, quiet)
    values = torch.tensor([_values(row, target) for row in rows]).reshape(len(rows), len(target.classes))
    return LabelledRows(numbers, values, [row.place for row in rows])


def _values(row: Row, target: Target) -> list[float]:
    label = row.labels[target.name]
    if isinstance(label, str):
        return [float(name == label) for name in target.classes]
    assert isinstance(label, dict)
    return [float(label[name]) if name in label else float("nan") for name in target.classes]


def _shuffled(rows: LabelledRows, seed: int) -> LabelledRows:
    """The control: labels go to other rows."""
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    return replace(rows, values=rows.values[order])


def _save(config: Config, encoder: MedSigLIP, network: Any, adapted: Adapted | None, out: Path) -> None:
    if adapted is not None:
        save_adapter(
            adapted,
            out / "adapter",
            base=config.model,
            base_folder=encoder.folder,
            prompt_form={"picture_policy": encoder.preprocessing.policy},
            overwrite=True,
        )
        adapted.peft.merge_and_unload()
    save_classifier(network, encoder.folder, out / "model")


def _score(
    table: Table,
    target: Target,
    sides: dict[Split, LabelledRows],
    pictures: SeenPictures,
    answer: Answer,
    out: Path,
    device: str,
    quiet: bool,
) -> None:
    side = scored_side(table)
    if side is None or not len(sides[side]):
        say(f"{table.source}: no row is kept from training, so nothing is scored; name a --split column")
        return
    with progress(len(sides[side]), "rows scored", quiet) as advance:
        found = probabilities(out / "model", sides[side], pictures, device, advance)
    groups = {row.place: row.group for row in table.rows}
    rows = sides[side]
    of_rows: Sequence[str] = [groups[place] for place in rows.places]
    write_predictions(out / "predictions.csv", rows, of_rows, found, target.classes)
    for line in score(out / "scores.json", rows.values, sides["train"].values, of_rows, found, target.classes, answer):
        say(line)
