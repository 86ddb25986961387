"""The README's commands run, its Python runs, and its file tree is true."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

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
    (folder / "requests.jsonl").write_text(json.dumps(request) + "\n")
    return folder


def run(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    script = Path(sys.executable).parent / words[0]
    command = [str(script), *words[1:]]
    return subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)


@needs_nano
@pytest.mark.slow
def test_example_commands_run(repository: Path, study_folder: Path) -> None:
    examples = commands(blocks(repository, "bash")[1])
    assert len(examples) >= 8
    for words in examples:
        done = run(words, study_folder)
        assert done.returncode == 0, f"{shlex.join(words)}\n{done.stderr}"
        assert "Traceback" not in done.stderr
    assert {"labels.csv", "modality.csv", "study.parquet"} <= {path.name for path in study_folder.iterdir()}


@needs_nano
@pytest.mark.slow
def test_example_python_runs(repository: Path, study_folder: Path) -> None:
    (code,) = blocks(repository, "python")
    done = subprocess.run([sys.executable, "-c", code], cwd=study_folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "head CT" in done.stdout


@needs_nano
@pytest.mark.kit
@pytest.mark.slow
def test_evaluation_commands_run_on_a_few_items(repository: Path, kit: Path, tmp_path: Path) -> None:
    in_place = {"DATA": str(kit), "runs/a": "runs/vqa-rad", "runs/b": "runs/vqa-rad"}
    said = []
    for words in commands(blocks(repository, "bash")[2]):
        if words[0] == "medgemma-finetune":  # minutes; tests/finetune runs it on a miniature
            continue
        limit = ["--limit", "24"] if words[:2] == ["medgemma-eval", "run"] else []
        done = run([in_place.get(word, word) for word in words] + limit, tmp_path)
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
    assert len(said) == 7
    assert "closed_accuracy_real_minus_shuffled" in said[1]


@pytest.mark.slow
def test_the_page_on_pixels_runs(repository: Path, study_folder: Path) -> None:
    (block,), (code,) = (blocks(repository, language, "docs/pixels.md") for language in ("bash", "python"))
    for words in commands(block):
        done = run(words, study_folder)
        assert done.returncode == 0, f"{shlex.join(words)}\n{done.stderr}"
    assert {"look.png", "report.png", "sheet.png"} <= {path.name for path in study_folder.iterdir()}
    done = subprocess.run([sys.executable, "-c", code], cwd=study_folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "Volume CT" in done.stdout and "(3, 128, 128)" in done.stdout


@needs_nano
@pytest.mark.slow
def test_the_page_on_asking_runs(repository: Path, study_folder: Path) -> None:
    code = "\n".join(blocks(repository, "python", "docs/asking.md"))
    done = subprocess.run([sys.executable, "-c", code], cwd=study_folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert "('ct-report',)" in first and re.fullmatch(r"[A-E] (axial|coronal) 3 (True|False)", second)


@needs_nano
@pytest.mark.slow
def test_the_page_on_the_engine_runs(repository: Path, study_folder: Path) -> None:
    (code,) = blocks(repository, "python", "docs/engine.md")
    done = subprocess.run([sys.executable, "-c", code], cwd=study_folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "Completion(" in done.stdout and done.stdout.count(" stop\n") == 3


@needs_nano
@pytest.mark.kit
@pytest.mark.slow
def test_the_page_on_episodes_runs(repository: Path, kit: Path, tmp_path: Path) -> None:
    (block,), (code,) = (blocks(repository, language, "docs/episodes.md") for language in ("bash", "python"))
    for words in commands(block):
        done = run([str(kit) if word == "DATA" else word for word in words], tmp_path)
        assert done.returncode == 0, f"{shlex.join(words)}\n{done.stderr}"
    assert done.stdout == "AGAIN: 3 episodes from TFDS\n"
    assert {"episode.html", "HUB", "TFDS", "AGAIN"} <= {path.name for path in tmp_path.iterdir()}
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("5 ")


def test_every_recipe_and_target_named_is_there(repository: Path) -> None:
    makefile = (repository / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"`?make ([a-z-]+)`?", (repository / "README.md").read_text(encoding="utf-8")):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), f"make {target} is not in the Makefile"


def test_the_file_tree_is_true(repository: Path) -> None:
    tree = next(block for block in blocks(repository, "") if block.startswith("finetune/"))
    parent = repository
    for line in tree.splitlines():
        name = line.split()[0]
        folder = repository / name if not line.startswith(" ") else parent / name
        parent = parent if line.startswith(" ") else folder
        assert folder.is_dir(), f"the README's tree names {folder.relative_to(repository)}, which is not there"
    on_top = {line.split()[0].strip("/") for line in tree.splitlines() if not line.startswith(" ")}
    packages = {path.parent.name for path in repository.glob("*/__init__.py")}
    assert packages <= on_top | {"benchmarks", "tests"}
