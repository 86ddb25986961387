import csv
import io
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pyarrow.parquet as pq
import pydicom.data
import pytest
from PIL import Image

from medsiglip import MedSigLIP, ZeroShotClassifier
from medsiglip.cli import app
from medsiglip.imaging import read_pictures
from medsiglip.prompts import task_names
from tests.medsiglip.imaging.made_series import ct_file

COMMANDS = [command.name or command.callback.__name__ for command in app.registered_commands]


def run_in_a_process(repository, *words):
    script = "from medsiglip.cli import main; main()"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(repository), "PYTHONWARNINGS": "default"}
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, words)], env=environment, capture_output=True, text=True
    )


@pytest.fixture
def study(films):
    """A folder of films with three bad files in it."""
    folder = films[0].parent
    (folder / "notes.dcm").write_text("The patient was well.\n")
    (folder / "cut.png").write_bytes(films[1].read_bytes()[:200])
    plan = Path(pydicom.data.get_testdata_file("rtplan.dcm", download=False))
    (folder / "plan.dcm").write_bytes(plan.read_bytes())
    return folder


BAD = {
    "cut.png": "truncated, damaged or an unusual variant; copy the file again or save it as plain PNG",
    "notes.dcm": "not a picture in a format read here; give DICOM, NIfTI, MetaImage, PNG, JPEG, TIFF, BMP, WebP or GIF",
    "plan.dcm": "no pixel data (a structured report?); give an image instance",
}


def rows_of(text):
    return list(csv.DictReader(io.StringIO(text)))


# classify


def test_classify_writes_its_columns_to_stdout(medsiglip, films, encoder, arrays):
    status, out, err = medsiglip("classify", *films, "--labels", "nodule; mild edema ;fracture")
    assert (status, err) == (0, [])
    assert out.splitlines()[0] == "file,frame,label,probability,score,policy,convention,calibration,decision,gate"
    assert {row["policy"] for row in rows_of(out)} == {"stored+huggingface"}
    rows = rows_of(out)
    assert [row["label"] for row in rows[:3]] == ["nodule", "mild edema", "fracture"]
    assert [row["file"] for row in rows[::3]] == [str(film) for film in films]
    cosines = encoder.encode_images(arrays) @ encoder.encode_texts(["nodule", "mild edema", "fracture"]).T
    np.testing.assert_allclose([float(row["score"]) for row in rows], cosines.ravel(), atol=2e-6)
    for first in range(0, len(rows), 3):
        assert math.fsum(float(row["probability"]) for row in rows[first : first + 3]) == pytest.approx(1, abs=2e-6)


def test_labels_given_again_are_added(medsiglip, films):
    at_once = medsiglip("classify", *films, "--labels", "nodule;edema;fracture")
    assert medsiglip("classify", *films, "--labels", "nodule;edema", "--labels", "fracture") == at_once
    assert medsiglip("classify", *films, "--labels", "nodule", "--labels", "edema;", "--labels", "fracture") == at_once


def test_classify_independent_labels(medsiglip, films):
    _, out, _ = medsiglip("classify", films[0], "--labels", "nodule;fracture", "--independent")
    for row in rows_of(out):
        expected = 1 / (1 + math.exp(-(math.exp(1.7) * float(row["score"]) - 2.5)))
        assert float(row["probability"]) == pytest.approx(expected, abs=1e-5)


def test_classify_to_a_file_in_a_new_folder(medsiglip, films, tmp_path):
    out = tmp_path / "new" / "labels.csv"
    status, printed, _ = medsiglip("classify", films[0].parent, "--task", "chest-xray-findings", "--out", out)
    assert (status, printed) == (0, "")
    assert len(rows_of(out.read_text())) == len(films) * 13
    assert [path.name for path in out.parent.iterdir()] == ["labels.csv"]


def test_classify_batch_size_changes_nothing(medsiglip, films):
    _, one, _ = medsiglip("classify", *films, "--labels", "nodule;fracture", "--batch-size", "1")
    _, all_at_once, _ = medsiglip("classify", *films, "--labels", "nodule;fracture", "--batch-size", "50")
    for a, b in zip(rows_of(one), rows_of(all_at_once), strict=True):
        assert (a["file"], a["label"]) == (b["file"], b["label"])
        assert float(a["probability"]) == pytest.approx(float(b["probability"]), abs=3e-6)


def test_classify_as_json_has_an_object_a_frame(medsiglip, films):
    words = ("classify", *films[:2], "--labels", "nodule;fracture", "--independent")
    objects = [json.loads(line) for line in medsiglip(*words, "--json")[1].splitlines()]
    rows = rows_of(medsiglip(*words)[1])
    assert [found["convention"] for found in objects] == ["sigmoid"] * 2
    assert [found["file"] for found in objects] == [str(film) for film in films[:2]]
    listed = [label for found in objects for label in found["labels"]]
    assert [(row["label"], float(row["probability"])) for row in rows] == [
        (label["label"], label["probability"]) for label in listed
    ]


OWN_PROMPTS = """
convention: present against absent
labels:
  edema: {present: [mild edema, edema in the lung], absent: no effusion}
"""


def test_classify_by_a_prompt_file_of_ones_own(medsiglip, films, tmp_path, encoder, arrays):
    own = tmp_path / "own.yaml"
    own.write_text(OWN_PROMPTS)
    status, out, err = medsiglip("classify", *films, "--prompts", own)
    assert (status, err) == (0, [])
    present, absent = {"edema": ["mild edema", "edema in the lung"]}, {"edema": ["no effusion"]}
    expected = ZeroShotClassifier(encoder, present, absent=absent).classify(arrays).probabilities[:, 0]
    assert [row["convention"] for row in rows_of(out)] == ["present against absent"] * len(films)
    assert [float(row["probability"]) for row in rows_of(out)] == pytest.approx(expected.tolist(), abs=2e-6)


def test_own_prompts_replace_those_of_a_task_and_unknown_labels_are_refused(medsiglip, films, tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text(OWN_PROMPTS)
    words = ("classify", films[0], "--task", "chest-xray-findings")
    plain, mine = (rows_of(medsiglip(*words, *more)[1]) for more in ([], ["--prompts", own]))
    moved = [a["label"] for a, b in zip(plain, mine, strict=True) if a["probability"] != b["probability"]]
    assert moved == ["edema"] and len(mine) == 13
    own.write_text(OWN_PROMPTS.replace("edema:", "oedema:"))
    status, out, err = medsiglip(*words, "--prompts", own)
    assert (status, out) == (1, "")
    assert err[0].startswith("error: own: 'oedema' is no label of chest-xray-findings; use atelectasis; cardiomegaly; ")


def test_a_text_too_long_is_named(medsiglip, films):
    status, out, err = medsiglip("classify", films[0], "--labels", "nodule;" + "effusion " * 80)
    assert (status, out) == (1, "")
    assert re.match(r"error: text 2 of 2 \('effusion .*\.\.\.'\) is \d+ tokens long, and the encoder reads 64", err[0])


# embed


def test_embed_writes_and_resumes(medsiglip, films, tmp_path):
    out = tmp_path / "films.parquet"
    assert medsiglip("embed", *films[:4], "--out", out) == (0, "", [])
    assert medsiglip("embed", *films, "--out", out) == (0, "", [])
    assert pq.read_table(out)["file"].to_pylist() == [str(film) for film in films]


def test_embed_of_another_model_is_one_line(medsiglip, films, tmp_path, edited):
    out = tmp_path / "films.parquet"
    medsiglip("embed", *films, "--out", out)
    other = edited(lambda tensors: tensors.update(logit_bias=np.zeros(1, np.float32)))
    status, _, err = medsiglip("embed", *films, "--out", out, model=other)
    assert status == 1
    assert len(err) == 1
    assert err[0].startswith(f"error: {out}: holds embeddings of ")
    assert err[0].endswith("; give another --out")


# The policies of classify and embed


CT = Path(pydicom.data.get_testdata_file("CT_small.dcm", download=False))


@pytest.mark.parametrize("policy", ["voi", "full-range", "percentile", "ct-report"])
@pytest.mark.parametrize("resize", ["huggingface", "report"])
def test_pixels_and_squares_are_those_of_the_policies(medsiglip, tiny_folder, encoder, tmp_path, policy, resize):
    own = MedSigLIP.from_pretrained(tiny_folder, device="cpu", policy=resize)
    pictures = read_pictures(CT, policy)
    expected = own.encode_images(pictures)
    options = ["--policy", policy, "--resize", resize]
    _, out, _ = medsiglip("classify", CT, "--labels", "nodule;fracture", *options)
    cosines = expected @ encoder.encode_texts(["nodule", "fracture"]).T
    np.testing.assert_allclose([float(row["score"]) for row in rows_of(out)], cosines[0], atol=2e-6)
    assert {row["policy"] for row in rows_of(out)} == {f"{pictures[0].policy}+{resize}"}
    medsiglip("embed", CT, "--out", tmp_path / "ct.parquet", *options)
    table = pq.read_table(tmp_path / "ct.parquet")
    np.testing.assert_allclose(np.stack(table["embedding"].to_numpy()), expected, atol=1e-6)
    assert table["policy"].to_pylist() == [f"{pictures[0].policy}+{resize}"]
    assert table.schema.metadata[b"pixel_policy"] == policy.encode()


@pytest.mark.parametrize("command", ["classify", "embed"])
@pytest.mark.parametrize(("option", "known"), [("--policy", "full-range"), ("--resize", "report")])
def test_an_unknown_policy_is_one_line_and_writes_nothing(medsiglip, tmp_path, command, option, known):
    more = ["--labels", "a;b"] if command == "classify" else []
    status, out, err = medsiglip(command, CT, *more, "--out", tmp_path / "out", option, "prettier")
    assert (status, out, len(err)) == (1, "", 1)
    assert err[0].startswith("error: ") and "'prettier'" in err[0] and known in err[0]
    assert list(tmp_path.glob("out*")) == []


def test_embed_with_another_pixel_policy_is_refused(medsiglip, tmp_path):
    out = tmp_path / "ct.parquet"
    medsiglip("embed", CT, "--out", out, "--policy", "percentile")
    assert medsiglip("embed", CT, "--out", out, "--policy", "percentile") == (0, "", [])
    status, _, err = medsiglip("embed", CT, "--out", out)
    assert status == 1 and "(percentile+huggingface), not of" in err[0] and "(voi+huggingface)" in err[0]


# Bad input: one line each with file, reason and what to do; the others are processed; exit status 1


@pytest.mark.parametrize("command", ["classify", "embed"])
def test_bad_files_are_reported_and_the_others_are_processed(medsiglip, study, tmp_path, films, command):
    (tmp_path / "empty").mkdir()
    out = tmp_path / "out"
    labels = ["--labels", "nodule;fracture"] if command == "classify" else []
    status, _, err = medsiglip(command, study, tmp_path / "empty", tmp_path / "none.png", *labels, "--out", out)
    assert status == 1
    assert sorted(err) == sorted(
        [
            *(f"error: {study / name}: {reason}" for name, reason in BAD.items()),
            f"error: {tmp_path / 'empty'}: the folder holds no pictures; "
            "give a folder with DICOM, PNG, JPEG or TIFF files",
            f"error: {tmp_path / 'none.png'}: no such file or folder; check the path",
            "5 input(s) could not be handled; any others were",
        ]
    )
    if command == "classify":
        files = {row["file"] for row in rows_of(out.read_text())}
    else:
        files = set(pq.read_table(out)["file"].to_pylist())
    assert files == {str(film) for film in films}


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("nobody/nothing", "model nobody/nothing: not on this machine and the Hub cannot be reached"),
        ("my model", "model my model: no such folder and not a Hub id; give 'nano', a folder, or 'owner/name'"),
    ],
)
def test_an_unknown_model_is_one_line(medsiglip, films, model, message, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    status, out, err = medsiglip("classify", films[0], "--labels", "a;b", model=model)
    assert (status, out, len(err)) == (1, "", 1)
    assert err[0].startswith(f"error: {message}")


def test_a_broken_checkpoint_is_one_line_in_a_process_of_its_own(repository, edited, films):
    folder = edited(lambda tensors: tensors.update(logit_bias=np.zeros(2, np.float32)))
    run = run_in_a_process(repository, "classify", films[0], "--labels", "a;b", "--model", folder, "--device", "cpu")
    assert (run.returncode, run.stdout) == (1, "")
    message = (
        "1 mismatched keys: logit_bias (got (2,), expected (1,)); "
        "the weights do not belong to this config.json, or are incomplete; fetch both again"
    )
    assert run.stderr == f"error: model {folder}: {message}\n"


def test_a_bad_file_is_one_line_in_a_process_of_its_own(repository, study, tiny_folder):
    files = [study / "film0.png", study / "cut.png"]
    run = run_in_a_process(repository, "classify", *files, "--labels", "a;b", "--model", tiny_folder, "--quiet")
    assert run.returncode == 1
    assert [row["file"] for row in rows_of(run.stdout)] == [str(files[0])] * 2
    summary = "1 input(s) could not be handled; any others were"
    assert run.stderr.splitlines() == [f"error: {files[1]}: {BAD['cut.png']}", summary]


def test_one_label_may_be_asked_for_alone(medsiglip, films):
    status, out, _ = medsiglip("classify", films[0], "--labels", "nodule", "--independent")
    assert status == 0 and len(out.splitlines()) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], 'give either --labels "a;b", or --task NAME, or --prompts FILE'),
        (["--labels", "a;b", "--task", "modality"], 'give either --labels "a;b", or --task NAME, or --prompts FILE'),
        (["--prompts", "no.yaml"], "no.yaml: cannot be read (No such file or directory); give a YAML file of prompts"),
        (["--task", "modality", "--independent"], "--independent goes with --labels"),
        (["--labels", " ; "], "no labels given, or a label has no prompt; give at least one non-empty label"),
        (["--labels", "a;b;a"], "a label is given twice"),
        (["--labels", "CT,X-ray;"], "--labels 'CT,X-ray;': one label, so its probability is 1"),
        (["--task", "chest"], "task 'chest' is unknown; choose one of body-part, "),
        (["--labels", "a;b", "--dtype", "float16"], "dtype 'float16': choose float32 or bfloat16"),
        (["--labels", "a;b", "--out", "."], ".: a folder; give the name of a file to write"),
    ],
)
def test_wrong_options_are_one_line(medsiglip, films, words, message):
    status, out, err = medsiglip("classify", films[0], *words)
    assert (status, out, len(err)) == (1, "", 1)
    assert err[0].startswith(f"error: {message}")


def test_an_out_that_cannot_be_written_is_one_line(medsiglip, films):
    status, _, err = medsiglip("classify", films[0], "--labels", "a;b", "--out", films[1] / "labels.csv")
    assert (status, len(err)) == (1, 1)
    assert str(films[1]) in err[0]


# Help and tasks


def test_tasks_lists_every_task_with_its_labels(medsiglip):
    status, out, err = medsiglip("tasks", model=None)
    assert (status, err) == (0, [])
    assert [line.split(" (")[0] for line in out.splitlines()] == task_names()
    assert "modality (softmax): X-ray; CT; MRI; histology" in out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(medsiglip, command):
    status, out, _ = medsiglip(command, "--help", model=None)
    assert status == 0
    assert f"medsiglip {command}" in out


def test_help_of_every_command_imports_nothing_heavy(repository):
    script = f"""
import sys
from medsiglip.cli import main

for words in [["--help"], *([command, "--help"] for command in {COMMANDS})]:
    sys.argv = ["medsiglip", *words]
    try:
        main()
    except SystemExit as exited:
        assert not exited.code, words
heavy = {{"torch", "transformers", "monai", "sklearn", "scipy", "pyarrow", "pydicom"}} & sys.modules.keys()
sys.exit(f"imported: {{heavy}}" if heavy else 0)
"""
    run = subprocess.run([sys.executable, "-c", script], cwd=repository, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("Usage:") == 1 + len(COMMANDS)


def test_the_lightest_import_gives_the_public_names(repository):
    script = "import sys, medsiglip; assert 'numpy' not in sys.modules; medsiglip.open_images; medsiglip.MedSigLIP"
    script += "; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], cwd=repository, check=True)


# Volumes, and what is found about pictures


def write_bold(path):
    values = np.arange(8 * 8 * 3 * 2, dtype=np.int16).reshape(8, 8, 3, 2)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([-1.0, -1.0, 1.0, 1.0])), path)
    return path


def test_a_time_point_is_chosen_and_its_rows_are_its_own(medsiglip, tmp_path):
    bold, out = write_bold(tmp_path / "bold.nii.gz"), tmp_path / "e.parquet"
    status, _, err = medsiglip("embed", bold, "--out", out)
    assert status == 1 and "choose it by time=1 to time=2" in err[0]
    assert medsiglip("embed", bold, "--out", out, "--select", "time=2")[0] == 0
    assert pq.read_table(out).num_rows == 3
    status, _, err = medsiglip("embed", bold, "--out", out, "--select", "time=1")
    assert status == 1 and "give another --out" in err[-1]  # else the rows of time 2 would pass for those of time 1
    status, text, _ = medsiglip("classify", bold, "--labels", "a;b", "--select", "time=1")
    assert status == 0 and len(text.splitlines()) == 1 + 3 * 2
    assert medsiglip("look", bold, "--out", tmp_path / "look.png", "--select", "time=2", model=None)[0] == 0


def test_what_only_series_have_is_not_chosen_file_by_file(medsiglip, tmp_path):
    status, _, err = medsiglip("embed", tmp_path, "--out", tmp_path / "e.parquet", "--select", "echo=2")
    assert status == 1 and "every file is taken by itself here, and only time and channel choose" in err[-1]


def test_findings_reach_the_terminal_and_the_embeddings(medsiglip, tmp_path):
    for number in range(2):
        (tmp_path / f"{number}.dcm").write_bytes(ct_file(np.zeros((8, 8), np.int16), (0, 0, number), RescaleSlope=0))
    out = tmp_path / "e.parquet"
    status, _, err = medsiglip("embed", tmp_path, "--out", out)
    slope = "Rescale Slope (0028,1053) is 0, which has no meaning; 1 is taken"
    assert (status, err) == (0, [f"note: {tmp_path / '0.dcm'} and 1 more: {slope}"])
    assert pq.read_table(out)["findings"].to_pylist() == [[slope], [slope]]
    _, _, err = medsiglip("classify", tmp_path / "0.dcm", "--labels", "a;b")
    assert err == [f"note: {tmp_path / '0.dcm'}: {slope}"]


def test_embeddings_from_before_findings_go_on(medsiglip, tmp_path):
    first, second, out = (tmp_path / name for name in ("a.png", "b.png", "e.parquet"))
    for path in (first, second):
        Image.fromarray(np.full((8, 8), len(path.name) * 9, np.uint8)).save(path)
    assert medsiglip("embed", first, "--out", out)[0] == 0
    pq.write_table(pq.read_table(out).drop_columns(["findings"]), out)
    assert medsiglip("embed", first, second, "--out", out)[0] == 0
    assert pq.read_table(out)["findings"].to_pylist() == [None, []]
