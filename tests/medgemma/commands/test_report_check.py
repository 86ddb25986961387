"""`medgemma report --check`: marks of sentences, drafts and sources from files, findings of pictures, refusals."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medgemma.entailment.checking import check_draft, findings_source, likeliest_of_pictures
from medgemma.entailment.rules import rule_nli
from tests import tiny
from tests.medgemma.conftest import Command

SOURCE = "Small left pleural effusion. No pneumothorax. The heart is enlarged, unchanged."
DRAFT = "1. Stable cardiomegaly. 2. Right pleural effusion. 3. There is a nodule. 4. No pneumothorax."
MARKS = ["supported", "contradicted", "not mentioned", "supported"]


@pytest.fixture
def texts(tmp_path: Path) -> tuple[Path, Path]:
    draft, source = tmp_path / "draft.txt", tmp_path / "findings.txt"
    draft.write_text(DRAFT)
    source.write_text(SOURCE)
    return draft, source


def test_each_sentence_has_its_mark() -> None:
    checked = check_draft(DRAFT, SOURCE, rule_nli)
    assert [one.mark for one in checked] == MARKS
    assert checked[1].sentence == "Right pleural effusion."
    for nothing in (" \n", "..."):
        with pytest.raises(ValueError, match="the source holds no text"):
            check_draft(DRAFT, nothing, rule_nli)
        with pytest.raises(ValueError, match="the draft holds no text"):
            check_draft(nothing, SOURCE, rule_nli)


def test_a_draft_is_checked_without_a_study(command: Command, texts: tuple[Path, Path]) -> None:
    draft, source = texts
    done = command("report", "--draft", draft, "--check", "--source", source)
    assert done.returncode == 0
    assert [line[:15].strip() for line in done.stdout.splitlines()] == MARKS
    assert "2 supported, 1 contradicted, 1 not mentioned, by rules" in done.stderr
    done = command("report", "--draft", draft, "--check", "--source", source, "--json")
    told = json.loads(done.stdout)
    assert told["counts"] == {"supported": 2, "contradicted": 1, "not mentioned": 1}
    assert [row["mark"] for row in told["sentences"]] == MARKS
    assert told["sentences"][1] == {
        "sentence": "Right pleural effusion.", "mark": "contradicted",
        "entailment": 0.02, "neutral": 0.08, "contradiction": 0.9,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((), "give FILE, the study to report"),
        (("--source", "s.txt"), "--source: only --check uses it; add --check"),
        (("film.png", "--scorer", "m"), "--scorer: only --check uses it; add --check"),
        (("--check", "--source", "s.txt", "--probe", "p"), "to check against; got --source and --probe"),
        (("--check", "--draft", "d.txt", "--source", "s.txt", "--encoder", "m"), "--encoder is of --probe and"),
        (("f.png", "--check", "--draft", "d.txt", "--source", "s.txt"), "FILE would not be looked at"),
        (("--check", "--draft", "d.txt"), "--check needs one of --source FILE, --probe DIR and --label-set NAME"),
        (("--check", "--source", "s.txt"), "only --draft with --source needs none"),
        (("--check", "--draft", "d.txt", "--label-set", "chest-xray-findings"), "give FILE, the study"),
        (("--check", "--draft", "gone.txt", "--source", "gone.txt"), "gone.txt: No such file"),
    ],
)
def test_options_that_do_not_go_together(command: Command, options: tuple[str, ...], says: str) -> None:
    done = command("report", *options)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("error: ") and says in done.stderr


def test_what_is_not_english_is_named_as_the_user_knows_it(command: Command, texts: tuple[Path, Path]) -> None:
    draft, source = texts
    german = "Die Lunge ist frei."
    draft.write_text(f"No pneumothorax. {german}")
    done = command("report", "--draft", draft, "--check", "--source", source)
    assert done.returncode == 1 and "sentence 2 of the draft is in German; only English is checked" in done.stderr
    source.write_text(german)
    done = command("report", "--draft", draft, "--check", "--source", source)
    assert done.returncode == 1 and "the source is in German; only English is checked" in done.stderr


def test_findings_become_the_text_to_check_against() -> None:
    found = likeliest_of_pictures(["pleural effusion", "pneumothorax", "edema"], [[0.2, 0.1, 0.2], [0.9, 0.3, 0.5]])
    assert found == {"pleural effusion": 0.9, "pneumothorax": 0.3, "edema": 0.5}
    source = findings_source(found)
    assert source == "There is pleural effusion. There is no pneumothorax. There may be edema."
    draft = "No effusion. No pneumothorax. There is edema. Edema is possible. There is a mass."
    assert [one.mark for one in check_draft(draft, source, rule_nli)] == [
        "contradicted", "supported", "not mentioned", "supported", "not mentioned",
    ]  # fmt: skip


def test_a_draft_is_checked_against_the_findings_of_a_label_set(
    command: Command, texts: tuple[Path, Path], tmp_path: Path
) -> None:
    film = tmp_path / "film.png"
    Image.fromarray(tiny.picture_array(0, 200, 200)).save(film)
    done = command("report", film, "--draft", texts[0], "--check", "--label-set", "chest-xray-findings", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["source"].count("pleural effusion") == 1 and told["source"].startswith("There ")
    assert len(told["sentences"]) == 4


def test_what_the_model_writes_is_checked(
    command: Command, texts: tuple[Path, Path], tiny_folder: Path, tmp_path: Path
) -> None:
    film = tmp_path / "film.png"
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(film)
    done = command(
        "report", film, "--check", "--source", texts[1], "--json", "--max-new-tokens", "8",
        "--model", tiny_folder, "--device", "cpu",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["question"] == "findings:" and told["answer"] and told["sentences"]
