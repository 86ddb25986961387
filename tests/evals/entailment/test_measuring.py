import json

import pytest
from typer.testing import CliRunner

from evals.cli import app
from evals.entailment.measuring import measure
from evals.entailment.pairs import LabelledPair
from medgemma.entailment.scores import Entailment

SURE = {
    "e": Entailment(0.8, 0.1, 0.1),
    "n": Entailment(0.1, 0.8, 0.1),
    "c": Entailment(0.1, 0.1, 0.8),
}


def test_accuracy_by_label_and_by_phenomenon() -> None:
    pairs = [
        LabelledPair("1", "p", "e", "entailment", "side", "held-back", "g1"),
        LabelledPair("2", "p", "n", "entailment", "side", "held-back", "g1"),
        LabelledPair("3", "q", "c", "contradiction", "change", "held-back", "g2"),
        LabelledPair("4", "r", "e", "neutral", "change", "held-back", "g3"),
    ]
    found = measure(lambda asked: [SURE[hypothesis] for _, hypothesis in asked], pairs)
    assert found.accuracy.value == 0.5 and found.accuracy.n_groups == 3
    assert {label: estimate.value for label, estimate in found.by_label.items()} == {
        "entailment": 0.5, "neutral": 0.0, "contradiction": 1.0,
    }  # fmt: skip
    assert {name: estimate.value for name, estimate in found.by_phenomenon.items()} == {"side": 0.5, "change": 0.5}
    assert found.confused[("entailment", "neutral")] == 1 and found.confused[("neutral", "entailment")] == 1


def test_the_command_measures_a_scorer_on_the_held_back_half() -> None:
    done = CliRunner().invoke(app, ["entailment", "rules", "--json"])
    told = json.loads(done.stdout)
    assert told["all"]["n"] == 120 and told["all"]["value"] == pytest.approx(0.9)  # as docs/entailment.md has it
    assert sum(row["n"] for row in told["confused"]) == 120
    refused = CliRunner().invoke(app, ["entailment", "rules", "--half", "other"])
    assert "give held-back or development" in str(refused.exception)
