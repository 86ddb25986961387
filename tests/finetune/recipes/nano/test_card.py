"""A pair measured again: what differs from its cards is said, by the command and by hand-made figures."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from finetune.cli import app
from finetune.recipes.nano import nano
from finetune.recipes.nano.card import Figure, Measured, differences, read_measurements, table, write_measurements
from medgemma.nano import NANO_FOLDER as DECODER_FOLDER
from medsiglip.nano import NANO_FOLDER as ENCODER_FOLDER

FIGURE = Figure("held-out", "zero-shot-mednist", "accuracy", 0.9931, (0.979, 1.0), 307, 9)
OTHER = replace(FIGURE, side="final", value=0.9889)
CARD = Measured("e7bb", 0, (FIGURE, OTHER))


def test_only_what_is_printed_otherwise_differs() -> None:
    assert differences(CARD, CARD) == []
    assert differences(CARD, replace(CARD, figures=(replace(FIGURE, value=0.9933), OTHER))) == []
    moved = differences(CARD, replace(CARD, figures=(replace(FIGURE, value=0.9902), OTHER)))
    assert differences(CARD, replace(CARD, figures=(replace(FIGURE, value=0.9902), OTHER)), items=1.5) == []
    assert differences(CARD, replace(CARD, figures=(replace(FIGURE, value=0.9870), OTHER)), items=1.5)
    assert moved == ["zero-shot-mednist, accuracy, held-out: 0.993 on the card, 0.990 now"]


def test_a_figure_on_one_side_only_is_named() -> None:
    less = replace(CARD, figures=(FIGURE,))
    assert differences(CARD, less) == ["zero-shot-mednist, accuracy, final: not measured again"]
    assert differences(less, CARD) == ["zero-shot-mednist, accuracy, final: not on the card"]


def test_measurements_are_read_as_written(tmp_path: Path) -> None:
    write_measurements(CARD, tmp_path / "m.json")
    assert read_measurements(tmp_path / "m.json") == CARD
    for content in ("{", "{}", '{"fingerprint": "a", "seed": 0, "figures": [{"side": "final"}]}'):
        (tmp_path / "m.json").write_text(content)
        with pytest.raises(ValueError, match=r"m\.json: holds no measurements of a card; run the recipe"):
            read_measurements(tmp_path / "m.json")


def test_both_sides_of_a_metric_stand_together() -> None:
    extra = replace(FIGURE, metric="n")
    lines = table((FIGURE, extra, OTHER)).splitlines()[2:]
    assert [(line.split(" | ")[1], line.split(" | ")[2]) for line in lines] == [
        ("accuracy", "held-out"),
        ("accuracy", "final"),
        ("n", "held-out"),
    ]


def as_on_the_cards(change: Callable[[Measured], Measured]) -> Callable[..., Measured]:
    def measured(folder: Path, data: Path, out: Path, **settings: Any) -> Measured:
        assert settings["seed"] == read_measurements(folder / "measurements.json").seed
        return change(read_measurements(folder / "measurements.json"))

    return measured


def test_the_command_says_what_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The measuring itself is in other tests and takes minutes; here it gives back the cards, once with one changed."""
    words = ["measure", "--data", str(tmp_path), "--out", str(tmp_path)]
    for name in ("measure_encoder", "measure_decoder"):
        monkeypatch.setattr(nano, name, as_on_the_cards(lambda card: card))
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert done.output.count(", 0 not as on its card, 0 by more than an item") == 2
    for name, folder in (("medsiglip", ENCODER_FOLDER), ("medgemma", DECODER_FOLDER)):
        assert read_measurements(tmp_path / f"{name}.json") == read_measurements(folder / "measurements.json")

    def without_the_first(card: Measured) -> Measured:
        return replace(card, figures=card.figures[1:])

    monkeypatch.setattr(nano, "measure_decoder", as_on_the_cards(without_the_first))
    changed = CliRunner().invoke(app, words)
    assert changed.exit_code == 1
    assert "medgemma: vqa-rad, closed_accuracy, held-out: not measured again" in changed.output
    assert ", 1 not as on its card, 1 by more than an item" in changed.output


def test_a_pair_that_is_not_there_is_named(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["measure", str(tmp_path), "--data", str(tmp_path), "--out", str(tmp_path / "out")])
    assert isinstance(done.exception, ValueError)
    assert "found no medsiglip/model.safetensors" in str(done.exception)
