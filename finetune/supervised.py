"""Supervised training of the decoder on conversations with pictures.

Letters: P pictures, V views of each, N patches, S side in pixels.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from finetune.adapters import output_weight
from finetune.collate import Batch, Example
from finetune.forward import completion_states
from finetune.losses.completion import completion_loss
from finetune.packing import Layout
from finetune.training import Evaluation, Loop, Part, Precision, Schedule, Turn, step_generator, train

DrawExamples = Callable[[int, random.Random], Sequence[Example]]
"""(step, rng) to the examples of a step, all ranks' together; must depend on nothing else."""


class Seen(NamedTuple):
    """A batch with its pictures."""

    batch: Batch
    pixel_values: torch.Tensor | None
    """(P, 3, S, S) float32."""


def tune_decoder(
    model: Any,
    draw: DrawExamples,
    see: Callable[[int, torch.Generator], torch.Tensor],
    schedule: Schedule,
    folder: Path,
    loop: Loop,
    *,
    layout: Layout,
    precision: Precision,
    settings: Mapping[str, Any],
    evaluation: Evaluation | None = None,
) -> None:
    """Train what needs a gradient of a Gemma 3 on conversations, its pictures read anew at every step; resumes.

    Args:
        model: Gemma3ForConditionalGeneration, or Gemma3ForCausalLM where no example has pictures; PEFT's layers in it
            are trained as they are.
        draw: see `DrawExamples`.
        see: a picture's number, and a generator for augmentation that is the picture's own in this step, to pixel
            values (3, S, S); runs where the step is drawn, beside a GPU in processes of its own.
        schedule: learning rates and length.
        folder: of the stage; its name also seeds the draws.
        loop: how it runs, on how many ranks.
        layout: how a step's examples become parts.
        precision: of the forward pass.
        settings: what else decides the result: the data, the prompt form, what is trained.
        evaluation: keeps the best weights.
    """

    def draw_parts(step: int) -> list[Part[Seen]]:
        examples = draw(step, random.Random(f"{loop.seed}:{folder.name}:{step}"))
        return [Part(seen(part.drawn, step), part.weight, part.places) for part in layout.parts(examples, loop.ranks)]

    def seen(batch: Batch, step: int) -> Seen:
        values = {
            n: see(n, step_generator(loop.seed, f"{folder.name}:{n}", step)) for n in dict.fromkeys(batch.pictures)
        }
        return Seen(batch, torch.stack([values[number] for number in batch.pictures]) if values else None)

    def loss_of(drawn: Seen, turn: Turn) -> torch.Tensor:
        values = None if drawn.pixel_values is None else drawn.pixel_values.to(model.device)
        return batch_loss(model, drawn.batch.to(model.device), turn.denominator, values, precision=precision)

    made = {"precision": precision, "max_tokens": layout.max_tokens, **settings}
    train(model, draw_parts, loss_of, schedule, folder, loop, settings=made, evaluation=evaluation)


def train_decoder(
    model: Any,
    draw: DrawExamples,
    patches: torch.Tensor,
    schedule: Schedule,
    folder: Path,
    loop: Loop,
    *,
    layout: Layout,
    precision: Precision,
) -> None:
    """Train projector and decoder of a Gemma3ForConditionalGeneration over a frozen tower's views; resumes.

    Args:
        model: its vision tower is frozen here.
        draw: see `DrawExamples`.
        patches: (P, V, N, width) bfloat16, the frozen tower's output for V views of every picture.
        schedule: learning rates and length.
        folder: of the stage; its name also seeds the draws.
        loop: how it runs.
        layout: how a step's examples become parts.
        precision: of the decoder; the loss is float32.
    """
    model.model.vision_tower.requires_grad_(False)

    def draw_parts(step: int) -> list[Part[Batch]]:
        return layout.parts(draw(step, random.Random(f"{loop.seed}:{folder.name}:{step}")), loop.ranks)

    def loss_of(batch: Batch, turn: Turn) -> torch.Tensor:
        rng = step_generator(loop.seed, folder.name, turn.step)
        views = torch.randint(patches.shape[1], (len(batch.pictures),), generator=rng)
        seen = patches[list(batch.pictures), views].to(model.device).float()
        return batch_loss(model, batch.to(model.device), turn.denominator, patches=seen, precision=precision)

    train(model, draw_parts, loss_of, schedule, folder, loop, settings={"precision": precision})


def batch_loss(
    model: Any,
    batch: Batch,
    denominator: float,
    pixel_values: torch.Tensor | None = None,
    *,
    patches: torch.Tensor | None = None,
    precision: Precision = "float32",
) -> torch.Tensor:
    """Completion loss of one part of a step; pictures as `finetune.forward.completion_states` takes them."""
    states = completion_states(model, batch, pixel_values=pixel_values, patches=patches, precision=precision)
    return completion_loss(states, output_weight(model), batch.targets, denominator=denominator)
