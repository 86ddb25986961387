"""Series and volumes on the command line: which one is chosen, and what of it the person who asks is told."""

import base64
import json
import logging
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from medgemma import MedGemma
from medgemma.asking import AnswerOptions
from medgemma.prompts.content import VolumeView
from tests.medgemma.conftest import Command
from tests.medsiglip.imaging.made_series import ct_file

GAP = "slices are missing, about 3: 1 gap of up to 8 mm, where the median step is 2 mm"


@pytest.fixture(autouse=True)
def warnings_stay_warnings() -> Iterator[None]:
    yield
    logging.captureWarnings(False)


def write(folder: Path, places: list[float], **tags: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, place in enumerate(places):
        data = ct_file(np.full((8, 8), 1064 + number, np.int16), (0, 0, place), InstanceNumber=number + 1, **tags)
        (folder / f"{len(list(folder.iterdir())):03d}.dcm").write_bytes(data)
    return folder


@pytest.fixture
def with_gap(tmp_path: Path) -> Path:
    return write(tmp_path / "gap", [0, 2, 4, 12, 14, 16, 18])


@pytest.fixture
def echoes(tmp_path: Path) -> Path:
    common = {"Modality": "MR", "RescaleIntercept": 0}
    write(tmp_path / "mr", [0, 1, 2], EchoNumbers=1, **common)
    return write(tmp_path / "mr", [0, 1, 2, 3], EchoNumbers=2, **common)


def ask(command: Command, folder: Path, tiny_folder: Path, *options: object) -> Any:
    common = ["--max-new-tokens", 2, "--model", tiny_folder, "--device", "cpu"]
    return command("ask", folder, "-q", "Is this a CT scan?", *common, *options)


def test_findings_stand_on_stderr_and_in_json(command: Command, with_gap: Path, tiny_folder: Path) -> None:
    for quiet in ([], ["--quiet"]):
        done = ask(command, with_gap, tiny_folder, *quiet)
        assert done.returncode == 0 and f"note: {with_gap}: {GAP}" in done.stderr.splitlines()
    done = ask(command, with_gap, tiny_folder, "--json")
    assert json.loads(done.stdout)["findings"] == [f"{with_gap}: {GAP}"]
    done = command("report", with_gap, "--json", "--max-new-tokens", 2, "--model", tiny_folder, "--device", "cpu")
    assert json.loads(done.stdout)["findings"] == [f"{with_gap}: {GAP}"] and GAP in done.stderr
    done = command("compare", with_gap, with_gap, "--max-new-tokens", 2, "--model", tiny_folder, "--device", "cpu")
    assert done.returncode == 0 and GAP in done.stderr


def test_findings_are_part_of_an_answer(gemma: MedGemma, with_gap: Path) -> None:
    [answer] = gemma.ask(str(with_gap), "Is this a CT scan?", max_new_tokens=2)
    assert answer.findings == (f"{with_gap}: {GAP}",)


def test_findings_are_part_of_a_batch_reply(
    command: Command, with_gap: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    archive = tmp_path / "gap.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for path in with_gap.iterdir():
            packed.write(path, path.name)
    url = f"data:application/zip;base64,{base64.b64encode(archive.read_bytes()).decode()}"
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "Is this a CT?"}]
    body = {"messages": [{"role": "user", "content": content}], "max_tokens": 2}
    request = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
    (tmp_path / "in.jsonl").write_text(json.dumps(request) + "\n", encoding="utf-8")
    out = tmp_path / "out.jsonl"
    done = command("batch", tmp_path / "in.jsonl", "--out", out, "--model", tiny_folder, "--device", "cpu")
    [finding] = json.loads(out.read_text(encoding="utf-8"))["response"]["body"]["findings"]
    assert finding.endswith(GAP) and GAP in done.stderr


def test_an_echo_is_chosen_on_the_command_line_and_in_python(
    command: Command, echoes: Path, tiny_folder: Path, gemma: MedGemma
) -> None:
    done = ask(command, echoes, tiny_folder)
    assert "4 of 4 slices shown" in done.stderr and "choose one by --select echo=1 or echo=2" in done.stderr
    for name in ("ask", "report"):
        options = ["-q", "Is this a CT scan?"] if name == "ask" else []
        done = command(
            name,
            echoes,
            *options,
            "--select",
            "echo=1",
            "--max-new-tokens",
            2,
            "--model",
            tiny_folder,
            "--device",
            "cpu",
        )
        assert done.returncode == 0 and "3 of 3 slices shown" in done.stderr
    options = AnswerOptions(view=VolumeView(select=(("echo", "1"),)))
    [answer] = gemma.ask(str(echoes), "Is this a CT scan?", max_new_tokens=2, options=options)
    assert any("left out by --select echo=1" in finding for finding in answer.findings)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("echo=3", "--select echo=3: there are echo=1, echo=2"),
        ("b_value=3", "--select b_value=3: nothing here differs in it"),
        ("eco=1", "--select eco=1: name one as KEY=VALUE"),
        ("echo", "--select 'echo': name one as KEY=VALUE"),
    ],
)
def test_a_choice_that_cannot_be_is_one_line(
    command: Command, echoes: Path, tiny_folder: Path, given: str, said: str
) -> None:
    done = ask(command, echoes, tiny_folder, "--select", given)
    assert done.returncode == 1 and said in done.stderr


def test_a_time_point_of_a_nifti_is_chosen(command: Command, tiny_folder: Path, tmp_path: Path) -> None:
    values = np.arange(8 * 8 * 3 * 2, dtype=np.int16).reshape(8, 8, 3, 2)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([-1.0, -1.0, 1.0, 1.0])), tmp_path / "bold.nii.gz")
    done = ask(command, tmp_path / "bold.nii.gz", tiny_folder)
    assert done.returncode == 1 and "choose it by time=1 to time=2: --select time=1" in done.stderr
    done = ask(command, tmp_path / "bold.nii.gz", tiny_folder, "--select", "time=2")
    assert done.returncode == 0 and "3 of 3 slices shown" in done.stderr


def test_a_preset_that_cannot_apply_is_an_error(command: Command, tiny_folder: Path, tmp_path: Path) -> None:
    loose = write(tmp_path / "loose", [0, 1, 2], PixelSpacing=None)
    done = ask(command, loose, tiny_folder, "--window-preset", "report")
    assert done.returncode == 1 and "the preset report is for volumes; 3 files of one series" in done.stderr
    assert "Pixel Spacing (0028,0030) is missing" in done.stderr
    done = ask(command, loose, tiny_folder)
    assert done.returncode == 0 and "and 2 more: 3 files of one series are single pictures" in done.stderr
    one = loose / "000.dcm"
    done = ask(command, one, tiny_folder, "--window-preset", "report")
    assert done.returncode == 1 and "for single pictures use --policy ct-report" in done.stderr
    assert ask(command, one, tiny_folder, "--policy", "ct-report").returncode == 0  # the advice works
