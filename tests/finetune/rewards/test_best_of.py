"""The best of N answers of a tiny model: the command, its figures, and what it refuses."""

import json
import math
import sys
from pathlib import Path

import pytest
from PIL import Image

from finetune.cli import main
from finetune.rewards.best_of import best_of_answers
from medgemma import MedGemma
from medgemma.asking import AnswerOptions
from medgemma.engine import Sampling
from medgemma.prompts.content import open_study, study_parts
from tests import tiny


def longest(completions: list[list[dict[str, str]]], tag: list[str], **_: object) -> list[float]:
    assert tag == ["x"] * len(completions)
    return [float(len(said[-1]["content"])) for said in completions]


def not_a_number(completions: list[object], **_: object) -> list[float]:
    return [math.nan] * len(completions)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.decoder_folder(tmp_path_factory.mktemp("tiny"))


def test_the_one_that_earns_most(folder: Path) -> None:
    gemma = MedGemma.from_pretrained(folder, device="cpu")
    options = AnswerOptions(Sampling(temperature=1.0, num_samples=6))
    picture = Image.fromarray(tiny.picture_array(0))
    found = best_of_answers(gemma, study_parts(open_study([picture])), "What?", longest, options, 8, {"tag": "x"})
    lengths = [len(answer.text) for answer in found.answers]
    assert list(found.rewards) == lengths and lengths[found.best] == max(lengths) > min(lengths)
    assert found.best == lengths.index(max(lengths))
    assert found.kl_bound == pytest.approx(math.log(6) - 5 / 6)
    for sampling in (Sampling(num_samples=6), Sampling(temperature=1.0)):
        with pytest.raises(ValueError, match="give -n 2 or more and a --temperature above 0"):
            best_of_answers(gemma, [], "What?", longest, AnswerOptions(sampling), 8)
    with pytest.raises(ValueError, match="reward not_a_number: nan is no finite number"):
        best_of_answers(gemma, [], "What?", not_a_number, options, 8)


def test_the_command(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(tiny.picture_array(0)).save(tmp_path / "film.png")
    ask = ["best-of", str(folder), str(tmp_path / "film.png"), "-q", "What?", "-n", "3", "--max-new-tokens", "4"]

    def said(*more: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["medgemma-finetune", *ask, *more])
        with pytest.raises(SystemExit) as done:
            main()
        captured = capsys.readouterr()
        return int(done.value.code or 0), captured.out, captured.err

    status, out, _ = said("--reward", "word-overlap", "--column", "answer=yes", "--json", "--quiet")
    answer = json.loads(out)
    assert status == 0 and len(answer["answers"]) == 3
    assert answer["reward"] == max(one["reward"] for one in answer["answers"])
    status, _, err = said("--reward", "word-overlap")
    assert status == 1 and "reward word_overlap: missing a required argument: 'answer'" in err
    assert "--column NAME=VALUE" in err and "Traceback" not in err
    status, _, err = said("--reward", "no_such_module:judge")
    assert status == 1 and "of a module that Python finds (PYTHONPATH=. for one here)" in err
    status, _, err = said("--reward", "word-overlap", "--column", "answer")
    assert status == 1 and err.strip().endswith("--column answer: expected NAME=VALUE, such as answer=yes")
