"""A picture encoder with a classification head, transformers' SiglipForImageClassification: head and tower tuned.

The head reads the mean of the patch tokens. It is trained first, over the tower as it is; a tower that is tuned too
then starts from a head that fits it (Kumar et al., arXiv:2202.10054).

Letters: N rows, P pictures, C classes or findings, D width, S side in pixels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from finetune.tables.examples import SeenPictures
from finetune.training import (
    Evaluation,
    Loop,
    Part,
    Precision,
    Schedule,
    Turn,
    autocast,
    load_best,
    rows_of_step,
    train,
)
from medgemma.checkpoints.convert import copy_companions, whole_folder
from medsiglip.encoder import MedSigLIP

Answer = Literal["class", "multi-label"]


@dataclass(frozen=True)
class LabelledRows:
    """Rows with what is right of them."""

    pictures: Sequence[tuple[int, ...]]
    """Numbers of each row's pictures; a row's features are the mean over them."""
    values: torch.Tensor
    """(N, C) float32: 1 present, 0 absent, NaN not known; one 1 a row of classes."""
    places: Sequence[str]
    """Where each row stands."""

    def __len__(self) -> int:
        return len(self.places)


class DrawnRows(NamedTuple):
    """Some rows with their pixels."""

    pixel_values: torch.Tensor
    """(P, 3, S, S) float32."""
    owners: torch.Tensor
    """(P,) int64, the row of each picture."""
    values: torch.Tensor
    """(N, C)."""


def classifier_of(encoder: MedSigLIP, classes: Sequence[str], answer: Answer) -> Any:
    """SiglipForImageClassification over the encoder's own tower, which it shares; its head is zero."""
    from transformers import SiglipConfig, SiglipForImageClassification

    config = SiglipConfig.from_dict(encoder.model.config.to_dict())
    config.id2label = dict(enumerate(classes))
    config.label2id = {name: number for number, name in enumerate(classes)}
    config.problem_type = f"{'single' if answer == 'class' else 'multi'}_label_classification"
    with torch.device("meta"):
        network = SiglipForImageClassification(config)
    network.vision_model = encoder.model.vision_model
    head = nn.Linear(config.vision_config.hidden_size, len(classes), device=encoder.model.device)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    network.classifier = head
    return network


def features_of(network: Any, pixel_values: torch.Tensor, owners: torch.Tensor, rows: int) -> torch.Tensor:
    """(rows, D) float32: the mean of the patch tokens, then over each row's pictures."""
    patches = network.vision_model(pixel_values=pixel_values.to(network.vision_model.dtype)).last_hidden_state
    means = patches.mean(1).float()
    summed = means.new_zeros((rows, means.shape[1])).index_add(0, owners, means)
    found: torch.Tensor = summed / torch.bincount(owners, minlength=rows)[:, None]
    return found


@torch.no_grad()
def all_features(
    network: Any, rows: LabelledRows, pictures: SeenPictures, advance: Callable[[int], object], batch_rows: int = 16
) -> torch.Tensor:
    """(N, D) float32 on the CPU."""
    network.eval()
    found = []
    for start in range(0, len(rows), batch_rows):
        drawn = drawn_rows(rows, range(start, min(start + batch_rows, len(rows))), pictures)
        device = network.classifier.weight.device
        found.append(
            features_of(network, drawn.pixel_values.to(device), drawn.owners.to(device), len(drawn.values)).cpu()
        )
        advance(len(drawn.values))
    return torch.cat(found) if found else torch.zeros(0, network.classifier.in_features)


def drawn_rows(rows: LabelledRows, numbers: Sequence[int], pictures: SeenPictures) -> DrawnRows:
    """Rows by their numbers, with pixels."""
    seen = [(place, picture) for place, number in enumerate(numbers) for picture in rows.pictures[number]]
    return DrawnRows(
        torch.stack([pictures.pixel_values(picture) for _, picture in seen]),
        torch.tensor([place for place, _ in seen]),
        rows.values[list(numbers)],
    )


def classification_loss(logits: torch.Tensor, values: torch.Tensor, answer: Answer, denominator: float) -> torch.Tensor:
    """Cross-entropy over classes, or over each finding that is known; summed, over `denominator`.

    Args:
        logits: (N, C).
        values: (N, C), NaN where nothing is known.
        answer: class or multi-label.
        denominator: `counted` of all rows of the step.
    """
    if answer == "class":
        return F.cross_entropy(logits.float(), values.argmax(1), reduction="sum") / denominator
    known = ~values.isnan()
    return F.binary_cross_entropy_with_logits(logits.float()[known], values[known], reduction="sum") / denominator


def counted(values: torch.Tensor, answer: Answer) -> float:
    """What rows add to the denominator: rows of classes, known findings."""
    return float(len(values)) if answer == "class" else float((~values.isnan()).sum())


def train_head(
    network: Any,
    features: torch.Tensor,
    rows: LabelledRows,
    answer: Answer,
    schedule: Schedule,
    folder: Path,
    loop: Loop,
    *,
    rows_per_step: int,
    evaluation: Evaluation | None,
) -> None:
    """Train the head over fixed features; these are standardised, which is then folded into the head.

    `features` are (N, D), the rows'; the evaluation reads the network's head, which is always one of plain features.
    """
    mean, spread = features.mean(0), features.std(0).clamp(min=1e-6)
    head, device = network.classifier, network.classifier.weight.device
    moved = ((features - mean) / spread).to(device)
    scaled = _StandardHead(head, mean.to(device), spread.to(device))

    def draw(step: int) -> list[Part[torch.Tensor]]:
        chosen = rows_of_step(len(rows), min(rows_per_step, len(rows)), loop.seed, step)
        parts = [
            Part(torch.tensor(chosen), counted(rows.values[chosen], answer), tuple(rows.places[n] for n in chosen))
        ]
        return loop.ranks.share(parts) or [Part(parts[0].drawn, 0.0)]

    def loss_of(chosen: torch.Tensor, turn: Turn) -> torch.Tensor:
        logits = F.linear(moved[chosen], scaled.weight, scaled.bias)
        return classification_loss(logits, rows.values[chosen].to(device), answer, turn.denominator)

    def folded(metric: Callable[[int], float]) -> Callable[[int], float]:
        def of(step: int) -> float:
            scaled.fold()
            return metric(step)

        return of

    if evaluation:
        evaluation = replace(evaluation, metric=folded(evaluation.metric))
    train(scaled, draw, loss_of, schedule, folder, loop, settings={"answer": answer}, evaluation=evaluation)
    if evaluation:
        load_best(folder, scaled)
    scaled.fold()


class _StandardHead(nn.Module):
    """The head as it is over standardised features; `fold` gives it to the network as one of plain features."""

    def __init__(self, head: nn.Linear, mean: torch.Tensor, spread: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros_like(head.weight))
        self.bias = nn.Parameter(torch.zeros_like(head.bias))
        self._head, self._mean, self._spread = [head], mean, spread  # a list: the head is not a part of this module

    def fold(self) -> None:
        [head] = self._head
        with torch.no_grad():
            head.weight.copy_(self.weight / self._spread)
            head.bias.copy_(self.bias - head.weight @ self._mean)


def train_tower(
    network: Any,
    rows: LabelledRows,
    pictures: SeenPictures,
    answer: Answer,
    schedule: Schedule,
    folder: Path,
    loop: Loop,
    *,
    rows_per_step: int,
    pictures_a_part: int,
    precision: Precision,
    settings: dict[str, Any],
    evaluation: Evaluation | None,
) -> None:
    """Train the head and what of the tower needs a gradient."""
    device = network.classifier.weight.device

    def draw(step: int) -> list[Part[DrawnRows]]:
        chosen = rows_of_step(len(rows), min(rows_per_step, len(rows)), loop.seed, step)
        mine = loop.ranks.share(_by_pictures(chosen, rows, pictures_a_part))
        return [_part(numbers, 1) for numbers in mine] or [_part(chosen[:1], 0)]

    def _part(numbers: Sequence[int], weight: int) -> Part[DrawnRows]:
        drawn = drawn_rows(rows, numbers, pictures)
        return Part(drawn, weight * counted(drawn.values, answer), tuple(rows.places[n] for n in numbers))

    def loss_of(drawn: DrawnRows, turn: Turn) -> torch.Tensor:
        with autocast(device.type, precision):
            features = features_of(network, drawn.pixel_values.to(device), drawn.owners.to(device), len(drawn.values))
            logits = network.classifier(features)
        return classification_loss(logits, drawn.values.to(device), answer, turn.denominator)

    train(network, draw, loss_of, schedule, folder, loop, settings=settings, evaluation=evaluation)


def _by_pictures(chosen: Sequence[int], rows: LabelledRows, pictures_a_part: int) -> list[list[int]]:
    """Rows in parts of at most so many pictures; a row with more is a part of its own."""
    parts: list[list[int]] = []
    size = 0
    for number in chosen:
        count = len(rows.pictures[number])
        if not parts or size + count > pictures_a_part:
            parts.append([])
            size = 0
        parts[-1].append(number)
        size += count
    return parts


def save_classifier(network: Any, source: Path, folder: Path) -> None:
    """Write what `AutoModelForImageClassification.from_pretrained` loads, with its pixels' settings."""
    with whole_folder(folder, True, source) as partial:
        network.save_pretrained(partial)
        copy_companions(source, partial)


@torch.inference_mode()
def probabilities(
    folder: Path, rows: LabelledRows, pictures: SeenPictures, device: str, advance: Callable[[int], object]
) -> torch.Tensor:
    """(N, C) of a folder that `save_classifier` wrote, as plain transformers loads it."""
    from transformers import SiglipForImageClassification

    network = SiglipForImageClassification.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    network = network.to(device).eval()
    logits: torch.Tensor = network.classifier(all_features(network, rows, pictures, advance).to(device)).cpu()
    return logits.softmax(1) if network.config.problem_type.startswith("single") else logits.sigmoid()
