"""The recipe `report_generation`: what is learned of each owner's layout, no sentence twice, a table of one's own."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from data_cards.readers.chest_releases import CHEXPERT_OBSERVATIONS
from data_cards.split import side as side_of
from evals.outputs import Output
from evals.tasks.catalogue import TASKS
from evals.tasks.label_reports import NOTHING
from evals.tasks.report_generation import FILM
from evals.tasks.task import ItemOptions
from finetune.cli import app
from finetune.recipes.report_generation import kind, report
from finetune.tables import of_sets
from finetune.tables.learning import Lessons

INDIANA = """<?xml version="1.0"?><eCitation><uId id="CXR{n}"/><MedlineCitation><Article><Abstract>
<AbstractText Label="INDICATION">Cough</AbstractText><AbstractText Label="FINDINGS">Clear. Clear.</AbstractText>
<AbstractText Label="IMPRESSION">Normal {n}.</AbstractText></Abstract></Article></MedlineCitation>
<MeSH><major>normal</major></MeSH><parentImage id="CXR{n}_IM-1"/></eCitation>"""


def film(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8), 90, np.uint8)).save(path)


def mimic(folder: Path) -> None:
    """Three patients of MIMIC-CXR, one a side, each with a frontal film and a report."""
    films, head = folder / "mimic-cxr-jpg", "dicom_id,subject_id,study_id"
    films.mkdir()
    metadata, split, labels = [f"{head},ViewPosition"], [f"{head},split"], []
    for number, side in enumerate(("train", "validate", "test"), start=1):
        patient, study = f"1000000{number}", f"5000000{number}"
        metadata.append(f"d{number},{patient},{study},PA")
        split.append(f"d{number},{patient},{study},{side}")
        labels.append(f"{patient},{study}{',' * 14}")
        film(films / "files" / "p10" / f"p{patient}" / f"s{study}" / f"d{number}.jpg")
        place = folder / "mimic-cxr" / "files" / "p10" / f"p{patient}"
        place.mkdir(parents=True)
        text = f"INDICATION: Cough.\n\nFINDINGS: Lungs of {side}. Clear. Clear.\n\nIMPRESSION: No acute process."
        (place / f"s{study}.txt").write_text(text)
    (films / "mimic-cxr-2.0.0-metadata.csv").write_text("\n".join(metadata) + "\n")
    (films / "mimic-cxr-2.0.0-split.csv").write_text("\n".join(split) + "\n")
    header = ",".join(("subject_id", "study_id", *CHEXPERT_OBSERVATIONS))
    (films / "mimic-cxr-2.0.0-chexpert.csv").write_text("\n".join([header, *labels]) + "\n")


def indiana(folder: Path) -> None:
    place = folder / "iu-xray" / "ecgen-radiology"
    place.mkdir(parents=True)
    for number in range(1, 9):
        (place / f"{number}.xml").write_text(INDIANA.format(n=number))


def nih(folder: Path) -> None:
    place = folder / "nih-chestxray14"
    rows = ["Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position"]
    for number in range(1, 13):
        rows.append(f"{number:08d}_000.png,{'Mass' if number % 2 else 'No Finding'},0,{number},50,M,PA")
        film(place / "images_001" / "images" / f"{number:08d}_000.png")
    (place / "Data_Entry_2017_v2020.csv").write_text("\n".join(rows) + "\n")
    names = [row.partition(",")[0] for row in rows[1:]]
    (place / "train_val_list.txt").write_text("\n".join(names[:10]) + "\n")
    (place / "test_list.txt").write_text("\n".join(names[10:]) + "\n")


def taught(data: Path, out: Path, monkeypatch: pytest.MonkeyPatch, *settings: str) -> Lessons:
    """What a run over this folder would learn."""
    seen: list[Lessons] = []

    def caught(config: Any, lessons: Lessons, out: Path, quiet: bool, score: Any) -> None:
        seen.append(lessons)

    monkeypatch.setattr(of_sets, "learn", caught)
    arguments = ["run", "report_generation", "--data", str(data), "--out", str(out), *(f"--set={s}" for s in settings)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    return seen[0]


def test_mimic_is_learned_by_its_owners_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mimic(tmp_path)
    lessons = taught(tmp_path, tmp_path / "out", monkeypatch)
    [train], [validation] = lessons.train, lessons.validation
    assert train.prompt == f"Indication: Cough.\n{FILM}" and Path(train.files[0]).is_file()
    assert lessons.completion(train) == "Lungs of train. Clear.\nNo acute process."  # one Clear of two
    assert "validate" in lessons.completion(validation) and lessons.task.name == "mimic-cxr-report"


def test_indiana_has_no_split_and_is_divided_by_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    indiana(tmp_path)
    lessons = taught(tmp_path, tmp_path / "out", monkeypatch)
    items = [*lessons.train, *lessons.validation]
    assert items and all(side_of(item.group) == "train" for item in items) and lessons.task.name == "iu-xray-report"
    assert not {item.group for item in lessons.train} & {item.group for item in lessons.validation}
    assert report(items[0]).startswith("Clear.\nNormal")


def test_nih_has_no_reports_and_learns_what_is_labelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nih(tmp_path)
    lessons = taught(tmp_path, tmp_path / "out", monkeypatch)
    items = [*lessons.train, *lessons.validation]
    assert len(items) == 10 and {kind(item) for item in items} == {"nih-chestxray14"}
    assert {report(item) for item in items} == {NOTHING, "Findings: There is mass.\nImpression: Mass."}
    for item in items:
        assert lessons.task.grade(item, Output("", "", "", text=report(item))) == {"finding_f1": 1, "repeated": 0}
    assert len(TASKS["nih14-label-report"].items(tmp_path, ItemOptions("test"))) == 2


def test_several_sets_are_learned_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mimic(tmp_path)
    nih(tmp_path)
    lessons = taught(tmp_path, tmp_path / "out", monkeypatch)
    assert {kind(item) for item in lessons.train} == {"mimic-cxr-jpg", "nih-chestxray14"}
    assert lessons.task.name == "mimic-cxr-report" and {kind(item) for item in lessons.validation} == {"mimic-cxr-jpg"}


def test_a_folder_without_a_set_is_refused(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        app, ["run", "report_generation", "--data", str(tmp_path), "--out", str(tmp_path / "o")]
    )
    assert "holds none of mimic-cxr-jpg, mimic-cxr, iu-xray, nih-chestxray14, cxr-nih14" in str(result.exception)
    assert "or give a table of yours with --table" in str(result.exception) and not (tmp_path / "o").exists()


def test_a_table_of_classes_is_no_table_of_reports(tmp_path: Path) -> None:
    film(tmp_path / "a.png")
    film(tmp_path / "b.png")
    (tmp_path / "T.csv").write_text("file,label\na.png,x\nb.png,y\n")
    arguments = ["run", "report_generation", "--table", str(tmp_path / "T.csv"), "--out", str(tmp_path / "o")]
    said = str(CliRunner().invoke(app, arguments).exception)
    assert "holds classes; expected texts; name the columns, or use the recipe answers" in said


@pytest.mark.slow
def test_a_folder_ends_in_a_table_of_before_and_after(shapes: Callable[[str], Path], tmp_path: Path) -> None:
    """A few steps over twelve films, of nano's weights under the Hub's files; no quality is asked of them."""
    nih(tmp_path)
    settings = (f"model={shapes('hub')}", "epochs=1", "examples_per_step=4", "evaluations=1", "merge=false")
    arguments = ["run", "report_generation", "--data", str(tmp_path), "--out", str(tmp_path / "out"), "--quiet"]
    result = CliRunner().invoke(app, arguments + [f"--set={setting}" for setting in settings])
    assert result.exit_code == 0, (result.output, result.exception)
    text = (tmp_path / "out" / "scores" / "before_after.md").read_text()
    assert "| learned | nih14-label-report | finding_f1 |" in text and "| 2, 2 |" in text
    assert (tmp_path / "out" / "adapter" / "adapter_model.safetensors").is_file()
