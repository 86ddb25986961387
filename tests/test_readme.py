"""The README's commands run, its Python runs, and the file tree of docs/house.md is true."""

import io
import json
import re
import shlex
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from tests.nano import needs_nano


def blocks(repository: Path, language: str, page: str = "README.md") -> list[str]:
    text = (repository / page).read_text(encoding="utf-8")
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    return [body for of, body in fenced if of == language]


def commands(block: str) -> list[list[str]]:
    return [shlex.split(line, comments=True) for line in block.splitlines() if shlex.split(line, comments=True)]


@pytest.fixture(scope="module")
def study_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from pydicom import dcmread
    from pydicom.data import get_testdata_file

    folder = tmp_path_factory.mktemp("readme")
    (folder / "study").mkdir()
    (folder / "study" / "ct.dcm").write_bytes(Path(str(get_testdata_file("CT_small.dcm"))).read_bytes())
    (folder / "ct").mkdir()
    for number in range(3):
        dataset = dcmread(folder / "study" / "ct.dcm")
        dataset.ImagePositionPatient[2] += 5 * number
        dataset.SOPInstanceUID += f".{number}"
        dataset.save_as(folder / "ct" / f"{2 - number}.dcm")
    messages = [{"role": "user", "content": "Which organ?"}]
    body = {"messages": messages, "max_tokens": 8}
    request = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
    (folder / "T.csv").write_text("file\nstudy/ct.dcm\n")
    (folder / "requests.jsonl").write_text(json.dumps(request) + "\n")
    return folder


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


Run = Callable[[list[str], Path], Done]
Page = Callable[[str, Path], str]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command in a folder, by its entry point and in this process: another one would mostly import torch.

    tests/test_wheel.py runs the installed scripts.
    """

    def ran(words: list[str], folder: Path) -> Done:
        [script] = entry_points(group="console_scripts", name=words[0])
        monkeypatch.setattr(sys, "argv", words)
        monkeypatch.setattr(sys, "stdin", io.StringIO())
        monkeypatch.chdir(folder)
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            script.load()()
        return Done(int(ended.value.code or 0), *capsys.readouterr())

    return ran


@pytest.fixture
def run_python(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Page:
    """Runs a program in a folder, as its main module but in this process; returns what it printed."""

    def ran(code: str, folder: Path) -> str:
        monkeypatch.chdir(folder)
        capsys.readouterr()
        exec(compile(code, "page", "exec"), {"__name__": "__main__"})
        return capsys.readouterr().out

    return ran


@pytest.fixture
def run_page(repository: Path, run: Run, run_python: Page) -> Page:
    """Runs the commands of a page, then all of its Python as one program; returns what that printed."""

    def ran(page: str, folder: Path) -> str:
        for words in [words for block in blocks(repository, "bash", page) for words in commands(block)]:
            done = run(words, folder)
            assert done.returncode == 0, f"{page}: {shlex.join(words)}\n{done.stderr}"
            assert "Traceback" not in done.stderr
        return run_python("\n".join(blocks(repository, "python", page)), folder)

    return ran


PAGES_RUN = ("asking", "entailment", "labels", "zero-shot", "pixels", "evaluations", "episodes", "tables")
"""Pages of docs/ whose commands have a test here."""


@pytest.mark.slow
def test_the_page_on_entailment_runs(repository: Path, tmp_path: Path, run_page: Page) -> None:
    page = (repository / "docs" / "entailment.md").read_text(encoding="utf-8")
    for name in ("findings.txt", "draft.txt"):
        found = re.search(rf'`{name}`(?: says)? "([^"]*)"', page)
        assert found
        (tmp_path / name).write_text(" ".join(found[1].split()))
    said = run_page("docs/entailment.md", tmp_path).splitlines()
    assert said == ["['contradiction']", "[-3.912023005428146]"]


@needs_nano
@pytest.mark.slow
def test_the_jobs_of_the_readme_run(repository: Path, study_folder: Path, run: Run) -> None:
    text = (repository / "README.md").read_text(encoding="utf-8").partition("## The house")[0]
    jobs = [shlex.split(words) for words in re.findall(r"^\| [^|]* \| `([^|]*)` \|", text, flags=re.MULTILINE)]
    run_elsewhere = [
        words
        for page in PAGES_RUN
        for block in blocks(repository, "bash", f"docs/{page}.md")
        for words in commands(block)
    ]
    assert len(jobs) >= 21
    for words in jobs:
        if words in run_elsewhere or words[0] == "medgemma-finetune":  # minutes; tests/finetune runs it on a miniature
            continue
        if words[:2] == ["medgemma", "serve"]:  # does not end; tests/medgemma/server/test_process.py runs it
            continue
        done = run(words, study_folder)
        assert done.returncode == 0, f"{shlex.join(words)}\n{done.stderr}"
        assert "Traceback" not in done.stderr


@needs_nano
@pytest.mark.slow
def test_example_python_runs(repository: Path, study_folder: Path, run_python: Page) -> None:
    (code,) = blocks(repository, "python")
    assert "head CT" in run_python(code, study_folder)


@needs_nano
@pytest.mark.kit
@pytest.mark.slow
def test_the_page_on_evaluations_runs_on_a_few_items(repository: Path, kit: Path, tmp_path: Path, run: Run) -> None:
    in_place = {"DATA": str(kit), "runs/a": "runs/vqa-rad", "runs/b": "runs/vqa-rad"}
    (block,) = blocks(repository, "bash", "docs/evaluations.md")
    said = []
    for words in commands(block):
        asks = words[:2] in (["medgemma-eval", "run"], ["medgemma-eval", "reliability"])
        limit = ["--limit", "24"] if asks else []
        done = run([in_place.get(word, word) for word in words] + limit, tmp_path)
        assert done.returncode == 0, f"{shlex.join(words)}\n{done.stderr}"
        said.append(done.stdout)
    assert len(said) == 11
    assert "closed_accuracy_real_minus_shuffled" in said[5]


@pytest.mark.slow
def test_the_page_on_pixels_runs(study_folder: Path, run_page: Page) -> None:
    said = run_page("docs/pixels.md", study_folder)
    assert {"look.png", "report.png", "sheet.png"} <= {path.name for path in study_folder.iterdir()}
    assert "Volume CT" in said and "(3, 128, 128)" in said


@needs_nano
@pytest.mark.slow
def test_the_page_on_labels_runs(study_folder: Path, run_page: Page) -> None:
    said = run_page("docs/labels.md", study_folder)
    assert {"labels.csv", "findings.csv", "modality.csv"} <= {path.name for path in study_folder.iterdir()}
    assert said.startswith("(1, 8, 8, 192)\n(1, 2)\n('CT', 'X-ray')") and re.search(r"\[('[ab]'(, )?){4}\]", said)


@needs_nano
@pytest.mark.slow
def test_the_page_on_zero_shot_runs(repository: Path, study_folder: Path, run_page: Page) -> None:
    (own,) = blocks(repository, "yaml", "docs/zero-shot.md")
    (study_folder / "own.yaml").write_text(own)
    run_page("docs/zero-shot.md", study_folder)
    said = (study_folder / "own.csv").read_text().splitlines()
    assert len(said) == 14 and all(line.split(",")[6] == "present against absent" for line in said[1:])


@needs_nano
@pytest.mark.slow
def test_the_page_on_tables_runs(tmp_path: Path, run_page: Page) -> None:
    rows = ["file,label,patient_id"]
    for number in range(12):
        pixels = np.random.default_rng(number).integers(0, 255, (64, 64), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        rows.append(f"{number}.png,{'xy'[number % 2]},p{number}")
    (tmp_path / "T.csv").write_text("\n".join(rows) + "\n")
    said = run_page("docs/tables.md", tmp_path)
    assert "label is one of the classes: x 6, y 6" in said
    scores = json.loads((tmp_path / "runs" / "T" / "scores.json").read_text())
    assert scores["table-classes"]["accuracy"]["n"] == 12


@needs_nano
@pytest.mark.slow
def test_the_page_on_asking_runs(study_folder: Path, run_page: Page) -> None:
    first, second = run_page("docs/asking.md", study_folder).splitlines()
    assert (study_folder / "replies.jsonl").is_file() and (study_folder / "spine.png").is_file()
    assert "('ct-report',)" in first and re.fullmatch(r"[A-E] (axial|coronal) 3 (True|False)", second)


@needs_nano
@pytest.mark.slow
def test_the_page_on_records_runs(tmp_path: Path, run_page: Page) -> None:
    allergy = {"resourceType": "AllergyIntolerance", "id": "a", "code": {"text": "Latex allergy"}}
    resources = [{"resourceType": "Patient", "id": "p", "birthDate": "1960-01-02"}, allergy, {"resourceType": "Claim"}]
    bundle = {"resourceType": "Bundle", "entry": [{"resource": resource} for resource in resources]}
    (tmp_path / "fhir").mkdir()
    (tmp_path / "fhir" / "p.json").write_text(json.dumps(bundle))
    first, second = run_page("docs/records.md", tmp_path).splitlines()
    assert first == "Patient | born 1960-01-02" and second.startswith("AllergyIntolerance | Latex allergy ")
    assert second.endswith("{} {'of billing, administration or naming': 1}")


def test_the_page_on_the_engine_runs(study_folder: Path, run_page: Page) -> None:
    said = run_page("docs/engine.md", study_folder)
    assert "Completion(" in said and said.count(" stop\n") == 3


@needs_nano
@pytest.mark.kit
@pytest.mark.slow
def test_the_page_on_episodes_runs(repository: Path, kit: Path, tmp_path: Path, run: Run, run_python: Page) -> None:
    (block,), (code,) = (blocks(repository, language, "docs/episodes.md") for language in ("bash", "python"))
    for words in commands(block):
        done = run([str(kit) if word == "DATA" else word for word in words], tmp_path)
        assert done.returncode == 0, f"{shlex.join(words)}\n{done.stderr}"
    assert done.stdout == "AGAIN: 3 episodes from TFDS\n"
    assert {"episode.html", "HUB", "TFDS", "AGAIN"} <= {path.name for path in tmp_path.iterdir()}
    assert run_python(code, tmp_path).startswith("5 ")


def test_every_target_link_and_file_named_is_there(repository: Path) -> None:
    makefile = (repository / "Makefile").read_text(encoding="utf-8")
    pages = [repository / "README.md", *repository.glob("CONTRIBUTING.md"), repository / "benchmarks" / "README.md"]
    for page in [*pages, *(repository / "docs").glob("*.md")]:
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"(?:`|^)make ([a-z-]+)", text, flags=re.MULTILINE):
            assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), f"{page.name}: make {target} is not there"
        for link in re.findall(r"\]\((?!http)([^)#]+)", text):
            assert (page.parent / link).exists(), f"{page.name} links to {link}, which is not there"
        for file in re.findall(r"\b(?:medsiglip|medgemma|evals|finetune|data_cards|tests)/[\w/]+\.\w+", text):
            assert "NAME" in file or (repository / file).exists(), f"{page.name} names {file}, which is not there"


def test_the_readme_shows_rows_of_the_kit_table(repository: Path) -> None:
    shown = re.findall(r"^\| .*", (repository / "README.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    written = (repository / "docs" / "kit-table.md").read_text(encoding="utf-8").splitlines()
    header = next(place for place, row in enumerate(shown) if row.startswith("| task | metric | value [95 % interval]"))
    assert shown[header].endswith("| needs the picture | holds under rewording |") and shown[header] in written
    rows = shown[header : header + 7]
    assert len(rows) == 7 and set(rows) <= set(written), "copy these rows of docs/kit-table.md into README.md again"
    makefile = (repository / "Makefile").read_text(encoding="utf-8")
    assert "--markdown --into docs/kit-table.md" in makefile and "begin kit table" in "".join(written)


def test_the_file_tree_is_true(repository: Path) -> None:
    tree = next(block for block in blocks(repository, "", "docs/house.md") if block.startswith("finetune/"))
    parent, folder, named = repository, repository, dict[Path, set[str]]()
    for line in tree.splitlines():
        name = line.split()[0]
        if name.endswith("/"):  # else the line goes on with the folder before
            folder = repository / name if not line.startswith(" ") else parent / name
            parent = parent if line.startswith(" ") else folder
        assert folder.is_dir(), f"docs/house.md names {folder.relative_to(repository)}, which is not there"
        named.setdefault(folder, set()).update(re.findall(r"\w+\.py", line))
    for folder, files in named.items():
        there = {path.name for path in folder.glob("*.py")} - {"__init__.py"}
        assert files <= there, f"docs/house.md names {files - there} in {folder.relative_to(repository)}"
        steps = folder.parent == repository / "medgemma" or (folder / "py.typed").is_file()
        assert not steps or files == there, f"docs/house.md lacks {there - files} in {folder.relative_to(repository)}"
    on_top = {line.split()[0].strip("/") for line in tree.splitlines() if not line.startswith(" ")}
    packages = {path.parent.name for path in repository.glob("*/__init__.py")}
    assert packages <= on_top | {"benchmarks", "tests"}


def test_the_page_on_nano_says_what_the_cards_say(repository: Path) -> None:
    page = (repository / "docs" / "nano.md").read_text(encoding="utf-8").replace("−", "-")
    tables = page[page.index("## The encoder beside raw pixels") : page.index("nano says that it does not know")]
    rows = "\n".join(line for line in tables.splitlines() if line.startswith("|"))
    said = re.findall(r"(-?\d\.\d{3}) \((-?\d\.\d{3}) to (-?\d\.\d{3})\)", rows)
    measured = set()
    for folder in ("medsiglip/nano", "medgemma/nano"):
        for figure in json.loads((repository / folder / "measurements.json").read_text(encoding="utf-8"))["figures"]:
            measured.add(tuple(f"{number:.3f}" for number in (figure["value"], *figure["ci95"])))
    assert len(said) >= 40 and set(said) <= measured, sorted(set(said) - measured)
