"""The recipe `nli`: what is learned and held out, the control, the card and its gate, plain transformers."""

import gzip
import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from typer.testing import CliRunner

from finetune.cli import app
from finetune.recipes.nli import card_of, pairs_of, without_premises
from medgemma.entailment.card import read_card
from medgemma.entailment.named import scorer_named

SMALL = ("steps=4", "pairs_per_step=8", "vocabulary_size=300", "hidden_size=16", "layers=1", "max_tokens=40")


def snli(folder: Path, num_premises: int = 12) -> Path:
    """Three pairs a premise, in the kit's form."""
    (folder / "snli").mkdir(parents=True)
    for split in ("train", "val"):
        with gzip.open(folder / "snli" / f"{split}.jsonl.gz", "wt") as file:
            for number in range(num_premises):
                for label in ("entailment", "neutral", "contradiction"):
                    row = {"id": f"{split}-{number}-{label}", "premise": f"A {split} premise of number {number}."}
                    file.write(json.dumps({**row, "hypothesis": f"It is {label} {number}.", "label": label}) + "\n")
    return folder


def test_a_run_ends_with_a_model_that_transformers_reads_and_its_card(tmp_path: Path) -> None:
    settings = [word for setting in SMALL for word in ("--set", setting)]
    command = ["run", "nli", "--data", str(snli(tmp_path / "data")), "--out", str(tmp_path / "out"), "--quiet"]
    done = CliRunner().invoke(app, [*command, *settings])
    assert done.exit_code == 0, (done.output, done.exception)
    folder = tmp_path / "out" / "model"
    card = read_card(folder)
    assert card and card.num_pairs == 36 and card.trained_on == ("snli",)
    assert "hypothesis alone" in done.output and "may " in done.output.splitlines()[-1]

    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    pair = ("A val premise of number 3.", "It is neutral 3.")
    with torch.no_grad():
        plain = torch.softmax(model.eval()(**tokenizer(*pair, return_tensors="pt")).logits[0], dim=0)
    [answer] = scorer_named(str(folder), device="cpu")([pair])
    by_name = {model.config.id2label[place]: float(share) for place, share in enumerate(plain)}
    assert answer.entailment == pytest.approx(by_name["entailment"], abs=1e-5)
    assert answer.contradiction == pytest.approx(by_name["contradiction"], abs=1e-5)
    if not card.beats_control:
        with pytest.raises(ValueError, match="may not reward"):
            scorer_named(str(folder), device="cpu", as_reward=True)


def test_a_hypothesis_without_room_for_a_premise_is_left_out_and_counted(tmp_path: Path) -> None:
    data = snli(tmp_path / "data")
    with gzip.open(data / "snli" / "val.jsonl.gz", "at") as file:
        row = {"id": "long", "premise": "A premise.", "hypothesis": "It is neutral. " * 20, "label": "neutral"}
        file.write(json.dumps(row) + "\n")
    settings = [word for setting in SMALL for word in ("--set", setting)]
    done = CliRunner().invoke(app, ["run", "nli", "--data", str(data), "--out", str(tmp_path / "out"), *settings])
    assert done.exit_code == 0, (done.output, done.exception)
    assert "note: 1 pairs are left out" in done.output
    card = read_card(tmp_path / "out" / "model")
    assert card and card.num_pairs == 36


def test_a_model_may_reward_only_if_the_whole_interval_is_above_its_control() -> None:
    groups = [f"g{number}" for number in range(200)]
    alone = [number % 2 == 0 for number in range(200)]
    better = [one or number % 4 == 1 for number, one in enumerate(alone)]
    card = card_of(better, alone, groups, ("snli",))
    assert (card.accuracy.value, card.hypothesis_only.value, card.difference.value) == (0.75, 0.5, 0.25)
    assert card.beats_control and card.lines()[-1].startswith("may reward")
    same = card_of(alone, [not one for one in alone], groups, ("snli",))
    assert not same.beats_control and same.lines()[-1].startswith("may not reward")


@pytest.mark.kit
def test_what_is_learned_and_what_is_held_out(kit: Path) -> None:
    learned, held, cards = pairs_of(kit)
    assert cards == ("snli", "k-qa", "wice")
    assert len(learned) > 9000 and len(held) > 1015
    assert not {pair.group for pair in learned} & {pair.group for pair in held}
    assert {pair.label for pair in learned} == {"entailment", "neutral", "contradiction"}
    assert all(pair.premise == "" for pair in without_premises(held))
    assert [pair.hypothesis for pair in without_premises(held)] == [pair.hypothesis for pair in held]


def test_a_folder_without_pairs_is_refused(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["run", "nli", "--data", str(tmp_path), "--out", str(tmp_path / "out")])
    assert "holds none of snli, k-qa, wice" in str(done.exception)
