"""Croissant by its own checker: mlcroissant, of this environment or of the Python that MLCROISSANT_PYTHON names."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from data_cards.croissant import CONFORMS_TO, croissant
from data_cards.readers.tables import read_rows
from data_cards.schema import list_cards, load_card

NUMBER = re.compile(r"-?\d+(\.\d+)?")
"""What pandas reads as a number and writes otherwise than the table."""

LOADER = """
import json, logging, sys
logging.disable(logging.WARNING)
import mlcroissant
text = lambda value: value.decode() if isinstance(value, bytes) else value
found = {}
for path in sys.argv[2:]:
    dataset = mlcroissant.Dataset(jsonld=path)
    issues = dataset.metadata.ctx.issues
    records = {}
    if sys.argv[1] == "records":
        for record_set in dataset.metadata.record_sets:
            rows = [{key.split("/", 1)[1]: value for key, value in row.items()} for row in dataset.records(record_set.uuid)]
            first = {key: [text(v) for v in value] if isinstance(value, list) else text(value) for key, value in rows[0].items()}
            records[record_set.uuid] = {"count": len(rows), "first": first}
    found[path] = {"errors": list(issues.errors), "warnings": list(issues.warnings), "records": records}
print(json.dumps(found, default=str))
"""  # noqa: E501


@pytest.fixture(scope="module")
def mlcroissant_python() -> str:
    """A Python that has mlcroissant; its absence skips a test, or fails it under MEDGEMMA_REQUIRE=1."""
    named = os.environ.get("MLCROISSANT_PYTHON")
    if named:
        return named
    if importlib.util.find_spec("mlcroissant"):
        return sys.executable
    message = "mlcroissant is not installed; `pip install mlcroissant` (or the extra dev), or set MLCROISSANT_PYTHON"
    if os.environ.get("MEDGEMMA_REQUIRE") == "1":
        pytest.fail(message)
    pytest.skip(message)


def load(python: str, paths: list[Path], how: str) -> dict[str, Any]:
    command = [python, "-c", LOADER, how, *map(str, paths)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found


def in_a_folder_with_its_files(name: str, kit: Path, folder: Path) -> Path:
    folder.mkdir()
    for file in (kit / name).iterdir():
        (folder / file.name).symlink_to(file)
    path = folder / "croissant.json"
    path.write_text(json.dumps(croissant(load_card(name))))
    return path


def test_documents_name_files_checksums_and_columns() -> None:
    document = croissant(load_card("pubmedqa"))
    assert document["conformsTo"] == CONFORMS_TO and document["@type"] == "sc:Dataset"
    files = {file["name"]: file for file in document["distribution"]}  # type: ignore[attr-defined]
    assert files["train.jsonl.gz"]["sha256"] == load_card("pubmedqa").splits["train"].sha256
    assert files["train.jsonl.gz"]["encodingFormat"] == "application/jsonlines"
    fields = document["recordSet"][0]["field"]  # type: ignore[index]
    by_column = {field["source"]["extract"]["column"]: field for field in fields}
    assert "question" in by_column and "contexts" not in by_column and by_column["meshes"]["repeated"] is True


def test_mlcroissant_accepts_every_card(mlcroissant_python: str, tmp_path: Path) -> None:
    paths = []
    for name in list_cards():
        (tmp_path / name).mkdir()
        paths.append(tmp_path / name / "croissant.json")
        paths[-1].write_text(json.dumps(croissant(load_card(name))))
    for path, found in load(mlcroissant_python, paths, "metadata").items():
        expected = 0 if load_card(Path(path).parent.name).year else 1
        assert found["errors"] == [] and len(found["warnings"]) == expected, (path, found)
        assert all("datePublished" in warning for warning in found["warnings"])


def test_mlcroissant_sees_a_document_without_its_columns(mlcroissant_python: str, tmp_path: Path) -> None:
    broken = croissant(load_card("pubmedqa"))
    del broken["distribution"]
    (tmp_path / "croissant.json").write_text(json.dumps(broken))
    command = [mlcroissant_python, "-c", LOADER, "metadata", str(tmp_path / "croissant.json")]
    assert subprocess.run(command, capture_output=True, timeout=300).returncode != 0


@pytest.mark.slow
@pytest.mark.kit
def test_mlcroissant_loads_the_records_of_the_kit(mlcroissant_python: str, kit: Path, tmp_path: Path) -> None:
    names = [name for name in list_cards() if (kit / name).is_dir() and load_card(name).splits]
    paths = {name: in_a_folder_with_its_files(name, kit, tmp_path / name) for name in names}
    found = load(mlcroissant_python, list(paths.values()), "records")
    for name, path in paths.items():
        card = load_card(name)
        for record_set, loaded in found[str(path)]["records"].items():
            split = card.splits[record_set]
            assert loaded["count"] == split.items, (name, record_set)
            row = read_rows(kit / name / split.file, ())[0]
            for column, value in loaded["first"].items():
                if isinstance(row[column], str) and isinstance(value, str) and not NUMBER.fullmatch(value):
                    assert value == row[column], (name, record_set, column)


@pytest.mark.kit
def test_mlcroissant_refuses_a_changed_file(mlcroissant_python: str, kit: Path, tmp_path: Path) -> None:
    path = in_a_folder_with_its_files("vqa-rad", kit, tmp_path / "vqa-rad")
    table = path.parent / "labels.csv"
    text = table.read_text()
    table.unlink()
    table.write_text(text.replace("Yes", "No", 1))
    command = [mlcroissant_python, "-c", LOADER, "records", str(path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode != 0 and "Hash of downloaded file" in result.stderr
