"""clone: behaviour cloning of conversations and tool sessions: a MedGemma that replies as recorded episodes do.

--data is a data set of episodes, as `medgemma-eval` records them. Every reply is learned from all that was told before
it; no reward is read. A tenth of the groups (patients, scenarios) is held out. OUT/checkpoints has the model as it was
on the way, for `medgemma-finetune choose`; the log has the NLL of a token of the held-out replies at each.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from finetune.adapters import AdapterSection, adapt
from finetune.collate import Conversations, Example, fitting
from finetune.configuration import Section, keep_config
from finetune.packing import Layout
from finetune.selection.dialogues import Dialogues, read_dialogues
from finetune.selection.holding_out import hold_out
from finetune.selection.token_nll import examples_of_dialogues, token_nll
from finetune.supervised import tune_decoder
from finetune.tables.learning import save_tuned
from finetune.training import Evaluation, Loop, Schedule, join_ranks, leave_ranks, rows_of_step
from medgemma import MedGemma
from medsiglip.command import say


class Config(Section):
    """What is tuned, and how; the values are in clone.yaml."""

    model: str
    seed: int
    device: str
    dtype: Literal["auto", "float32", "bfloat16"]
    group: str | None
    held_out_share: float = Field(gt=0, lt=1)
    division_seed: int
    adapter: AdapterSection
    learning_rate: float = Field(gt=0)
    epochs: float = Field(gt=0)
    examples_per_step: int = Field(ge=1)
    tokens_a_part: int = Field(ge=1)
    max_tokens: int = Field(ge=1)
    packed: bool
    checkpoints: int = Field(ge=1)


def run(config: Config, data: Path, out: Path, quiet: bool) -> None:
    """Learn the replies of a data set of episodes; an interrupted run goes on.

    Raises:
        ValueError: There is no data set of conversations, one group alone, or no reply fits.
        FloatingPointError: The loss is not finite; the episodes are named, the last checkpoint is kept.
    """
    ranks, device = join_ranks(config.device)
    sides = hold_out(read_dialogues(data, config.group), config.held_out_share, config.division_seed)
    counted = f"{len(sides.kept.groups)} episodes of {data.name} learned, {len(sides.held_out.groups)} held out"
    keep_config(config, out, counted)
    gemma = MedGemma.from_pretrained(
        config.model, device=str(device), dtype="float32" if config.adapter.method == "full" else config.dtype
    )
    learned, judged = (_examples(side, gemma, config) for side in sides)
    steps = max(1, round(config.epochs * len(learned.examples) / config.examples_per_step))
    adapted, layout = adapt(gemma.model, config.adapter, seed=config.seed), _layout(config, gemma)

    def checkpoint(step: int) -> float:
        save_tuned(adapted, gemma, config.model, {"episodes": data.name}, out / "checkpoints" / f"{step:07}")
        return token_nll(gemma.model, judged.examples, judged.groups, layout).value

    tune_decoder(
        gemma.model,
        lambda step, _: [
            learned.examples[n]
            for n in rows_of_step(len(learned.examples), config.examples_per_step, config.seed, step)
        ],
        _no_picture,
        Schedule(config.learning_rate, steps, weight_decay=0.0),
        out / "stages" / "clone",
        Loop(config.seed, ranks, quiet=quiet),
        layout=layout,
        precision="bfloat16" if device.type == "cuda" and config.dtype != "float32" else "float32",
        settings={"adapter": config.adapter.model_dump(mode="json"), "base": gemma.fingerprint, "learned": counted},
        evaluation=Evaluation(checkpoint, "held_out_token_nll", max(1, steps // config.checkpoints), False),
    )
    leave_ranks(ranks)


@dataclass(frozen=True)
class Replies:
    """What is learned or judged."""

    examples: list[Example]
    groups: list[str]
    """Of each example."""


def _examples(side: Dialogues, gemma: MedGemma, config: Config) -> Replies:
    conversations = Conversations.of(gemma.tokenizer, gemma.image_tokens)
    examples = examples_of_dialogues(side, conversations)
    fit = fitting(examples, config.max_tokens)
    if report := fit.report(config.max_tokens):
        say(report)
    if not fit.kept:
        raise ValueError(f"no reply fits {config.max_tokens} tokens with its prompt; allow more with --set max_tokens")
    group_of = {id(one): side.groups[reply.episode] for one, reply in zip(examples, side.replies, strict=True)}
    return Replies(fit.kept, [group_of[id(one)] for one in fit.kept])


def _layout(config: Config, gemma: MedGemma) -> Layout:
    return Layout(
        pad_id=gemma.tokenizer.pad_token_id,
        image_id=getattr(gemma.model.config, "image_token_id", None),
        max_tokens=config.max_tokens,
        tokens_a_part=config.tokens_a_part,
        packed=config.packed,
    )


def _no_picture(number: int, generator: Any) -> Any:
    raise ValueError("an episode holds a picture, which cloning does not take; leave it out")
