"""`medgemma report`, `locate` and `compare`: prompts, boxes on the picture, refusals."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medgemma import MedGemma
from medgemma.answers import Box, LocatedBox, PixelBox, parse_boxes
from medgemma.asking import Asking
from medgemma.cli import main
from medgemma.commands.film import drawn
from medgemma.engine import Engine
from medgemma.engine.request import Completion, Request
from medgemma.prompts.content import comparison_parts
from medgemma.prompts.film_prompts import COMPARISON, box_schema, findings_question, localisation_question
from medsiglip.imaging import Picture
from tests import tiny

Run = Callable[..., int]
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tiny_folder: Path) -> Run:
    def call(*arguments: object) -> int:
        words = [str(a) for a in arguments]
        common = ["--model", str(tiny_folder), "--device", "cpu", "--quiet"]
        monkeypatch.setattr(sys, "argv", ["medgemma", *words, *common])
        with pytest.raises(SystemExit) as done:
            main()
        return int(done.value.code or 0)

    return call


@pytest.fixture
def films(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "prior.png", tmp_path / "current.png"]
    for seed, path in enumerate(paths):
        Image.fromarray(tiny.picture_array(seed, 300, 400)).save(path)
    return paths


@pytest.fixture
def says(monkeypatch: pytest.MonkeyPatch, gemma: MedGemma) -> Callable[[str], list[Request]]:
    """Let the engine say one text; returns what it was asked."""

    def script(text: str) -> list[Request]:
        asked: list[Request] = []
        ids = tuple(gemma.tokenizer(text, add_special_tokens=False).input_ids)

        def generate(self: Engine, requests: Any) -> list[list[Completion]]:
            asked.extend(requests)
            return [[Completion(ids, (-1.0,) * len(ids), "stop")] for _ in requests]

        monkeypatch.setattr(Engine, "generate", generate)
        return asked

    return script


def test_report_asks_for_findings(run: Run, films: list[Path], gemma: MedGemma, capsys: Capture) -> None:
    assert run("report", films[0], "--indication", "Cough. ", "--max-new-tokens", 8) == 0
    [answer] = gemma.ask(films[0], "Cough. findings:", max_new_tokens=8)
    said = capsys.readouterr()
    assert said.out == f"{answer.text}\n" and "the answer was cut after 8 tokens" in said.err
    assert run("report", films[0], "--json", "--max-new-tokens", 8) == 0
    line = json.loads(capsys.readouterr().out)
    assert (line["question"], line["policies"], line["resize"]) == ("findings:", ["stored"], "huggingface")
    assert findings_question("") == "findings:"


def test_compare_shows_the_prior_first_with_its_label(
    run: Run, films: list[Path], gemma: MedGemma, capsys: Capture, says: Callable[[str], list[Request]]
) -> None:
    asked = says("stable")
    assert run("compare", *films) == 0
    assert capsys.readouterr().out == "stable\n"
    [request] = asked
    assert [picture.file for picture in request.pictures] == [str(f) for f in films]
    parts = comparison_parts([request.pictures[0]], [request.pictures[1]])
    from medgemma.asking import AnswerOptions

    expected = gemma.asking.question(parts, COMPARISON, AnswerOptions(), 600).request
    assert request.prompt == expected.prompt
    assert run("compare", *films, "-q", "Any change?", "--json") == 0
    line = json.loads(capsys.readouterr().out)
    assert line["question"] == "Any change?" and line["files"] == [str(f) for f in films]


def test_nothing_is_compared_when_one_study_cannot_be_read(
    run: Run, films: list[Path], tmp_path: Path, capsys: Capture
) -> None:
    assert run("compare", films[0], tmp_path / "gone.png") == 1
    said = capsys.readouterr()
    assert said.out == "" and "gone.png: no such file" in said.err and "nothing was asked" in said.err


CLAVICLE = [{"box_2d": [100, 250, 500, 450], "label": "clavicle"}]


@pytest.mark.parametrize("reasoning", [False, True])
def test_locate_draws_the_box_where_it_is(
    run: Run, films: list[Path], tmp_path: Path, capsys: Capture, says: Callable[[str], list[Request]], reasoning: bool
) -> None:
    text = json.dumps(CLAVICLE)
    [asked] = [says(f"It is high.\nFinal Answer: {text}" if reasoning else text)]
    out = tmp_path / "deep" / "box.png"
    assert run("locate", films[0], "-q", "clavicle", "--out", out, *(["--reasoning"] if reasoning else [])) == 0
    line = json.loads(capsys.readouterr().out)
    box = {
        "label": "clavicle",
        "y0_x0_y1_x1_px": [30.0, 100.0, 150.0, 180.0],
        "side": "patient's right",
        "side_from": "convention",
    }
    assert line["boxes"] == [box] and line["reason"] is None and line["structure"] == "clavicle"
    assert (asked[0].constraint is None) == reasoning
    pixels = np.asarray(Image.open(out).convert("RGB")).astype(int)
    yellow = np.argwhere(np.abs(pixels - (242, 201, 76)).max(-1) < 8)
    height = yellow.max(0) - yellow.min(0) + 1
    assert abs(height[0] - 120) <= 1 and abs(height[1] - 80) <= 1  # 400 columns are drawn once


def test_locate_says_why_there_is_no_box(
    run: Run, films: list[Path], tmp_path: Path, capsys: Capture, says: Callable[[str], list[Request]]
) -> None:
    says('[{"box_2d": [500, 250, 100, 450], "label": "clavicle"}]')
    assert run("locate", films[0], "-q", "clavicle", "--out", tmp_path / "box.png") == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["boxes"] == [] and "note: box 1 is not four numbers" in said.err
    assert (tmp_path / "box.png").is_file()


def test_locate_answers_in_form_with_a_random_model(
    run: Run, films: list[Path], tmp_path: Path, capsys: Capture
) -> None:
    assert run("locate", films[0], "-q", "rib", "--out", tmp_path / "box.png") == 0
    line = json.loads(capsys.readouterr().out)
    if line["finish_reason"] == "stop":
        assert all(box["label"] == "rib" for box in json.loads(line["answer"]))


def test_locate_refuses_what_it_cannot_draw(run: Run, films: list[Path], tmp_path: Path, capsys: Capture) -> None:
    assert run("locate", films[0], "-q", "rib", "--out", tmp_path / "box.jpg") == 1
    assert "give the name of a PNG file, such as box.png" in capsys.readouterr().err
    assert run("locate", tmp_path, "-q", "rib", "--out", tmp_path / "box.png") == 1
    assert "2 pictures; a box is of one" in capsys.readouterr().err
    assert run("report", films[0], "--max-new-tokens", 2048) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"error: {films[0]}: the prompt is") and err.count("\n") == 1


def test_the_prompt_spells_out_form_and_side() -> None:
    for reasoning in (True, False):
        question = localisation_question("right clavicle", reasoning=reasoning)
        assert all(
            part in question for part in ("right clavicle", "[y0, x0, y1, x1]", "0 to 1000", "patient's own left")
        )
        assert ("Final Answer:" in question and "```json" in question) == reasoning


def test_what_the_schema_allows_parses(tiny_folder: Path) -> None:
    from tests.medgemma.scripted import scripted_asking

    asking: Asking = scripted_asking(tiny_folder)
    state = asking.grammars.json_schema(box_schema("rib"), compact=True).start()
    text = '[{"box_2d": [1, 2, 30, 40], "label": "rib"}]'
    for token in asking.tokenizer(text, add_special_tokens=False).input_ids:
        state.advance(token)
    assert state.finished() or bool(state.allowed()[sorted(asking.stop_ids)].all())
    assert parse_boxes(text, "per_mille").boxes == (Box("rib", 0.001, 0.002, 0.03, 0.04),)


def test_a_small_picture_is_drawn_larger() -> None:
    picture = Picture.from_array(np.zeros((64, 128), np.uint8))
    box = LocatedBox("x", PixelBox(16, 32, 48, 64), None, None)
    image = np.asarray(drawn(picture, "x", [box], None)).astype(int)
    yellow = np.argwhere(np.abs(image[:512] - (242, 201, 76)).max(-1) < 8)  # the caption is below
    assert (yellow.max(0) - yellow.min(0) + 1).tolist() == [128, 128]
