"""Supervised training of the decoder on examples with pictures; the vision tower stays as it is.

Letters: P pictures, V views of each, N patches.
"""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from finetune.collate import Batch, Example, collate
from finetune.losses.completion import completion_loss, next_tokens
from finetune.training import Precision, Schedule, autocast, step_generator, train
from medgemma.engine.vision import merge, project_patches


def train_decoder(
    model: Any,
    draw: Callable[[int, random.Random], Sequence[Example]],
    patches: torch.Tensor,
    schedule: Schedule,
    folder: Path,
    *,
    pad_id: int,
    max_tokens: int,
    precision: Precision,
    seed: int,
    quiet: bool,
) -> None:
    """Train projector and decoder of a Gemma3ForConditionalGeneration, on the device where it is; resumes.

    Args:
        model: its vision tower is frozen here.
        draw: (step, rng) to the examples of a step; must depend on nothing else.
        patches: (P, V, N, width) bfloat16, the frozen tower's output for V views of every picture.
        schedule: learning rates and length.
        folder: of the stage; its name also seeds the draws.
        pad_id: the tokenizer's.
        max_tokens: of a conversation; completions are cut here.
        precision: of the decoder; the loss is float32.
        seed: of the run.
        quiet: no progress bar.
    """
    model.model.vision_tower.requires_grad_(False)
    image_id, device = model.config.image_token_id, model.device

    def draw_batch(step: int) -> Batch:
        examples = draw(step, random.Random(f"{seed}:{folder.name}:{step}"))
        return collate(examples, pad_id=pad_id, image_id=image_id, max_tokens=max_tokens)

    def loss_of(step: int, batch: Batch) -> torch.Tensor:
        views = torch.randint(
            patches.shape[1], (len(batch.pictures),), generator=step_generator(seed, folder.name, step)
        )
        return batch_loss(model, batch.to(device), patches[list(batch.pictures), views].to(device).float(), precision)

    train(model, draw_batch, loss_of, schedule, folder, quiet=quiet)


def batch_loss(model: Any, batch: Batch, patches: torch.Tensor, precision: Precision = "float32") -> torch.Tensor:
    """Completion loss of one batch; `patches` (P, N, width) are its pictures' features in the order of the slots."""
    with autocast(patches.device.type, precision):
        if len(patches):
            images = project_patches(model, patches)
            embeddings = merge(model, batch.input_ids, batch.token_type_ids, images)
        else:
            embeddings = model.get_input_embeddings()(batch.input_ids)
        hidden = model.model(
            inputs_embeds=embeddings,
            attention_mask=batch.attention_mask,
            token_type_ids=batch.token_type_ids,
            use_cache=False,
        ).last_hidden_state
    states, targets = next_tokens(hidden, batch.labels)
    return completion_loss(states, model.lm_head.weight, targets, denominator=len(targets))
