"""nli: a small model of natural language inference from nothing, and whether it may reward.

It learns the openly licensed pairs that are there: SNLI (CC BY-SA 4.0), K-QA (MIT), WiCE (CC BY-SA 4.0). A control with
the same network learns the hypotheses alone. OUT/model is a folder that any program reads as a sequence-classification
model, with nli_card.json: both accuracies on held-out pairs and their paired difference. `scorer_named(..., as_reward)`
refuses a model whose card does not have the whole interval of the difference above zero.

Source: Gururangan et al. (arXiv:1803.02324): hypotheses alone tell SNLI's labels far above chance.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import nn

from data_cards.readers.entailment import THREE_WAY, EntailmentPair, read_k_qa_pairs, read_snli, read_wice
from data_cards.readers.tables import find_set
from data_cards.split import side
from finetune.configuration import Section, keep_config
from finetune.training.draws import Part, rows_of_step
from finetune.training.loop import Loop, Turn, train
from finetune.training.schedule import Schedule
from medgemma.entailment.card import NliCard, Share, write_card
from medgemma.entailment.nli_model import LEAST_PREMISE_TOKENS
from medsiglip.command import say
from medsiglip.metrics.statistics import Estimate, grouped_bootstrap_ci, paired_difference

SETS = ("snli", "k-qa", "wice")
OF_WICE = {"supported": "entailment", "partially_supported": "neutral", "not_supported": "neutral"}
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
QUICK_STEPS = 20
SCORED_TOGETHER = 64


class Config(Section):
    """What is learned, and how; the values are in nli.yaml."""

    seed: int
    quick: bool
    device: str
    vocabulary_size: int = Field(ge=100)
    hidden_size: int = Field(ge=16)
    layers: int = Field(ge=1)
    heads: int = Field(ge=1)
    max_tokens: int = Field(ge=32)
    steps: int = Field(ge=1)
    pairs_per_step: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    dropout: float = Field(ge=0, lt=1)


def run(config: Config, data: Path, out: Path, quiet: bool) -> None:
    """Train the model and its control, measure both on held-out pairs, write OUT/model with its card.

    Raises:
        ValueError: None of the sets is there, or one is broken.
    """
    every, others, cards = pairs_of(data)
    tokenizer = tokenizer_of(every, config)
    learned, held = (pairs_that_fit(pairs, tokenizer) for pairs in (every, others))
    keep_config(config, out, f"learned from {', '.join(cards)}: {len(learned)} pairs")
    if left_out := len(every) + len(others) - len(learned) - len(held):
        say(f"note: {left_out} pairs are left out, whose hypothesis leaves no room for a premise in max_tokens")
    model = _trained(config, tokenizer, learned, out / "pairs", quiet)
    control = _trained(config, tokenizer, without_premises(learned), out / "hypotheses", quiet)
    right = _right(model, tokenizer, held, config)
    right_alone = _right(control, tokenizer, without_premises(held), config)
    card = card_of(right, right_alone, [pair.group for pair in held], cards)
    folder = out / "model"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_card(card, folder)
    for line in card.lines():
        say(line)


def pairs_of(data: Path) -> tuple[list[EntailmentPair], list[EntailmentPair], tuple[str, ...]]:
    """Return the pairs that are learned, those that are held out, and the sets that are here, labels as THREE_WAY.

    SNLI is divided by its reader's parts, the others by their groups.

    Raises:
        ValueError: None of the sets is there, or one is broken.
    """
    here = tuple(name for name in SETS if (data / name).is_dir())
    if not here:
        raise ValueError(f"{data} holds none of {', '.join(SETS)}; give the folder that holds them")
    learned: list[EntailmentPair] = []
    held: list[EntailmentPair] = []
    if "snli" in here:
        learned += read_snli(find_set(data, "snli"), "train")
        held += read_snli(find_set(data, "snli"), "val")
    others = read_k_qa_pairs(find_set(data, "k-qa")) if "k-qa" in here else []
    if "wice" in here:
        others += [replace(pair, label=OF_WICE[pair.label]) for pair in read_wice(find_set(data, "wice"))]
    learned += [pair for pair in others if side(pair.group) == "train"]
    held += [pair for pair in others if side(pair.group) == "held-out"]
    return learned, held, here


def without_premises(pairs: Sequence[EntailmentPair]) -> list[EntailmentPair]:
    """Return what the control sees: the same pairs with an empty premise."""
    return [replace(pair, premise="") for pair in pairs]


def pairs_that_fit(pairs: Sequence[EntailmentPair], tokenizer: Any) -> list[EntailmentPair]:
    """Return the pairs that the trained model would score: those that `NliModel` does not refuse."""
    most = tokenizer.model_max_length - LEAST_PREMISE_TOKENS
    return [pair for pair in pairs if len(tokenizer("", pair.hypothesis)["input_ids"]) <= most]


def tokenizer_of(pairs: Iterable[EntailmentPair], config: Config) -> Any:
    """Train a WordPiece tokenizer on the learned texts; pairs are encoded as BERT's."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=config.vocabulary_size, special_tokens=list(SPECIAL_TOKENS), show_progress=False
    )
    made.train_from_iterator([text for pair in pairs for text in (pair.premise, pair.hypothesis)], trainer)
    ids = {token: SPECIAL_TOKENS.index(token) for token in SPECIAL_TOKENS}
    made.post_processor = processors.BertProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
    return PreTrainedTokenizerFast(
        tokenizer_object=made, model_max_length=config.max_tokens, pad_token="[PAD]", unk_token="[UNK]",
        cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]",
    )  # fmt: skip


def network_of(config: Config, vocabulary_size: int) -> Any:
    """Make a small BERT with random weights; the same seed gives the same."""
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(config.seed)
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=vocabulary_size, hidden_size=config.hidden_size, num_hidden_layers=config.layers,
            num_attention_heads=config.heads, intermediate_size=2 * config.hidden_size,
            max_position_embeddings=config.max_tokens, hidden_dropout_prob=config.dropout,
            id2label=dict(enumerate(THREE_WAY)), label2id={label: place for place, label in enumerate(THREE_WAY)},
        )
    )  # fmt: skip


def card_of(right: Sequence[bool], alone: Sequence[bool], groups: Sequence[str], cards: tuple[str, ...]) -> NliCard:
    """Return the card of a model: accuracy, its control's, and the paired difference, by premise."""
    values, control = ([float(one) for one in answers] for answers in (right, alone))
    return NliCard(
        accuracy=_share(grouped_bootstrap_ci(values, groups)),
        hypothesis_only=_share(grouped_bootstrap_ci(control, groups)),
        difference=_share(paired_difference(values, control, groups)),
        num_pairs=len(values),
        trained_on=cards,
    )


def _trained(config: Config, tokenizer: Any, pairs: Sequence[EntailmentPair], folder: Path, quiet: bool) -> Any:
    device = _device(config)
    model = network_of(config, len(tokenizer)).to(device)

    def draw(step: int) -> list[Part[list[int]]]:
        rows = rows_of_step(len(pairs), config.pairs_per_step, config.seed, step)
        return [Part(rows, float(len(rows)), tuple(pairs[row].item_id for row in rows))]

    def loss_of(rows: list[int], turn: Turn) -> torch.Tensor:
        drawn = [pairs[row] for row in rows]
        labels = torch.tensor([THREE_WAY.index(pair.label) for pair in drawn], device=device)
        logits = model(**_encoded(tokenizer, drawn, device)).logits
        return nn.functional.cross_entropy(logits, labels, reduction="sum") / turn.denominator

    steps = QUICK_STEPS if config.quick else config.steps
    train(
        model.train(),
        draw,
        loss_of,
        Schedule(config.learning_rate, steps),
        folder,
        Loop(seed=config.seed, quiet=quiet, draw_ahead=False),
        settings=config.model_dump(mode="json"),
    )
    return model.eval()


def _right(model: Any, tokenizer: Any, pairs: Sequence[EntailmentPair], config: Config) -> list[bool]:
    device = _device(config)
    right: list[bool] = []
    with torch.inference_mode():
        for start in range(0, len(pairs), SCORED_TOGETHER):
            part = pairs[start : start + SCORED_TOGETHER]
            said = model(**_encoded(tokenizer, part, device)).logits.argmax(dim=1).tolist()
            right += [THREE_WAY[place] == pair.label for place, pair in zip(said, part, strict=True)]
    return right


def _encoded(tokenizer: Any, pairs: Sequence[EntailmentPair], device: torch.device) -> Any:
    """Pairs that are too long lose the end of their premise."""
    return tokenizer(
        [pair.premise for pair in pairs], [pair.hypothesis for pair in pairs], padding=True, return_tensors="pt",
        truncation="only_first", max_length=tokenizer.model_max_length,
    ).to(device)  # fmt: skip


def _device(config: Config) -> torch.device:
    from medsiglip.encoder import pick_device

    return torch.device(pick_device(config.device))


def _share(estimate: Estimate) -> Share:
    return Share(estimate.value, *estimate.ci95)
