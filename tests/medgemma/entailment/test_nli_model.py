"""Models of inference beside plain transformers: tiny random BERTs, made here."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

from medgemma.entailment.named import scorer_named
from medgemma.entailment.nli_model import load_nli
from medgemma.entailment.scores import Entailment, ScorerFailed, over_windows

THREE = ["contradiction", "neutral", "entailment"]
WORDS = [
    "no",
    "effusion",
    "is",
    "seen",
    "there",
    "a",
    "small",
    "left",
    "pleural",
    "pneumothorax",
    "the",
    "heart",
    "normal",
    "lungs",
    "are",
    "clear",
    "of",
    "size",
    "in",
]
MAX_TOKENS = 40
Made = Callable[..., Path]


@pytest.fixture
def made(tmp_path: Path) -> Made:
    def make(labels: list[str], **changes: Any) -> Path:
        vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *WORDS]
        (tmp_path / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
        config = BertConfig(
            vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=32, max_position_embeddings=MAX_TOKENS, id2label=dict(enumerate(labels)),
            label2id={label: place for place, label in enumerate(labels)}, initializer_range=1.0,
        )  # fmt: skip
        torch.manual_seed(0)
        model = BertForSequenceClassification(config)
        if changes.get("is_broken"):
            with torch.no_grad():
                model.classifier.bias[0] = float("nan")
        model.save_pretrained(tmp_path / "model")
        BertTokenizerFast(str(tmp_path / "vocab.txt"), model_max_length=MAX_TOKENS).save_pretrained(tmp_path / "model")
        return tmp_path / "model"

    return make


def plain(folder: Path, premise: str, hypothesis: str) -> torch.Tensor:
    """Probabilities by transformers alone, in the order of the config."""
    model = BertForSequenceClassification.from_pretrained(folder).eval()
    encoded = BertTokenizerFast.from_pretrained(folder)(premise, hypothesis, return_tensors="pt")
    with torch.no_grad():
        return torch.softmax(model(**encoded).logits[0], dim=0)


def test_answers_are_those_of_plain_transformers_whatever_the_batch(made: Made) -> None:
    folder = made(THREE)
    pairs = [
        ("no pleural effusion is seen .", "there is no effusion ."),
        ("the heart is normal in size . the lungs are clear .", "a small left pneumothorax is seen"),
        ("lungs clear", "no pneumothorax"),
    ]
    for batch_size in (1, 2, 8):
        answers = load_nli(str(folder), device="cpu", batch_size=batch_size)(pairs)
        for (premise, hypothesis), answer in zip(pairs, answers, strict=True):
            contradiction, neutral, entailment = plain(folder, premise, hypothesis).tolist()
            assert (answer.entailment, answer.neutral, answer.contradiction) == pytest.approx(
                (entailment, neutral, contradiction), abs=1e-5
            )


def test_a_long_premise_is_read_in_windows(made: Made) -> None:
    """Windows by hand: 3 special tokens and 4 of the hypothesis leave 33, and a quarter, 8, is read twice."""
    folder = made(THREE)
    words = [WORDS[(place * 7) % len(WORDS)] for place in range(70)]
    hypothesis = "there is no effusion"
    windows = [words[0:33], words[25:58], words[50:70]]
    expected = []
    for window in windows:
        contradiction, neutral, entailment = plain(folder, " ".join(window), hypothesis).tolist()
        expected.append((entailment, neutral, contradiction))
    [answer] = load_nli(str(folder), device="cpu")([(" ".join(words), hypothesis)])
    joined = over_windows([Entailment(*values) for values in expected])
    assert answer.entailment == pytest.approx(joined.entailment, abs=1e-5)
    assert answer.contradiction == pytest.approx(joined.contradiction, abs=1e-5)


def test_two_classes_leave_contradiction_at_nothing(made: Made) -> None:
    folder = made(["not_entailment", "entailment"])
    [answer] = load_nli(str(folder), device="cpu")([("lungs are clear", "no effusion")])
    entailment = float(plain(folder, "lungs are clear", "no effusion")[1])
    assert (answer.entailment, answer.neutral, answer.contradiction) == pytest.approx(
        (entailment, 1 - entailment, 0), abs=1e-5
    )


def test_classes_without_names_are_refused(made: Made) -> None:
    with pytest.raises(ScorerFailed, match="has the classes LABEL_0, LABEL_1, LABEL_2; expected entailment, neutral"):
        load_nli(str(made(["LABEL_0", "LABEL_1", "LABEL_2"])), device="cpu")


def test_a_logit_that_is_not_finite_is_no_answer(made: Made) -> None:
    folder = made(THREE, is_broken=True)
    with pytest.raises(ScorerFailed, match="gave a logit that is not finite for pair 0"):
        scorer_named(str(folder), device="cpu")([("lungs are clear", "no effusion")])


def test_a_hypothesis_that_fills_the_window_is_refused(made: Made) -> None:
    with pytest.raises(ScorerFailed, match="the hypothesis of pair 1 takes all but 7 of the 40 tokens of its window"):
        load_nli(str(made(THREE)), device="cpu")([("clear", "no"), ("clear", " ".join(["no"] * 30))])


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ScorerFailed, match="cannot be loaded as a model of inference: .*no such folder"):
        scorer_named(str(tmp_path / "none"))


@pytest.mark.parametrize("name", ["none", ""])
def test_a_name_that_is_no_scorer_is_told_what_is_one(name: str) -> None:
    with pytest.raises(ScorerFailed, match=f"scorer '{name}' cannot be loaded: .*give rules, a folder, or the Hub id"):
        scorer_named(name)


def test_a_model_that_classifies_no_sequences_is_named_in_one_short_line(made: Made) -> None:
    config = made(THREE) / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "architectures": ["BertForMaskedLM"]}))
    with pytest.raises(ScorerFailed, match="it is a BertForMaskedLM, which classifies no sequences") as fault:
        scorer_named(str(config.parent), device="cpu")
    assert len(str(fault.value)) < 300


def test_a_folder_whose_card_does_not_beat_its_control_may_not_reward(made: Made) -> None:
    folder = made(THREE)
    share = {"value": 0.5, "low": 0.45, "high": 0.55}
    card = {"accuracy": share, "hypothesis_only": share, "num_pairs": 300, "trained_on": ["snli"]}
    worse, better = ({"value": 0.01, "low": -0.02, "high": 0.04}, {"value": 0.1, "low": 0.02, "high": 0.2})
    (folder / "nli_card.json").write_text(json.dumps({**card, "difference": worse}))
    scorer_named(str(folder), device="cpu")
    with pytest.raises(ValueError, match=r"may not reward: .*\(difference \+0.010, 95 % interval -0.020 to \+0.040\)"):
        scorer_named(str(folder), as_reward=True, device="cpu")
    (folder / "nli_card.json").write_text(json.dumps({**card, "difference": better}))
    scorer_named(str(folder), as_reward=True, device="cpu")
    (folder / "nli_card.json").write_text("{}")
    with pytest.raises(ValueError, match="not a card of a model of inference"):
        scorer_named(str(folder), as_reward=True, device="cpu")
