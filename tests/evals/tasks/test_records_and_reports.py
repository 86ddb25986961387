from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from data_cards.readers.mimic_reports import read_mimic_report, report_sections
from data_cards.readers.records import read_synthea_questions
from data_cards.readers.reports import read_iu_reports
from evals.items import Item, item_sha256
from evals.measures import Answered
from evals.outputs import Output
from evals.results.scores import measures, value_of
from evals.tasks import record_questions, report_generation
from evals.tasks.catalogue import TASKS
from evals.tasks.task import ItemOptions


@pytest.mark.kit
@pytest.mark.parametrize("name", ["kit-ehrqa", "kit-ehrqa-section"])
def test_the_references_are_right_and_nothing_else_is(kit: Path, name: str) -> None:
    task = TASKS[name]
    items = task.items(kit, ItemOptions("held-out"))
    assert {item.meta["category"] for item in items} == {
        q.category for q in read_synthea_questions(kit / "synthea-fhir-r4")
    }

    def score(texts: list[str]) -> dict[str, float]:
        said = [Output(i.item_id, item_sha256(i), "m", text=text) for i, text in zip(items, texts, strict=True)]
        answered = [Answered(item, output) for item, output in zip(items, said, strict=True)]
        return {metric: value_of(measure) for metric, measure in measures(task, answered).items()}

    right = score([f"<unused94>thought\nno<unused95>{item.reference}" for item in items])
    assert right["accuracy"] == right["accuracy_mean_over_report_categories"] == 1
    yes = score(["yes"] * len(items))
    counts = Counter(item.meta["category"] for item in items)
    assert yes["accuracy"] == pytest.approx(counts["cond_present"] / len(items), abs=1e-12)
    existence = counts["cond_present"] / (counts["cond_present"] + counts["cond_absent"])
    categories = set(record_questions.REPORT_CATEGORIES.values())
    assert yes["accuracy_mean_over_report_categories"] == pytest.approx(existence / len(categories), abs=1e-12)


@pytest.mark.kit
def test_the_answer_stands_in_the_record(kit: Path) -> None:
    """Of the kinds that can be looked up, in both the whole record and its section."""
    for name in ("kit-ehrqa", "kit-ehrqa-section"):
        items = TASKS[name].items(kit, ItemOptions("held-out"))
        looked_up = [
            i for i in items if i.meta["category"] in ("cond_onset", "imm_last", "med_reason", "birth_date", "city")
        ]
        assert len(looked_up) > 50
        missing = [i.item_id for i in looked_up if i.reference not in i.prompt.split("--- end of the record ---")[0]]
        assert not missing, f"{name}: {missing[:5]}"


REPORT = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  Made up.  Cough: dry.

 COMPARISON:  None.

 FINDINGS:

 The lungs are clear.  There is no
 effusion.

 IMPRESSION:

 No acute process.
"""


def test_sections_of_a_report() -> None:
    found = report_sections(REPORT)
    assert found.indication == "Made up. Cough: dry."
    assert found.text == "The lungs are clear. There is no effusion.\nNo acute process."
    assert report_sections("HISTORY: x\nFINDINGS AND IMPRESSION: y").findings == "y"
    assert report_sections("no headings").text == ""


def mimic(folder: Path) -> None:
    """Write made-up tables and a report in MIMIC-CXR's layout: a frontal and a lateral film of one study."""
    from data_cards.readers.chest_releases import CHEXPERT_OBSERVATIONS

    films = folder / "mimic-cxr-jpg"
    films.mkdir()
    rows = [("d1", "PA"), ("d2", "LATERAL")]
    head = "dicom_id,subject_id,study_id"
    table = "\n".join([f"{head},ViewPosition", *(f"{name},10000001,50000001,{view}" for name, view in rows)])
    (films / "mimic-cxr-2.0.0-metadata.csv").write_text(table + "\n")
    table = "\n".join([f"{head},split", *(f"{name},10000001,50000001,test" for name, _ in rows)])
    (films / "mimic-cxr-2.0.0-split.csv").write_text(table + "\n")
    table = ",".join(("subject_id", "study_id", *CHEXPERT_OBSERVATIONS))
    (films / "mimic-cxr-2.0.0-chexpert.csv").write_text(f"{table}\n10000001,50000001{',' * 14}\n")
    place = folder / "mimic-cxr" / "files" / "p10" / "p10000001"
    place.mkdir(parents=True)
    (place / "s50000001.txt").write_text(REPORT)


def test_mimic_reports_go_with_frontal_films(tmp_path: Path) -> None:
    mimic(tmp_path)
    (item,) = TASKS["mimic-cxr-report"].items(tmp_path, ItemOptions("test"))
    assert item.prompt == f"Indication: Made up. Cough: dry.\n{report_generation.FILM}"
    assert Path(item.files[0]).parts[-2:] == ("s50000001", "d1.jpg") and item.group == "mimic_10000001"
    (plain,) = TASKS["mimic-cxr-report-pretrained"].items(tmp_path, ItemOptions("test"))
    assert plain.prompt == "Made up. Cough: dry. findings:"
    with pytest.raises(ValueError, match="the report of a study is missing") as refused:
        read_mimic_report(tmp_path / "mimic-cxr", "10000001", "50000002")
    assert "10000001" not in str(refused.value)


def test_a_report_is_graded_without_its_trace(tmp_path: Path) -> None:
    mimic(tmp_path)
    (item,) = TASKS["mimic-cxr-report"].items(tmp_path, ItemOptions("test"))
    whole = report_generation.grade(item, Output("d", "s", "m", text=f"<think>x</think>{item.reference}"))
    assert whole == {"rouge_l_f1": 1.0, "token_f1_squad": 1.0, "entailment": 1.0, "contradiction": 0.0}
    empty = report_generation.grade(item, Output("d", "s", "m", text=""))
    assert empty == {"rouge_l_f1": 0, "token_f1_squad": 0, "entailment": 0, "contradiction": 0}


@pytest.mark.kit
def test_impressions_of_the_kit(kit: Path) -> None:
    items = TASKS["kit-iu-xray-impression"].items(kit, ItemOptions("held-out"))
    assert len(items) > 250 and {item.meta["normality"] for item in items} == {"normal", "abnormal"}
    assert all(item.reference not in item.prompt or len(item.reference) < 40 for item in items[:50])
    findings = {f"{report.item_id}": report.findings for report in read_iu_reports(kit / "iu-xray-reports", "val")}
    of_val = [item for item in items if item.item_id in findings]
    assert of_val and all(report_generation.source_of(item) == findings[item.item_id] for item in of_val)


def test_an_impression_is_graded_by_the_findings_that_were_put_to_the_model() -> None:
    prompt = report_generation.impression_prompt("Cough.", "Small left effusion.\nNo pneumothorax.")
    item = Item("i", (), prompt, "Left effusion, and atelectasis.", "open", "g", {})
    said = Output("i", "s", "m", text="Left effusion. There is a pneumothorax. There is a mass. Atelectasis.")
    graded = report_generation.grade(item, said)
    assert (graded["entailment"], graded["contradiction"]) == (0.25, 0.25)
    other = Answered(replace(item, item_id="j", reference="Cardiomegaly."), Output("j", "s", "m", text="Normal."))
    none = Answered(replace(item, item_id="k", reference="No effusion."), Output("k", "s", "m", text="Mass."))
    found = report_generation.clinical([Answered(item, said), other, none])
    assert value_of(found["finding_recall"]) == pytest.approx(2 / 3)  # all but cardiomegaly


def test_clinical_metrics_of_packages_that_are_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mimic(tmp_path)
    (item,) = TASKS["mimic-cxr-report"].items(tmp_path, ItemOptions("test"))
    pair = Answered(item, Output("d", "s", "m", text="clear"))
    monkeypatch.setattr(report_generation, "find_spec", lambda name: None)
    assert report_generation.clinical([pair]).keys() <= {"finding_recall"}

    class Scorer:
        def __call__(self, hyps: list[str], refs: list[str]) -> tuple[object, list[list[float]]]:
            return None, [[0.1] * len(hyps), [0.5] * len(hyps), [0.9] * len(hyps)]

    class Labeller:
        def get_label(self, report: str) -> list[int]:
            return [1] + [0] * 13 if "clear" in report else [0] * 14

    monkeypatch.setattr(report_generation, "find_spec", lambda name: name)
    monkeypatch.setattr(report_generation.reports, "_radgraph_scorer", lambda model: Scorer())
    monkeypatch.setattr(report_generation.reports, "_chexbert_labeller", lambda device: Labeller())
    two = [pair, Answered(replace(item, item_id="e", reference="effusion"), Output("e", "s", "m", text="clear"))]
    found = {name: value_of(measure) for name, measure in report_generation.clinical(two).items()}
    assert found["radgraph_f1_partial"] == 0.5
    assert found["chexbert_f1_micro_14"] == pytest.approx(2 * 1 / (2 + 1))  # one hit, two said, one there
    assert found["chexbert_f1_macro_14"] == pytest.approx(2 / 3)


def test_items_of_the_whole_indiana_collection(tmp_path: Path) -> None:
    place = tmp_path / "iu-xray" / "ecgen-radiology"
    place.mkdir(parents=True)
    xml = """<?xml version="1.0"?><eCitation><uId id="CXR1"/><MedlineCitation><Article><Abstract>
    <AbstractText Label="INDICATION">Cough</AbstractText><AbstractText Label="FINDINGS">Clear.</AbstractText>
    <AbstractText Label="IMPRESSION">Normal.</AbstractText></Abstract></Article></MedlineCitation>
    <MeSH><major>normal</major></MeSH><parentImage id="CXR1_IM-1"/><parentImage id="CXR1_IM-2"/></eCitation>"""
    (place / "1.xml").write_text(xml)
    (item,) = TASKS["iu-xray-report"].items(tmp_path, ItemOptions("all"))
    assert isinstance(item, Item) and item.reference == "Clear.\nNormal." and len(item.files) == 2
