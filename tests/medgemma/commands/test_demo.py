"""The demo on the shipped pair: one self-contained page, honest figures, nothing personal."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from medgemma.commands.demo import NOTICE, PICTURES, QUESTIONS, TELLING, figures_of, run_demo, telling
from medgemma.nano import NANO_FOLDER as DECODER_FOLDER
from medsiglip.nano import NANO_FOLDER as ENCODER_FOLDER
from medsiglip.prompts import label_set
from tests.nano import needs_nano


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    run_demo(folder, "nano", "nano", "cpu", "float32", quiet=True)
    return folder


@needs_nano
def test_page_is_one_file_with_everything_asked(out: Path) -> None:
    page = (out / "report.html").read_text(encoding="utf-8")
    HTMLParser().feed(page)
    assert not re.search(r'(src|href)="(?!data:)', page), "the page loads something from elsewhere"
    assert NOTICE in page
    for picture in PICTURES:
        assert picture.title in page and picture.truth in page
        for task in picture.asked:
            assert all(question in page for question in QUESTIONS[task])


@needs_nano
def test_results_hold_answers_probabilities_and_the_cards_figures(out: Path) -> None:
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert results["figures"] == [*figures_of(ENCODER_FOLDER), *figures_of(DECODER_FOLDER)]
    assert [picture["title"] for picture in results["pictures"]] == [picture.title for picture in PICTURES]
    for demo, picture in zip(PICTURES, results["pictures"], strict=True):
        assert len(picture["answers"]) == sum(len(QUESTIONS[task]) for task in demo.asked)
        for labelled in picture["zero_shot"]:
            assert labelled["labels"] == list(label_set(labelled["task"]).labels)
            assert sum(labelled["probabilities"]) == pytest.approx(1, abs=1e-4)


@needs_nano
def test_nano_is_not_sure_of_a_picture_from_elsewhere(out: Path) -> None:
    """It takes an MR cut-out for a CT; before calibration with a probability of 1.00."""
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    (cut_out,) = (picture for picture in results["pictures"] if picture["title"] == "MR_small.dcm")
    (labelled,) = cut_out["zero_shot"]
    assert labelled["calibration"] == "temperature, the kit's held-out side"
    assert dict(zip(labelled["labels"], labelled["probabilities"], strict=True))["CT"] < 0.9


@needs_nano
@pytest.mark.parametrize("folder", [ENCODER_FOLDER, DECODER_FOLDER], ids=["encoder", "decoder"])
def test_the_page_says_what_the_cards_say_side_by_side(out: Path, folder: Path) -> None:
    page = (out / "report.html").read_text(encoding="utf-8").replace("&#39;", "'")
    rows = [re.findall(r"<td[^>]*>([^<]*)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL)]
    card = [line[2:-2].split(" | ") for line in (folder / "README.md").read_text().splitlines() if line[:2] == "| "]
    measured = [[*row[:5], f"{row[5]} ({row[6]})"] for row in card[2:]]
    assert len(measured) >= 50 and [row for row in rows if row in measured] == measured


@needs_nano
def test_a_dozen_figures_come_first_and_the_rest_is_folded(out: Path) -> None:
    page = (out / "report.html").read_text(encoding="utf-8")
    first, folded = page.split("<details>")
    figures = json.loads((out / "results.json").read_text(encoding="utf-8"))["figures"]
    assert [row["says"] for row in telling(figures)] == list(TELLING.values()) and len(TELLING) == 12
    rows = re.findall(r"<tr>(.*?)</tr>", first[first.index('class="telling"') :], re.DOTALL)[1:]
    shown = [re.findall(r"<td[^>]*>([^<]*)</td>", row) for row in rows]
    assert [row[1] for row in shown] == [f"{row['value']:.3f}" for row in telling(figures)]
    assert folded.count("<tr><td>") >= len(figures) and f"All {len(figures)} figures" in folded


@needs_nano
def test_no_patient_tag_of_the_demo_files_is_in_the_output(out: Path) -> None:
    import pydicom
    from pydicom.data import get_testdata_file

    written = (out / "report.html").read_text(encoding="utf-8") + (out / "results.json").read_text(encoding="utf-8")
    for demo in (picture for picture in PICTURES if picture.package == "pydicom"):
        dataset = pydicom.dcmread(str(get_testdata_file(demo.title)), stop_before_pixels=True)
        for keyword in ("PatientName", "PatientID", "PatientBirthDate", "AccessionNumber", "InstitutionName"):
            value = str(dataset.get(keyword, "") or "").strip()
            assert len(value) < 4 or value not in written, f"{demo.title}: {keyword} reached the report"
