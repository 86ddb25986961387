"""contrastive: any table of pictures with captions, or with labels that become captions, to a tuned MedSigLIP.

OUT/model loads in transformers' SiglipModel and in `--model`; OUT/adapter, of low-rank updates, in PEFT and in
`medgemma merge`. OUT/scores.json holds the figures of the held-out rows before and after, with intervals over groups.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from data_cards.table import Columns, Split, Table, Target, read_table
from finetune.adapters import Adapted, AdapterSection, adapt, save_adapter, trained_table
from finetune.configuration import Section, keep_config
from finetune.tables.contrastive import Mixture, train_pairs
from finetune.tables.examples import SeenPictures, identity_line, read_pictures, read_study, usable
from finetune.tables.pair_scores import Labels, compare, mean_reciprocal_rank, seen_by
from finetune.tables.pairs import Captioned, LongCaptions, Pairs, caption_target, captioned_rows, fitting, paired
from finetune.tables.scoring import scored_side
from finetune.training import Evaluation, Loop, Ranks, Schedule, join_ranks, leave_ranks, load_best
from medgemma.checkpoints.convert import copy_companions, whole_folder
from medsiglip.command import progress, say
from medsiglip.encoder import MedSigLIP

QUICK_STEPS = 60


class GeneralSection(Section):
    """Pairs of another kind that are not to be forgotten."""

    table: str
    caption: str
    weight: float = Field(ge=0, lt=1)


class Config(Section):
    """What is tuned, and how; the values are in contrastive.yaml."""

    model: str
    seed: int
    quick: bool
    device: str
    faulty_rows: Literal["refused", "left-out"]
    labels: Literal["real", "shuffled"]
    caption: str
    same_class: str
    template: str
    long_captions: LongCaptions
    general: GeneralSection
    method: Literal["lora", "dora", "last", "full"]
    last_layers: int = Field(ge=1)
    rank: int = Field(ge=1)
    alpha: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    epochs: float = Field(gt=0)
    pairs_per_step: int = Field(ge=2)
    pairs_a_part: int = Field(ge=1)
    evaluations: int = Field(ge=1)

    def steps(self, num_rows: int) -> int:
        """Updates of the run."""
        steps = max(1, round(self.epochs * num_rows / self.pairs_per_step))
        return min(steps, QUICK_STEPS) if self.quick else steps


@dataclass(frozen=True)
class Source:
    """A table with its captions."""

    table: Table
    rows: Sequence[Captioned]
    zero_shot: Target | None
    """The classes or findings that are asked for by their captions."""
    template: str

    def side(self, split: Split, pictures: SeenPictures, quiet: bool) -> tuple[Pairs, Labels]:
        """The pairs of a side, whose pictures are read now, and what is right of them.

        Raises:
            ValueError: pictures cannot be read; the first rows are named.
        """
        rows = [row for row in self.rows if row.row.split == split]
        numbers = read_pictures([row.row for row in rows], split, pictures, quiet)
        classes = sorted({row.class_name for row in self.rows if row.class_name})
        return paired(rows, numbers, classes), Labels.of(rows, self.zero_shot, self.template)


def run_table(config: Config, table: Table, out: Path, quiet: bool) -> None:
    """Tune on the side train, keep the best by the side validation, score base and tuned encoder on the side test.

    Raises:
        ValueError: the table has rows, pictures or captions that cannot be used, or too few to learn from.
        FloatingPointError: the loss is not finite; the rows are named, the last checkpoint is kept.
    """
    ranks, device = join_ranks(config.device)
    encoder = MedSigLIP.from_pretrained(config.model, device=str(device), dtype="float32")
    own = _source(config, usable(table, config.faulty_rows), config.caption, config.same_class, encoder)
    general = _general(config, encoder)
    keep_config(config, out, "; ".join(identity_line(one.table) for one in (own, general) if one))
    pictures = SeenPictures(encoder.preprocessing, read_study)
    train, validation = (own.side(split, pictures, quiet)[0] for split in ("train", "validation"))
    if len(train.texts) < 2:
        raise ValueError(
            f"{own.table.source}: the side train has {len(train.texts)} different captions; expected two or more"
        )
    if config.labels == "shuffled":
        train, validation = train.shuffled(config.seed), validation.shuffled(config.seed)
    replayed = general.side("train", pictures, quiet)[0] if general else None
    adapted = _tune(config, encoder, train, replayed, validation, pictures, out, ranks, quiet)
    if ranks.rank == 0:
        _save(config, encoder, adapted, out)
        _score(config, own, out / "scores.json", out, pictures, str(device), quiet)
        if general:
            _score(config, general, out / "general-scores.json", out, pictures, str(device), quiet)
    leave_ranks(ranks)


def _source(config: Config, table: Table, caption: str, same_class: str, encoder: MedSigLIP) -> Source:
    rows, left_out = captioned_rows(table, caption, same_class, config.template)
    kept, long = fitting(rows, encoder, config.long_captions)
    for line in (*left_out, long):
        if line:
            say(f"{table.source}: {line}")
    asked = table.target(same_class) if same_class else caption_target(table, caption, same_class)
    return Source(table, kept, asked if asked.kind in ("class", "multi-label") else None, config.template)


def _general(config: Config, encoder: MedSigLIP) -> Source | None:
    if not config.general.table or not config.general.weight:
        return None
    label = (config.general.caption,) if config.general.caption else ()
    table = read_table(Path(config.general.table), Columns(label=label))
    for line in (*table.described(), *table.findings):
        say(line)
    source = _source(config, usable(table, config.faulty_rows), config.general.caption, "", encoder)
    if not any(row.row.split == "train" for row in source.rows):
        raise ValueError(f"{table.source}: no general pair is on the side train; give more rows, or no general.table")
    return source


def _tune(
    config: Config,
    encoder: MedSigLIP,
    train: Pairs,
    general: Pairs | None,
    validation: Pairs,
    pictures: SeenPictures,
    out: Path,
    ranks: Ranks,
    quiet: bool,
) -> Adapted | None:
    """Train and load the best weights; returns the low-rank updates."""
    adapted, steps = _opened(config, encoder), config.steps(len(train))
    if ranks.rank == 0:
        say(trained_table(encoder.model))
    pairs = train if general is None else train.with_more(general)
    weight = 0.0 if general is None else config.general.weight
    none = Labels.of([], None, config.template)

    def metric(step: int) -> float:
        return mean_reciprocal_rank(seen_by(encoder, validation, none, pictures, lambda rows: None), validation)

    every = max(1, steps // config.evaluations)
    evaluation = Evaluation(metric, "mean_reciprocal_rank", every) if len(validation.texts) > 1 else None
    stage = out / "stages" / "tune"
    train_pairs(
        encoder.model,
        pairs,
        Mixture(len(train), len(pairs) - len(train), weight),
        encoder.text_inputs(pairs.texts),
        pictures,
        Schedule(config.learning_rate, steps),
        stage,
        Loop(config.seed, ranks, quiet=quiet),
        pairs_per_step=config.pairs_per_step,
        pairs_a_part=config.pairs_a_part,
        precision="bfloat16" if encoder.model.device.type == "cuda" else "float32",
        settings={"base": encoder.fingerprint, "rows": len(train), "general": len(pairs) - len(train)},
        evaluation=evaluation,
    )
    if evaluation:
        best = load_best(stage, encoder.model)
        if ranks.rank == 0:
            say(f"best weights: after {best['steps']} of {steps} steps, {best['metric']} {float(best['value']):.3f}")
    return adapted


def _opened(config: Config, encoder: MedSigLIP) -> Adapted | None:
    """Let the encoder learn; returns its low-rank updates."""
    model = encoder.model
    if config.method in ("lora", "dora"):
        section = AdapterSection(method=config.method, parts=("tower", "text"), rank=config.rank, alpha=config.alpha)
        return adapt(model, section, seed=config.seed)
    model.requires_grad_(config.method == "full")
    if config.method == "last":
        towers = (model.vision_model, model.text_model)
        for module in [
            layer for tower in towers for layer in [*tower.encoder.layers[-config.last_layers :], tower.head]
        ]:
            module.requires_grad_(True)
        model.logit_scale.requires_grad_(True)
        model.logit_bias.requires_grad_(True)
    return None


def _save(config: Config, encoder: MedSigLIP, adapted: Adapted | None, out: Path) -> None:
    if adapted is not None:
        save_adapter(
            adapted,
            out / "adapter",
            base=config.model,
            base_folder=encoder.folder,
            prompt_form={"picture_policy": encoder.preprocessing.policy, "template": config.template},
            overwrite=True,
        )
        adapted.peft.merge_and_unload()
    with whole_folder(out / "model", True, encoder.folder) as folder:
        encoder.model.save_pretrained(folder)
        copy_companions(encoder.folder, folder)


def _score(
    config: Config, source: Source, path: Path, out: Path, pictures: SeenPictures, device: str, quiet: bool
) -> None:
    side = scored_side(source.table)
    pairs, labels = source.side(side, pictures, quiet) if side else (None, None)
    if pairs is None or labels is None or not len(pairs):
        say(f"{source.table.source}: no row is kept from training, so nothing is scored; name a --split column")
        return
    seen = []
    for name, model in {"base": config.model, "tuned": str(out / "model")}.items():
        encoder = MedSigLIP.from_pretrained(model, device=device, dtype="float32")
        with progress(len(pairs), f"rows scored by the {name} encoder", quiet) as advance:
            seen.append(seen_by(encoder, pairs, labels, pictures, advance))
    before, after = seen
    for line in compare(path, before, after, pairs, labels):
        say(f"{side}: {line}" if path.name == "scores.json" else f"{side}, general: {line}")
