"""`medgemma ask`, `chat` and `batch`: volumes, token counts, forms, thinking, samples; one line a mistake."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file

from medgemma import MedGemma
from medgemma.asking import AnswerOptions
from medgemma.cli import main
from medgemma.nano import NANO_FOLDER
from medgemma.prompts.chat import user_message
from tests.medgemma.thinker import thinking_folder
from tests.nano import needs_nano

Run = Callable[..., int]
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tiny_folder: Path) -> Run:
    """`medgemma ARGS --model TINY`; returns the exit status."""

    def call(*arguments: object, model: object = tiny_folder) -> int:
        words = [str(a) for a in arguments]
        monkeypatch.setattr(sys, "argv", ["medgemma", *words, "--model", str(model), "--device", "cpu"])
        with pytest.raises(SystemExit) as done:
            main()
        return int(done.value.code or 0)

    return call


@pytest.fixture
def film(tmp_path: Path, images: list[Any]) -> Path:
    images[0].save(tmp_path / "film.png")
    return tmp_path / "film.png"


@pytest.fixture
def ct(tmp_path: Path) -> Path:
    """Three slices of one series, their files in the opposite order."""
    folder = tmp_path / "ct"
    folder.mkdir()
    for number in range(3):
        dataset = dcmread(str(get_testdata_file("CT_small.dcm")))
        dataset.ImagePositionPatient[2] += 5 * number
        dataset.SOPInstanceUID += f".{number}"
        dataset.save_as(folder / f"{2 - number}.dcm")
    return folder


def line(capsys: Capture) -> tuple[dict[str, Any], str]:
    said = capsys.readouterr()
    return json.loads(said.out.splitlines()[-1]), said.err


# Volumes


def test_a_folder_of_slices_is_one_volume(run: Run, ct: Path, capsys: Capture, gemma: MedGemma) -> None:
    assert run("ask", ct, "-q", "Is there a lesion?", "--json", "--max-new-tokens", 4) == 0
    answer, err = line(capsys)
    assert (
        answer["files"] == [str(ct)] and answer["policies"] == ["ct-medgemma-1.5"] and answer["resize"] == "huggingface"
    )
    assert answer["answer"] == gemma.ask(ct, "Is there a lesion?", max_new_tokens=4)[0].text
    windows = "red -1024 to 1024 HU, green -135 to 215 HU, blue 0 to 80 HU"
    assert f"{ct}: CT volume, 3 of 3 slices shown, ct-medgemma-1.5 ({windows})" in err


def test_policies_of_volumes_and_pictures(run: Run, ct: Path, capsys: Capture) -> None:
    options = ["--window-preset", "report", "--slices", 2, "--resize", "container"]
    assert run("ask", ct, "-q", "?", "--json", "--max-new-tokens", 1, *options) == 0
    answer, err = line(capsys)
    assert (answer["policies"], answer["resize"]) == (["ct-report"], "container")
    assert "2 of 3 slices shown, ct-report (red -1225 to 1025 HU" in err
    assert run("ask", ct / "0.dcm", "-q", "?", "--json", "--max-new-tokens", 1, "--policy", "ct-report") == 0
    assert line(capsys)[0]["policies"] == ["ct-report"]
    assert run("ask", ct, "-q", "?", "--window-preset", "lung") == 1
    err = capsys.readouterr().err
    assert err == "error: --window-preset lung: use one of report, medgemma-1.5, google-container, min-max, voi\n"


def test_volumes_and_files_are_asked_about_each(run: Run, ct: Path, film: Path, capsys: Capture) -> None:
    """Also a NIfTI file, whose slices are not axial and whose unit is unknown: warned of."""
    import nibabel
    import numpy as np

    coronal = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    nibabel.save(nibabel.Nifti1Image(np.arange(4 * 5 * 3).reshape(4, 5, 3).astype(np.int16), coronal), ct / "v.nii.gz")
    assert run("ask", film, ct, ct / "gone.dcm", "-q", "?", "--each", "--json", "--max-new-tokens", 1) == 1
    said = capsys.readouterr()
    answers = [json.loads(text) for text in said.out.splitlines()]
    assert [a["files"] for a in answers] == [[str(film)], [str(ct)], [str(ct / "v.nii.gz")]]
    assert [a["policies"] for a in answers] == [["stored"], ["ct-medgemma-1.5"], ["min-max"]]
    assert "warning:" in said.err and "the slices are coronal" in said.err
    assert "ask for the preset medgemma-1.5" in said.err and "gone.dcm" in said.err


def test_slices_of_a_volume_that_cannot_be_shown_are_reported(run: Run, ct: Path, capsys: Capture) -> None:
    for path in ct.iterdir():
        dataset = dcmread(path)
        dataset.Modality = "MR"
        dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
        dataset.save_as(path)
    assert run("ask", ct, "-q", "?", "--json", "--max-new-tokens", 1) == 0
    assert line(capsys)[0]["policies"] == ["min-max"]
    assert run("ask", ct, "-q", "?", "--window-preset", "report") == 1
    assert "not Hounsfield units; use the preset min-max" in capsys.readouterr().err


# Token counts


def test_tokens_are_counted_without_weights(
    run: Run, ct: Path, film: Path, capsys: Capture, gemma: MedGemma, tmp_path: Path
) -> None:
    arguments = ["ask", film, "-q", "View?", "--count-tokens", "--max-new-tokens", 100]
    assert run(*arguments, "--json") == 0
    tokens = line(capsys)[0]["tokens"]
    prompt = gemma.prompt([user_message("View?", 1)], 100)
    expected = {
        "prompt": len(prompt.input_ids),
        "images": 4,
        "num_images": 1,
        "answer": 100,
        "limit": 2048,
        "fits": True,
    }
    assert tokens == {**expected, "text": len(prompt.input_ids) - 4}
    assert run(*arguments) == 0
    assert "tokens (" in capsys.readouterr().out
    assert run("ask", ct, "-q", "View?", "--count-tokens", "--json", "--max-new-tokens", 2040) == 1
    counted, err = line(capsys)
    assert counted["tokens"]["num_images"] == 3 and not counted["tokens"]["fits"]
    assert "holds 2,048; shorten the question, or send fewer pictures or slices" in err


def test_too_many_slices_are_refused_before_anything_is_computed(
    run: Run, ct: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medgemma.engine import Engine

    monkeypatch.setattr(Engine, "generate", lambda self, requests: pytest.fail("computed"))
    assert run("ask", ct, "-q", "?", "--max-new-tokens", 2040) == 1
    assert "(3 images of 4) and asks for 2,040 more" in capsys.readouterr().err


# Forms, samples, thinking


def test_forms_reach_the_answer(run: Run, film: Path, tmp_path: Path, capsys: Capture, gemma: MedGemma) -> None:
    assert run("ask", film, "-q", "?", "--choices", "left; right", "--json") == 0
    answer, _ = line(capsys)
    assert answer["answer"] in ("left", "right") and answer["choice_logprobs"].keys() == {"left", "right"}
    scores = [score.logprob for score in gemma.score(film, "?", ["left", "right"])]
    assert list(answer["choice_logprobs"].values()) == pytest.approx(scores, abs=1e-5)
    assert run("ask", film, "-q", "?", "--regex", r"[A-E]\.", "--json") == 0
    assert line(capsys)[0]["answer"] in ("A.", "B.", "C.", "D.", "E.")
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"]}')
    for given in (schema, schema.read_text().replace("}}", '}}, "additionalProperties": false', 1)):
        status = run("ask", film, "-q", "?", "--json-schema", given, "--json", "--max-new-tokens", 600)
        answer, _ = line(capsys)
        assert status == 0
        if answer["finish_reason"] == "stop":
            assert json.loads(answer["answer"])["a"] in (1, 2)


def test_samples_are_told_apart(run: Run, film: Path, capsys: Capture) -> None:
    options = ["--temperature", 2, "--top-k", 40, "--top-p", 0.9, "--samples", 3, "--seed", 5]
    assert run("ask", film, "-q", "?", "--json", "--max-new-tokens", 8, *options) == 0
    first = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    assert [a["sample"] for a in first] == [0, 1, 2] and len({a["answer"] for a in first}) == 3
    assert run("ask", film, "-q", "?", "--json", "--max-new-tokens", 8, *options) == 0
    again = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    assert [a["answer"] for a in again] == [a["answer"] for a in first]
    assert all(a["logprob"] < 0 for a in first)


MISTAKES = [
    (["--json-schema", '{"type": "foo"}'], "error: the JSON schema cannot be used: Invalid type: foo"),
    (["--json-schema", "gone.json"], "error: --json-schema gone.json: no such file, and no JSON object"),
    (["--regex", "["], "error: the regular expression '[' cannot be used:"),
    (["--choices", "a;;b"], "none empty"),
    (["--choices", "a", "--regex", "b"], "error: --choices, --regex and --json-schema exclude each other"),
    (["--no-thinking", "--thinking-budget", "5"], "error: --thinking-budget and --no-thinking contradict each other"),
    (["--top-p", "0"], "error: top_p is 0.0; it must be in (0, 1]"),
    (["--thinking"], "has no thinking tokens (<unused94>, <unused95>) and cannot think; ask without thinking"),
    (["--thinking-budget", "7"], "cannot think; ask without a thinking budget of 7"),
]


@pytest.mark.parametrize(("options", "message"), MISTAKES, ids=[" ".join(options) for options, _ in MISTAKES])
def test_a_mistake_is_one_line(run: Run, film: Path, capsys: Capture, options: list[str], message: str) -> None:
    assert run("ask", film, "-q", "View?", "--quiet", *options) == 1
    said = capsys.readouterr()
    assert said.out == "" and message in said.err
    assert sum(text.startswith("error:") for text in said.err.splitlines()) == 1


def test_no_thinking_is_what_a_model_without_markers_does(run: Run, film: Path, capsys: Capture) -> None:
    for options in ([], ["--no-thinking"]):
        assert run("ask", film, "-q", "View?", "--max-new-tokens", 6, *options) == 0
    plain, off = capsys.readouterr().out.splitlines()
    assert plain == off


def test_thinking_options_reach_the_prompt(
    run: Run, film: Path, capsys: Capture, tiny_folder: Path, tmp_path: Path
) -> None:
    folder = thinking_folder(tiny_folder, tmp_path / "thinker")
    counts = []
    for options in ([], ["--no-thinking"], ["--thinking"], ["--thinking-budget", 4], ["--system", "Be brief."]):
        assert run("ask", film, "-q", "?", "--count-tokens", "--json", *options, model=folder) == 0
        counts.append(line(capsys)[0]["tokens"]["text"])
    plain, off, on, budget, system = counts
    assert plain == off < system < on == budget
    assert run("ask", film, "-q", "?", "--choices", "yes;no", "--thinking-budget", 4, "--json", model=folder) == 0
    assert line(capsys)[0]["answer"] in ("yes", "no")


# Chat and batch


def test_chat_keeps_the_conversation_and_its_volume(
    run: Run, ct: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, gemma: MedGemma
) -> None:
    from medgemma.prompts.content import study_parts, user_turn
    from medsiglip.imaging import open_images

    monkeypatch.setattr(sys, "stdin", io.StringIO("View?\nSure?\n"))
    assert run("chat", ct, "--system", "Be brief.", "--max-new-tokens", 6, "--quiet") == 0
    turn = user_turn([*study_parts(open_images(str(ct))), "View?"])
    messages: list[Any] = [{"role": "system", "content": "Be brief."}, turn.message]
    first = "".join(gemma.stream(messages, turn.pictures, max_new_tokens=6))
    messages += [{"role": "assistant", "content": first}, {"role": "user", "content": "Sure?"}]
    second = "".join(gemma.stream(messages, turn.pictures, max_new_tokens=6, options=AnswerOptions()))
    assert capsys.readouterr().out == f"{first}\n{second}\n"


def test_batch_answers_a_file_and_names_what_it_cannot(
    run: Run, capsys: Capture, tmp_path: Path, gemma: MedGemma
) -> None:
    requests, out = tmp_path / "in.jsonl", tmp_path / "deep" / "out.jsonl"
    request = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions",
               "body": {"messages": [{"role": "user", "content": "View?"}], "max_tokens": 6}}  # fmt: skip
    requests.write_text(json.dumps(request) + "\n" + json.dumps({**request, "custom_id": "b", "url": "/x"}) + "\n")
    assert run("batch", requests, "--out", out, "--quiet") == 1
    assert "error: line 2 (b): url is '/x'" in capsys.readouterr().err
    good, bad = (json.loads(text) for text in out.read_text().splitlines())
    [answer] = gemma.ask([], "View?", max_new_tokens=6)
    assert good["response"]["body"]["choices"][0]["message"]["content"] == answer.text
    assert bad["response"]["status_code"] == 400
    requests.write_text(json.dumps(request) + "\n")
    assert run("batch", requests, "--out", out, "--quiet") == 0
    assert len(out.read_text().splitlines()) == 1
    assert run("batch", tmp_path / "gone.jsonl", "--out", out) == 1
    assert "gone.jsonl: no such file" in capsys.readouterr().err


@needs_nano
def test_nano_says_what_it_was_not_measured_for(run: Run, ct: Path, capsys: Capture) -> None:
    assert run("ask", ct, "-q", "Is this a CT scan?", "--max-new-tokens", 4, model=NANO_FOLDER) == 0
    assert "note: nano was not measured for several pictures in one prompt" in capsys.readouterr().err
    assert run("ask", ct / "0.dcm", "-q", "Is this a CT scan?", "--max-new-tokens", 4, model=NANO_FOLDER) == 0
    assert "not measured" not in capsys.readouterr().err
