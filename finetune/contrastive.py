"""Contrastive training of an encoder on pictures whose labels are facts.

Letters: N pictures of a step, M captions of a step, P pictures in all.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from evals.tasks.zero_shot import Caption
from finetune.augment import Augmentation, augment
from finetune.losses.contrastive import fact_relations, sigmoid_loss
from finetune.training import Loop, Part, Precision, Schedule, Turn, autocast, step_generator, train
from medsiglip.encoder import tokenize

Facts = Mapping[str, str]


@dataclass(frozen=True)
class PictureSource:
    """Pictures of one data set, and how many of them go into every step."""

    numbers: tuple[int, ...]
    """Rows of the pixel tensor."""
    per_step: int
    free_orientation: bool
    """Up and left mean nothing here (histology)."""


@dataclass(frozen=True)
class ContrastiveData:
    """All that the stage draws from."""

    pixels: torch.Tensor
    """(P, 3, S', S') uint8, a little larger than the tower's side."""
    facts: tuple[Facts, ...]
    """Of each of the P pictures."""
    sources: tuple[PictureSource, ...]
    draw_caption: Callable[[Facts, random.Random], Caption]
    """Draws a caption that is true of a picture with these facts."""
    captions_per_step: int


class Drawn(NamedTuple):
    """The examples of a step."""

    numbers: list[int]
    """Rows of its N pictures."""
    free: torch.Tensor
    """(N,) bool, free orientation."""
    ids: torch.Tensor
    """(M, 64) int64, its captions."""
    relations: torch.Tensor
    """(N, M) float, as `fact_relations` gives them."""


def train_contrastive(
    model: Any,
    tokenizer: Any,
    data: ContrastiveData,
    schedule: Schedule,
    folder: Path,
    loop: Loop,
    *,
    augmentation: Augmentation,
    precision: Precision,
    patches: torch.Tensor | None = None,
) -> None:
    """Train a SiglipModel with the sigmoid loss, on the device where it is; resumes from `folder`.

    Each step draws pictures from every source and a few captions of theirs; a caption is a positive of every
    picture it is true of, a negative where one of its facts is false, and left out where that is not known.

    With `patches` (P, V, N, width), the tower's output for V views of every picture, the vision tower stays as it is
    and only its pooling head and the text tower learn (locked-image tuning, arXiv:2111.07991).
    """
    size_px, device, seed = model.config.vision_config.image_size, model.device, loop.seed
    pixels = data.pixels.to(device)
    model.requires_grad_(True)
    if patches is not None:
        model.vision_model.requires_grad_(False)
        model.vision_model.head.requires_grad_(True)

    def draw(step: int) -> list[Part[Drawn]]:
        numbers, free = _draw_pictures(data.sources, step_generator(seed, folder.name, step))
        captions = _draw_captions([data.facts[i] for i in numbers], data, random.Random(f"{seed}:{folder.name}:{step}"))
        relations = fact_relations([data.facts[i] for i in numbers], [c.facts for c in captions])
        return [Part(Drawn(numbers, free, tokenize(tokenizer, [c.text for c in captions]), relations))]

    def seen(drawn: Drawn, rng: torch.Generator) -> torch.Tensor:
        if patches is None:
            free = drawn.free.to(device)
            values = augment(pixels[drawn.numbers], size_px, free, rng, augmentation)
            pooled: torch.Tensor = model.get_image_features(pixel_values=values).pooler_output
        else:
            views = torch.randint(patches.shape[1], (len(drawn.numbers),), generator=rng)
            pooled = model.vision_model.head(patches[drawn.numbers, views].to(device).float())
        return pooled

    def loss_of(drawn: Drawn, turn: Turn) -> torch.Tensor:
        with autocast(device.type, precision):
            images = seen(drawn, step_generator(seed, f"{folder.name}:views", turn.step))
            texts = model.get_text_features(input_ids=drawn.ids.to(device)).pooler_output
        return vector_loss(model, images, texts, drawn.relations.to(device))

    train(model, draw, loss_of, schedule, folder, loop, settings={"precision": precision, **asdict(augmentation)})


def vector_loss(model: Any, images: torch.Tensor, texts: torch.Tensor, relations: torch.Tensor) -> torch.Tensor:
    """The sigmoid loss of a SiglipModel, in float32, over its vectors of N pictures and M texts."""
    images, texts = nn.functional.normalize(images.float()), nn.functional.normalize(texts.float())
    return sigmoid_loss(images, texts, model.logit_scale.exp(), model.logit_bias, relations)


def _draw_pictures(sources: Sequence[PictureSource], rng: torch.Generator) -> tuple[list[int], torch.Tensor]:
    numbers: list[int] = []
    for source in sources:
        drawn = torch.randint(len(source.numbers), (source.per_step,), generator=rng)
        numbers += [source.numbers[i] for i in drawn.tolist()]
    free = torch.tensor([source.free_orientation for source in sources for _ in range(source.per_step)])
    return numbers, free


def _draw_captions(facts: Sequence[Facts], data: ContrastiveData, rng: random.Random) -> list[Caption]:
    drawn: dict[str, Caption] = {}
    for picture_facts in rng.sample(list(facts), len(facts)):
        caption = data.draw_caption(picture_facts, rng)
        drawn[caption.text] = caption
        if len(drawn) == data.captions_per_step:
            break
    return list(drawn.values())
