"""`gate-fit`, `gate` and `classify --gate` on made pictures of two kinds, and on a third that nobody knows."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from tests.medsiglip.test_cli import rows_of

MADE_FOR = "convention: softmax\nmade_for: [X-ray]\nlabels: {nodule: nodule, fracture: fracture}\n"


def picture(random, kind):
    """Dark noise, light noise, or stripes."""
    pixels = random.integers(0, 90, (40, 40, 3)) + (0, 150, 0)[kind]
    if kind == 2:
        pixels[::2] = 255
    return Image.fromarray(pixels.astype(np.uint8))


@pytest.fixture
def site(tmp_path):
    folder, random = tmp_path / "site", np.random.default_rng(0)
    (folder / "new").mkdir(parents=True)
    with (folder / "kinds.csv").open("w", newline="") as file:
        write = csv.writer(file).writerow
        write(["file", "kind", "modality", "part", "patient"])
        for i in range(120):
            picture(random, i % 2).save(folder / f"{i}.png")
            write([f"{i}.png", *(["film", "X-ray", "chest"], ["slice", "CT", "head"])[i % 2], i // 2])
    for i in range(3):
        picture(random, i).save(folder / "new" / f"{i}.png")
    (folder / "own.yaml").write_text(MADE_FOR)
    return folder


@pytest.fixture
def gate(medsiglip, site):
    words = ("--modality", "modality", "--body-part", "part", "--group", "patient", "--site", "here")
    assert medsiglip("gate-fit", site / "kinds.csv", *words, "--out", site / "g.safetensors") == (0, "", [])
    return site / "g.safetensors"


def test_pictures_are_named_or_held_back(medsiglip, site, gate):
    status, out, err = medsiglip("gate", site / "new", "--gate", gate)
    first, second, third = rows_of(out)
    assert status == 0
    assert [first["kinds"], second["kinds"], third["kinds"]] == ["film", "slice", ""]
    assert (first["modality"], first["body_part"]) == ("X-ray", "chest")
    assert third["decision"] == "abstained: unlike every kind that the gate knows"
    assert err[0] == "note: 2 of 3 accepted" and "too few pictures to tell a shift from here" in err[2]
    objects = [json.loads(line) for line in medsiglip("gate", site / "new", "--gate", gate, "--json")[1].splitlines()]
    assert [found["kinds"] for found in objects] == [["film"], ["slice"], []]
    only = rows_of(medsiglip("gate", site / "new", "--gate", gate, "--for", "chest")[1])
    assert [row["decision"][:9] for row in only] == ["accepted", "abstained", "abstained"]
    assert only[1]["decision"] == "abstained: like slice, not like chest"


def test_classify_gives_no_probability_to_what_the_gate_holds_back(medsiglip, site, gate):
    words = ("classify", site / "new", "--prompts", site / "own.yaml")
    plain, gated = (rows_of(medsiglip(*words, *more)[1]) for more in ([], ["--gate", gate]))
    assert [row["gate"][:9] for row in gated[::2]] == ["accepted", "abstained", "abstained"]
    assert [row["probability"] for row in gated[:2]] == [row["probability"] for row in plain[:2]]
    assert {row["probability"] for row in gated[2:]} == {""}
    assert [row["score"] for row in gated] == [row["score"] for row in plain]
    lines = medsiglip(*words, "--gate", gate, "--json")[1].splitlines()
    assert json.loads(lines[2])["labels"][0]["probability"] is None


def test_a_shifted_site_is_said(medsiglip, site, gate):
    random = np.random.default_rng(1)
    (site / "there").mkdir()
    for i in range(20):
        pixels = np.asarray(picture(random, i % 2)).astype(int)
        Image.fromarray(np.clip(pixels * 0.7 + 40, 0, 255).astype(np.uint8)).save(site / "there" / f"{i}.png")
    err = medsiglip("gate", site / "there", "--gate", gate)[2]
    assert [line for line in err if line.startswith("note: a shift from here: ")]


def test_what_cannot_be_judged_is_refused_before_any_picture_is_read(medsiglip, site, gate):
    (site / "own.yaml").write_text(MADE_FOR.replace("X-ray", "fundus photograph"))
    status, out, err = medsiglip("classify", site / "new", "--prompts", site / "own.yaml", "--gate", gate)
    assert (status, out) == (1, "") and "the gate knows no 'fundus photograph'" in err[0]
    status, out, err = medsiglip("gate", site / "new")
    assert (status, out) == (1, "") and "no gate ships with this encoder" in err[0]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda text: text.replace("1.png,slice,CT", "1.png,slice,MR"),
            ": kind 'slice' has another modality or body part than elsewhere",
        ),
        (lambda text: text.replace(",chest,0\n", ",chest,\n", 1), "patient is empty; fill it, or delete the row"),
    ],
)
def test_faults_of_the_table_leave_nothing_behind(medsiglip, site, tmp_path, edit, message):
    (site / "kinds.csv").write_text(edit((site / "kinds.csv").read_text().replace("\r", "")))
    words = ("--modality", "modality", "--body-part", "part", "--group", "patient", "--out", tmp_path / "g")
    status, _, err = medsiglip("gate-fit", site / "kinds.csv", *words)
    assert status == 1 and message in err[0] and not list(tmp_path.glob("g*"))


def test_the_table_is_never_written_over(medsiglip, site):
    before = (site / "kinds.csv").read_bytes()
    words = ("gate-fit", site / "kinds.csv", "--group", "patient", "--out", site / "kinds.csv")
    status, _, err = medsiglip(*words)
    assert status == 1 and "kinds.csv: the table's own file; give another --out" in err[0]
    assert (site / "kinds.csv").read_bytes() == before
