"""Any sequence-classification model of natural language inference as a scorer: from a folder or by its Hub name.

The classes are read from the model's config by name: entailment, neutral and contradiction in any order, or entailment
and not_entailment. A two-class model cannot tell a contradiction from what is not mentioned: its P(contradiction) is 0.

A premise that does not fit the model is read in windows that overlap by a quarter; `scores.over_windows` says how the
windows' answers become one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medgemma.entailment.scores import Entailment, Pair, ScorerFailed, over_windows

if TYPE_CHECKING:
    import torch

LEAST_PREMISE_TOKENS = 16
"""A hypothesis must leave so much of the window for the premise."""
_THREE = ("entailment", "neutral", "contradiction")
_TWO = ("entailment", "not_entailment")
_SPELLED = {"entail": "entailment", "entailed": "entailment", "contradict": "contradiction",
            "not entailment": "not_entailment", "non_entailment": "not_entailment", "non-entailment": "not_entailment",
            "not-entailment": "not_entailment", "notentailment": "not_entailment"}  # fmt: skip


@dataclass(frozen=True)
class NliModel:
    """A loaded model; called with pairs it answers one Entailment each."""

    name: str
    """What errors call it."""
    model: Any
    """transformers' AutoModelForSequenceClassification."""
    tokenizer: Any
    """Its fast tokenizer."""
    columns: tuple[int, ...]
    """The logits of entailment, neutral and contradiction, or of entailment and not_entailment."""
    max_tokens: int
    """Of one window: premise, hypothesis and the special tokens between them."""
    batch_size: int = 32
    """Windows that are read together."""

    def __call__(self, pairs: Sequence[Pair]) -> list[Entailment]:
        """Answer each pair.

        Raises:
            ScorerFailed: A hypothesis leaves no room for its premise, or a logit is not finite.
        """
        windows: list[tuple[int, dict[str, Any]]] = []
        for place, pair in enumerate(pairs):
            windows += [(place, window) for window in self._windows(pair, place)]
        windows.sort(key=lambda row: len(row[1]["input_ids"]))
        answers: list[list[Entailment]] = [[] for _ in pairs]
        rest = iter(windows)
        while batch := list(islice(rest, self.batch_size)):
            for (place, _), answer in zip(batch, self._answers(batch), strict=True):
                answers[place].append(answer)
        return [over_windows(found) for found in answers]

    def _windows(self, pair: Pair, place: int) -> list[dict[str, Any]]:
        """A pair's token ids: one encoding if it fits, else one a window of the premise."""
        premise, hypothesis = pair
        room = self.max_tokens - len(self.tokenizer("", hypothesis)["input_ids"])
        if room < LEAST_PREMISE_TOKENS:
            raise ScorerFailed(
                f"{self.name}: the hypothesis of pair {place} takes all but {max(room, 0)} of the {self.max_tokens} "
                "tokens of its window; score it by sentence, or give a model with a longer window"
            )
        encoded = self.tokenizer(
            premise, hypothesis, truncation="only_first", max_length=self.max_tokens, stride=room // 4,
            return_overflowing_tokens=True,
        )  # fmt: skip
        names = [name for name in self.tokenizer.model_input_names if name in encoded]
        return [{name: encoded[name][row] for name in names} for row in range(len(encoded["input_ids"]))]

    def _answers(self, batch: Sequence[tuple[int, dict[str, Any]]]) -> list[Entailment]:
        import torch

        inputs = self.tokenizer.pad([window for _, window in batch], return_tensors="pt").to(self.model.device)
        with torch.inference_mode():
            logits = self.model(**inputs).logits[:, list(self.columns)].float().cpu()
        if not torch.isfinite(logits).all():
            place = batch[int((~torch.isfinite(logits)).any(dim=1).nonzero()[0])][0]
            raise ScorerFailed(f"{self.name} gave a logit that is not finite for pair {place}; nothing of its is used")
        return [_entailment(row) for row in torch.softmax(logits, dim=1)]


def load_nli(name: str, *, device: str = "auto", batch_size: int = 32) -> NliModel:
    """Load a model of natural language inference.

    Args:
        name: A folder, or a Hub id such as "MoritzLaurer/DeBERTa-v3-base-mnli-fever-anli"; safetensors only.
        device: "auto", "cpu", "cuda" or "mps".
        batch_size: Windows that are read together.

    Raises:
        ScorerFailed: The model cannot be fetched or loaded, its classes are not those of inference, or nothing says how
            much it reads at once.
    """
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

    from medsiglip.checkpoints.folders import resolve_model
    from medsiglip.encoder import pick_device

    if not name or (not Path(name).is_dir() and "/" not in name):
        raise ScorerFailed(
            f"scorer {name!r} cannot be loaded: no such folder, and no Hub id; "
            "give rules, a folder, or the Hub id OWNER/NAME of a model of inference"
        )
    try:
        folder = resolve_model(name)
        made_as = ", ".join(AutoConfig.from_pretrained(folder).architectures or ())
        if not made_as.endswith("ForSequenceClassification"):
            raise ValueError(f"it is a {made_as or 'model of no name'}, which classifies no sequences")
        model = AutoModelForSequenceClassification.from_pretrained(folder, use_safetensors=True)
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise ScorerFailed(f"{name} cannot be loaded as a model of inference: {error}") from error
    if not tokenizer.is_fast:
        raise ScorerFailed(f"{name} has no fast tokenizer, which windows need; save its tokenizer.json beside it")
    columns = _columns(name, model.config.id2label)
    return NliModel(
        str(name),
        model.eval().to(pick_device(device)),
        tokenizer,
        columns,
        _max_tokens(name, model, tokenizer),
        batch_size,
    )


def _columns(name: str, id2label: Mapping[int, str]) -> tuple[int, ...]:
    spelled = {_SPELLED.get(label.lower(), label.lower()): place for place, label in id2label.items()}
    for labels in (_THREE, _TWO):
        if spelled.keys() == set(labels):
            return tuple(int(spelled[label]) for label in labels)
    raise ScorerFailed(
        f"{name} has the classes {', '.join(id2label.values())}; expected {', '.join(_THREE)}, "
        f"or {' and '.join(_TWO)}: take a model of inference, or name its classes in id2label of config.json"
    )


def _max_tokens(name: str, model: Any, tokenizer: Any) -> int:
    """What tokenizer and positions allow; RoBERTa's positions begin behind its padding id."""
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions and "roberta" in model.config.model_type:
        positions -= model.config.pad_token_id + 1
    known = [most for most in (tokenizer.model_max_length, positions) if most and 0 < most < 1_000_000]
    if not known:
        raise ScorerFailed(
            f"{name} says nowhere how many tokens it reads; set model_max_length in its tokenizer_config.json"
        )
    return int(min(known))


def _entailment(row: "torch.Tensor") -> Entailment:
    values = [float(value) for value in row]
    if len(values) == len(_TWO):
        return Entailment(values[0], 1 - values[0], 0.0)
    return Entailment(*values)
