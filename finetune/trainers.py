"""Our labels, loss and tables inside other trainers: transformers' Trainer, and TRL's SFTTrainer, which stands on it.

The collator masks all but the answers and always sends token_type_ids; the loss makes no logits. Both are plain: the
trainer keeps its devices, its accumulation and its checkpoints.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from finetune.adapters import output_weight
from finetune.collate import Example, collate
from finetune.losses.completion import completion_loss, next_tokens
from finetune.tables.examples import SeenPictures
from medgemma import MedGemma


@dataclass(frozen=True)
class TrainerCollator:
    """A `data_collator`: rows as `rows_of` gives them to what Gemma3ForConditionalGeneration takes.

    Set `remove_unused_columns=False` in the trainer's arguments, or it takes the rows' columns away first.
    """

    pad_id: int
    """The tokenizer's."""
    image_id: int | None
    """Of an image's soft tokens; None for a model of text alone."""
    pictures: SeenPictures | None = None
    max_tokens: int = 4096
    """A longer row is refused, for nothing is cut."""

    @classmethod
    def of(cls, model: MedGemma, pictures: SeenPictures | None = None, max_tokens: int = 4096) -> "TrainerCollator":
        """For a model and the pictures that `examples_of` has read."""
        image_id = getattr(model.model.config, "image_token_id", None)
        return cls(model.tokenizer.pad_token_id, image_id, pictures, max_tokens)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """input_ids, attention_mask, token_type_ids, labels; pixel_values where a row has pictures."""
        examples = [
            Example(tuple(row["prompt_ids"]), tuple(row["completion_ids"]), tuple(row["pictures"]), row["place"])
            for row in rows
        ]
        batch = collate(examples, pad_id=self.pad_id, image_id=self.image_id, max_tokens=self.max_tokens)
        given = {name: getattr(batch, name) for name in ("input_ids", "attention_mask", "labels")}
        if self.image_id is not None:
            given["token_type_ids"] = batch.token_type_ids
        if batch.pictures:
            assert self.pictures is not None, "rows with pictures, and a collator without them"
            given["pixel_values"] = torch.stack([self.pictures.pixel_values(number) for number in batch.pictures])
        return given


def rows_of(examples: Sequence[Example]) -> list[dict[str, Any]]:
    """Examples as the rows of a `datasets.Dataset`: `Dataset.from_list(rows_of(examples))`."""
    return [asdict(example) for example in examples]


def with_completion_loss(model: Any) -> Any:
    """Have a Gemma 3 answer a batch that has labels with the completion loss, and no logits; returns the model.

    A Trainer then trains with it: it takes `.loss`, and gives the number of learned tokens of the whole step. Call it
    before PEFT wraps the model, or on `get_base_model()`. Without labels the model is as it was.

    Args:
        model: Gemma3ForConditionalGeneration or Gemma3ForCausalLM.
    """
    from transformers.modeling_outputs import CausalLMOutputWithPast

    plain = model.forward

    def forward(*args: Any, labels: torch.Tensor | None = None, num_items_in_batch: Any = None, **inputs: Any) -> Any:
        if labels is None:
            return plain(*args, **inputs)
        hidden = model.model(*args, **inputs).last_hidden_state
        states, targets = next_tokens(hidden, labels.to(hidden.device))
        denominator = len(targets) if num_items_in_batch is None else float(num_items_in_batch)
        loss = completion_loss(states, output_weight(model), targets, denominator=denominator)
        return CausalLMOutputWithPast(loss=loss)

    model.forward = forward
    return model
