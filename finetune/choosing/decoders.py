"""The decoders of checkpoints on held-out replies: a base is loaded once, and adapters take turns on it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from data_cards.table import Split, Table
from finetune.choosing.runs import Checkpoint
from finetune.collate import Conversations, Example
from finetune.packing import Layout
from finetune.selection.dialogues import Dialogues
from finetune.selection.scores import Score
from finetune.selection.token_nll import examples_of_dialogues, token_nll
from finetune.tables.examples import SeenPictures, examples_of, read_study, table_items
from medgemma import MedGemma
from medgemma.engine.adapters import Adapters
from medsiglip.checkpoints.folders import read_json

ADAPTER = "candidate"


@dataclass(frozen=True)
class Replies:
    """What is demonstrated, in one model's tokens."""

    examples: Sequence[Example]
    groups: Sequence[str]
    """Of each example."""
    see: Callable[[int], torch.Tensor] | None = None
    """A picture's number to pixel values (3, S, S)."""


@dataclass
class Decoders:
    """Decoders that are judged by the same replies."""

    replies_of: Callable[[MedGemma], Replies]
    device: str
    max_tokens: int
    _base: tuple[str, MedGemma, Replies] | None = field(default=None, init=False)

    def token_nll(self, checkpoint: Checkpoint) -> Score:
        """Score a checkpoint that is an adapter or a whole decoder.

        Raises:
            ValueError: It is neither, or it cannot be loaded.
        """
        if checkpoint.kind not in ("adapter", "model"):
            raise ValueError("has no decoder (adapter or model); of policies over numbers: action_error")
        if checkpoint.kind == "model":
            return self._score(*self._loaded(str(checkpoint.path)))
        config = read_json(checkpoint.path / "adapter_config.json")
        if "lm_head" in (config.get("target_modules") or ()):
            raise ValueError(f"{checkpoint.path}: changes the output head; merge it (`medgemma merge`) into a model")
        base = config.get("base_model_name_or_path")
        if not base:
            raise ValueError(f"{checkpoint.path}: does not name its base; merge it (`medgemma merge`) into a model")
        gemma, replies = self._loaded(str(base))
        adapters = Adapters(gemma.model)
        adapters.load(ADAPTER, checkpoint.path)
        try:
            with adapters.using(ADAPTER):
                return self._score(gemma, replies)
        finally:
            adapters.unload(ADAPTER)

    def _loaded(self, name: str) -> tuple[MedGemma, Replies]:
        if self._base is None or self._base[0] != name:
            self._base = None  # the one before goes first: two need not fit
            gemma = MedGemma.from_pretrained(name, device=self.device)
            self._base = (name, gemma, self.replies_of(gemma))
        return self._base[1:]

    def _score(self, gemma: MedGemma, replies: Replies) -> Score:
        image_id = getattr(gemma.model.config, "image_token_id", None)
        layout = Layout(gemma.tokenizer.pad_token_id, image_id, self.max_tokens)
        return token_nll(gemma.model, replies.examples, replies.groups, layout, replies.see)


def of_dialogues(dialogues: Dialogues) -> Callable[[MedGemma], Replies]:
    """The replies of recorded conversations; a group is that of the episode."""
    groups = [dialogues.groups[reply.episode] for reply in dialogues.replies]

    def replies(gemma: MedGemma) -> Replies:
        conversations = Conversations.of(gemma.tokenizer, gemma.image_tokens)
        return Replies(examples_of_dialogues(dialogues, conversations), groups)

    return replies


def of_table(table: Table) -> Callable[[MedGemma], Replies]:
    """The right answers of a table's rows that recipes do not learn: the side validation, else test.

    Raises:
        ValueError: It has neither.
    """
    held_out: tuple[Split, ...] = ("validation", "test")
    sides = [side for side in held_out if table.on(side)]
    if not sides:
        raise ValueError(f"{table.source}: every row is on the side train; name a --split column")
    items = table_items(table, sides[0])

    def replies(gemma: MedGemma) -> Replies:
        pictures = SeenPictures(gemma.preprocessing, read_study) if gemma.preprocessing else None
        examples = examples_of(items, gemma, pictures, lambda number: None)
        return Replies(examples, [item.group for item in items], pictures.pixel_values if pictures else None)

    return replies
