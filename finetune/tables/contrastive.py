"""Contrastive training of an encoder on a table's pictures and captions, with the sigmoid loss in tiles.

A step's pairs go through the towers in parts, and over ranks, as the memory allows; every picture is compared with
every caption of the step all the same. With one part its vectors are kept; with more, each part is computed twice,
without and with its graph, as GradCache does (arXiv:2101.06983). A SigLIP has no dropout, so both are the same.

Letters: N pairs of a step, n those of a part, P pictures of them, D width, S side in pixels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import nn

from finetune.losses.contrastive import sigmoid_gradients, with_gradients
from finetune.tables.examples import SeenPictures
from finetune.tables.pairs import Pairs
from finetune.training import (
    Evaluation,
    Loop,
    Part,
    Precision,
    Ranks,
    Schedule,
    Turn,
    autocast,
    rows_of_step,
    train,
)


@dataclass(frozen=True)
class Mixture:
    """How the pairs of a step are drawn from one's own rows and from general ones, which stand after them."""

    own: int
    """Rows."""
    general: int = 0
    general_weight: float = 0.0
    """Share of all pairs that are general."""

    def rows_of_step(self, num_pairs: int, seed: int, step: int) -> list[int]:
        """Rows, the general ones spread evenly; own and general rows come once an epoch of their own each."""
        return [self._row(place, seed) for place in range(step * num_pairs, (step + 1) * num_pairs)]

    def _row(self, place: int, seed: int) -> int:
        before, after = (int(number * self.general_weight + 1e-9) for number in (place, place + 1))
        if after > before:
            return self.own + rows_of_step(self.general, 1, seed, before)[0]
        return rows_of_step(self.own, 1, seed, place - before)[0]


class DrawnPairs(NamedTuple):
    """One part of this rank's pairs."""

    pixel_values: torch.Tensor
    """(P, 3, S, S) float32."""
    owners: torch.Tensor
    """(P,) int64, the pair of each picture."""
    texts: Mapping[str, torch.Tensor]
    """Of the n captions, what the text tower takes."""


class DrawnStep(NamedTuple):
    """All that a part's loss must know of its step."""

    number: int
    """Of the part among `parts`."""
    parts: Sequence[DrawnPairs]
    """Of this rank."""
    rows: Sequence[Sequence[int]]
    """Every rank's rows, in the order of its parts."""


class Vectors(NamedTuple):
    """Unit vectors of pairs, (n, D) float32 each."""

    images: torch.Tensor
    texts: torch.Tensor


def train_pairs(
    model: Any,
    pairs: Pairs,
    mixture: Mixture,
    texts: Mapping[str, torch.Tensor],
    pictures: SeenPictures,
    schedule: Schedule,
    folder: Path,
    loop: Loop,
    *,
    pairs_per_step: int,
    pairs_a_part: int,
    precision: Precision,
    settings: Mapping[str, Any],
    evaluation: Evaluation | None,
) -> None:
    """Train what of a SiglipModel needs a gradient, on the device where it is; resumes from `folder`.

    Args:
        model: SiglipModel, with or without low-rank updates.
        pairs: the training rows.
        mixture: how they are drawn.
        texts: what the text tower takes of `pairs.texts`.
        pictures: gives their pixels.
        schedule: learning rates and length.
        folder: of the stage.
        loop: how it runs; by ddp where there are several ranks.
        pairs_per_step: N, over all ranks.
        pairs_a_part: that go through the towers at once; changes no result.
        precision: of the towers; vectors and loss are in float32.
        settings: what else decides the result.
        evaluation: keeps the best weights.

    Raises:
        ValueError: a step has fewer pairs than there are ranks.
        FloatingPointError: the loss is not finite; the rows are named.
    """
    if pairs_per_step < loop.ranks.world:
        raise ValueError(
            f"pairs_per_step is {pairs_per_step}; expected one at least for each of {loop.ranks.world} processes"
        )

    def draw(step: int) -> list[Part[DrawnStep]]:
        chosen = mixture.rows_of_step(pairs_per_step, loop.seed, step)
        rows = [Ranks(rank, loop.ranks.world).share(chosen) for rank in range(loop.ranks.world)]
        own = rows[loop.ranks.rank]
        of_parts = [own[start : start + pairs_a_part] for start in range(0, len(own), pairs_a_part)]
        parts = [drawn_pairs(pairs, part, texts, pictures) for part in of_parts]
        return [
            Part(DrawnStep(number, parts, rows), float(len(part)), tuple(pairs.places[row] for row in part))
            for number, part in enumerate(of_parts)
        ]

    loss_of = _StepLoss(model, pairs, loop.ranks, precision)
    train(model, draw, loss_of, schedule, folder, loop, settings=settings, evaluation=evaluation)


def drawn_pairs(
    pairs: Pairs, rows: Sequence[int], texts: Mapping[str, torch.Tensor], pictures: SeenPictures
) -> DrawnPairs:
    """Rows with their pixels and captions."""
    seen = [(place, number) for place, row in enumerate(rows) for number in pairs.pictures[row]]
    captions = pairs.captions[list(rows)]
    return DrawnPairs(
        torch.stack([pictures.pixel_values(number) for _, number in seen]),
        torch.tensor([place for place, _ in seen]),
        {name: tensor[captions] for name, tensor in texts.items()},
    )


def image_vectors(model: Any, pixel_values: torch.Tensor, owners: torch.Tensor, rows: int) -> torch.Tensor:
    """(rows, D) float32 unit vectors: of several pictures the mean of theirs, normalised again."""
    pooled = model.get_image_features(pixel_values=pixel_values).pooler_output.float()
    vectors = nn.functional.normalize(pooled, dim=-1)
    summed = vectors.new_zeros((rows, vectors.shape[1])).index_add(0, owners, vectors)
    return nn.functional.normalize(summed, dim=-1)


def text_vectors(model: Any, texts: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """(n, D) float32 unit vectors."""
    return nn.functional.normalize(model.get_text_features(**texts).pooler_output.float(), dim=-1)


class _StepLoss:
    """A part's share of the loss of its whole step; what a step's first part has found serves the others."""

    def __init__(self, model: Any, pairs: Pairs, ranks: Ranks, precision: Precision) -> None:
        self.model, self.pairs, self.ranks, self.precision = model, pairs, ranks, precision
        self.step, self.found = -1, _Shares([], Vectors(torch.empty(0), torch.empty(0)), torch.empty(0), torch.empty(0))

    def __call__(self, drawn: DrawnStep, turn: Turn) -> torch.Tensor:
        vectors = self._vectors(drawn.parts[drawn.number])
        if self.step != turn.step:
            self.step, self.found = turn.step, self._shares(drawn, vectors, turn.denominator)
        found, first = self.found, drawn.number == 0
        scale, bias = self.model.logit_scale.exp(), self.model.logit_bias
        rows = slice(sum(len(part.texts["input_ids"]) for part in drawn.parts[: drawn.number]), None)
        of_images, of_texts = (gradients[rows][: len(vectors.images)] for gradients in found.gradients)
        return with_gradients(
            found.losses[drawn.number],
            (*vectors, scale, bias),
            (of_images, of_texts, found.logit_scale * first, found.logit_bias * first),
        )

    def _vectors(self, part: DrawnPairs) -> Vectors:
        device = self.model.device
        texts = {name: tensor.to(device) for name, tensor in part.texts.items()}
        with autocast(device.type, self.precision):
            images = image_vectors(
                self.model, part.pixel_values.to(device), part.owners.to(device), len(part.texts["input_ids"])
            )
            return Vectors(images, text_vectors(self.model, texts))

    @torch.no_grad()
    def _shares(self, drawn: DrawnStep, vectors: Vectors, denominator: float) -> "_Shares":
        """Every part of this rank beside the captions of all ranks; `vectors` are the first part's."""
        parts = [vectors if part is drawn.parts[drawn.number] else self._vectors(part) for part in drawn.parts]
        own = Vectors(*(torch.cat([part[side].detach() for part in parts]) for side in (0, 1)))
        sizes = [len(rows) for rows in drawn.rows]
        texts = _of_all_ranks(own.texts, sizes, self.ranks)
        pictures, captions = (
            torch.tensor(rows) for rows in (drawn.rows[self.ranks.rank], [row for rows in drawn.rows for row in rows])
        )
        scale, bias = self.model.logit_scale.detach().exp(), self.model.logit_bias.detach()
        found = sigmoid_gradients(
            own.images,
            texts,
            scale,
            bias,
            lambda some, others: self.pairs.relations(pictures[some], captions[others]).to(texts.device),
            denominator,
        )
        return _Shares(
            [losses.sum() for losses in torch.split(found.losses, [len(part.images) for part in parts])],
            Vectors(found.images, _own_sums(found.texts, sizes, self.ranks)),
            found.logit_scale,
            found.logit_bias,
        )


class _Shares(NamedTuple):
    """Of one rank's step."""

    losses: list[torch.Tensor]
    """Of each part."""
    gradients: Vectors
    """With respect to the rank's vectors."""
    logit_scale: torch.Tensor
    logit_bias: torch.Tensor


def _of_all_ranks(own: torch.Tensor, sizes: Sequence[int], ranks: Ranks) -> torch.Tensor:
    """Every rank's rows, in the order of the ranks."""
    if ranks.world == 1:
        return own
    padded = nn.functional.pad(own, (0, 0, 0, max(sizes) - len(own)))
    found = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(found, padded)
    return torch.cat([rows[:size] for rows, size in zip(found, sizes, strict=True)])


def _own_sums(of_all: torch.Tensor, sizes: Sequence[int], ranks: Ranks) -> torch.Tensor:
    """This rank's rows of the sum over ranks."""
    if ranks.world == 1:
        return of_all
    dist.all_reduce(of_all)
    return torch.split(of_all, list(sizes))[ranks.rank]
