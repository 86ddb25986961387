"""`calibrate`, and `classify --calibration`: from a table to probabilities, and what is refused."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from medsiglip.calibration.calibration import read_calibration, write_calibration
from medsiglip.calibration.shipped import FILE
from tests.medsiglip.test_cli import rows_of

PROMPTS = """
convention: {}
labels:
  nodule: nodule in the left apex
  fracture: fracture in the right apex
"""


@pytest.fixture
def site(tmp_path):
    """A folder of 40 pictures of 20 patients, labels of both conventions, and prompt files."""
    folder, random = tmp_path / "site", np.random.default_rng(0)
    folder.mkdir()
    with (folder / "labels.csv").open("w", newline="") as file:
        write = csv.writer(file).writerow
        write(["file", "label", "nodule", "fracture", "patient", "sex"])
        for i in range(40):
            pixels = random.integers(0, 256, (40, 40, 3)).astype(np.uint8) // (1 + i % 2)
            Image.fromarray(pixels).save(folder / f"{i}.png")
            write(
                [f"{i}.png", ["nodule", "fracture"][i % 2], 1 - i % 2, ["", "-1", "0", "1"][i % 4], i // 2, "FM"[i % 2]]
            )
    for name in ("softmax", "sigmoid"):
        (folder / f"{name}.yaml").write_text(PROMPTS.format(name))
    return folder


def test_calibrate_then_classify_exclusive(medsiglip, site, tmp_path):
    words = ("--prompts", site / "softmax.yaml", "--group", "patient", "--site", "here", "--subgroup", "sex")
    out, page = tmp_path / "new" / "c.yaml", tmp_path / "page.html"
    status, printed, err = medsiglip("calibrate", site / "labels.csv", *words, "--out", out, "--page", page, "--json")
    assert (status, err) == (0, [])
    found = read_calibration(out)
    assert (found.n, found.n_groups, found.site, found.pixels) == (40, 20, "here", "voi+huggingface")
    figures = json.loads(printed)
    assert figures == found.figures and figures["after"]["accuracy"]["n_groups"] == 20
    assert set(figures["after"]["subgroups"]["sex"]) == {"F", "M"}
    assert "here" in page.read_text() and page.read_text().count("<svg") == 6
    plain, calibrated = (
        rows_of(medsiglip("classify", site, "--prompts", site / "softmax.yaml", *more)[1])
        for more in ([], ["--calibration", out])
    )
    assert {row["calibration"] for row in plain} == {""} and {row["decision"] for row in plain} == {""}
    assert {row["calibration"] for row in calibrated} == {"temperature at here"}
    assert {row["decision"] for row in calibrated} <= {"in set", "out"}
    assert [row["score"] for row in plain] == [row["score"] for row in calibrated]
    for before, after in zip(plain, calibrated, strict=True):
        odds = [float(row["probability"]) / (1 - float(row["probability"])) for row in (before, after)]
        assert np.log(odds[1]) == pytest.approx(np.log(odds[0]) / found.map.temperature, abs=1e-3)


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_calibrate_then_classify_independent(medsiglip, site, tmp_path, method):
    words = ("--prompts", site / "sigmoid.yaml", "--method", method, "--sensitivity", "0.9")
    status, _, err = medsiglip("calibrate", site / "labels.csv", *words, "--out", tmp_path / "c.yaml")
    assert status == 0
    assert err == [
        "note: no --group: every file counts as a patient of its own; name the patient's column where there is one"
    ]
    found = read_calibration(tmp_path / "c.yaml")
    assert set(found.thresholds) == {"nodule", "fracture"} and None not in found.thresholds.values()
    out = medsiglip("classify", site, "--prompts", site / "sigmoid.yaml", "--calibration", tmp_path / "c.yaml")[1]
    positive = [row["decision"] for i, row in enumerate(rows_of(out)) if row["label"] == "nodule" and i % 4 == 0]
    assert positive.count("present") >= 18  # of 20, by the threshold's own definition


def test_another_site_is_said_and_another_prompt_refused(medsiglip, site, tmp_path):
    words = ("--prompts", site / "softmax.yaml", "--site", "here", "--group", "patient")
    medsiglip("calibrate", site / "labels.csv", *words, "--out", tmp_path / "c.yaml")
    classify = ("classify", site / "0.png", "--calibration", tmp_path / "c.yaml")
    status, _, err = medsiglip(*classify, "--prompts", site / "softmax.yaml", "--site", "there")
    assert status == 0 and "was calibrated at here, these pictures are of there" in err[0]
    (site / "softmax.yaml").write_text(PROMPTS.format("softmax").replace("left apex", "left upper lobe"))
    status, out, err = medsiglip(*classify, "--prompts", site / "softmax.yaml")
    assert (status, out) == (1, "") and "labels or prompts differ; calibrate again" in err[0]
    status, _, err = medsiglip(*classify, "--prompts", site / "softmax.yaml", "--policy", "percentile")
    assert status == 1 and "give it that --policy" in err[0]


def test_a_row_without_a_file_and_an_unreadable_picture_are_named_and_the_rest_is_used(medsiglip, site, tmp_path):
    (site / "3.png").write_bytes(b"no picture")
    with (site / "labels.csv").open("a") as file:
        file.write("gone.png,nodule,1,0,99,F\n")
    words = ("--prompts", site / "softmax.yaml", "--group", "patient", "--out", tmp_path / "c.yaml")
    status, _, err = medsiglip("calibrate", site / "labels.csv", *words)
    assert status == 1
    assert "labels.csv row 42: gone.png: no such file beside the CSV" in err[0] and "3.png: not a picture" in err[1]
    assert read_calibration(tmp_path / "c.yaml").n == 39


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method", "beta"], "method 'beta' is unknown; choose one of temperature, platt, isotonic"),
        (["--group", "case"], "has no column 'case'"),
        (["--subgroup", "age"], "has no column 'age'"),
        (["--target", "patient"], "labels.csv row 2: '0' is no label here; use nodule; fracture"),
        (["--level", "2"], "level 2.0 is not between 0 and 1"),
    ],
)
def test_wrong_options_leave_nothing_behind(medsiglip, site, tmp_path, words, message):
    out = tmp_path / "c.yaml"
    status, _, err = medsiglip(
        "calibrate", site / "labels.csv", "--prompts", site / "softmax.yaml", "--out", out, *words
    )
    assert status == 1 and message in err[0] and not list(tmp_path.glob("c.yaml*"))


def test_what_ships_beside_a_model_is_used_unless_it_is_refused(medsiglip, site, edited, tmp_path):
    model = edited()
    words = ("--prompts", site / "softmax.yaml")
    medsiglip("calibrate", site / "labels.csv", *words, "--out", model / FILE.format("softmax"), model=model)

    def used(*more):
        return rows_of(medsiglip("classify", site / "0.png", *words, *more, model=model)[1])[0]["calibration"]

    assert used() == "temperature" and used("--calibration", "none") == ""
    shipped = read_calibration(model / FILE.format("softmax"))
    write_calibration(replace(shipped, encoder="other weights"), model / FILE.format("softmax"))
    assert used() == ""


def test_the_table_is_never_written_over(medsiglip, site):
    before = (site / "labels.csv").read_bytes()
    words = ("calibrate", site / "labels.csv", "--prompts", site / "softmax.yaml", "--out", site / "labels.csv")
    status, _, err = medsiglip(*words)
    assert status == 1 and "labels.csv: the table's own file; give another --out" in err[0]
    assert (site / "labels.csv").read_bytes() == before
