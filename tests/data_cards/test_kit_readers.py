"""The readers of the kit's sets, against the kit and against planted faults."""

import gzip
import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_cards.readers.agents import read_agentclinic, read_fhir_tools, read_mediq
from data_cards.readers.entailment import (
    read_control_nli,
    read_k_qa_pairs,
    read_snli,
    read_summedits,
    read_wice,
)
from data_cards.readers.fixtures import read_dicom_files, read_rlds_info, read_slide_and_volume
from data_cards.readers.multiple_choice import read_medmcqa, read_medqa_usmle, read_mmlu_medical
from data_cards.readers.pictures import read_cxr_covid, read_fundus_dr, read_ham10000_part
from data_cards.readers.records import read_ehrsql, read_synthea_bundles, read_synthea_questions
from data_cards.readers.reports import read_iu_reports, read_k_qa
from data_cards.readers.text import read_aci_bench
from data_cards.schema import list_cards, load_card

NO_ITEMS = {"gemma3-special-tokens", "medsiglip-tokenizer"}
SPLIT_READERS: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    "medmcqa": (read_medmcqa, ("train", "val")),
    "mmlu-medical": (read_mmlu_medical, ("fewshot", "val")),
    "medqa-usmle": (read_medqa_usmle, ("dev",)),
    "snli": (read_snli, ("train", "val")),
    "control-nli": (read_control_nli, ("dev",)),
    "wice": (read_wice, ("dev",)),
    "summedits": (read_summedits, ("qmsumm", "sales_call", "scitldr")),
    "iu-xray-reports": (read_iu_reports, ("train", "val")),
    "aci-bench": (read_aci_bench, ("train", "val", "test1", "test2")),
}


def write_lines(path: Path, *rows: dict[str, object]) -> Path:
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    return path


def test_every_set_of_the_kit_has_a_reader(kit: Path) -> None:
    names = {name for name in list_cards() if (kit / name).is_dir()}
    assert {name for name in names if not load_card(name).reader} == NO_ITEMS


@pytest.mark.kit
@pytest.mark.parametrize("name", sorted(SPLIT_READERS))
def test_readers_return_what_the_card_counts(kit: Path, name: str) -> None:
    read, splits = SPLIT_READERS[name]
    card = load_card(name)
    seen: list[str] = []
    for split in splits:
        records = read(kit / name, split)
        assert len(records) == card.splits[split].items
        assert all(record.group for record in records)
        seen += [record.item_id for record in records]
    assert len(set(seen)) == len(seen)


@pytest.mark.kit
@pytest.mark.parametrize("name", ["medmcqa", "snli", "iu-xray-reports", "aci-bench"])
def test_groups_do_not_cross_the_split(kit: Path, name: str) -> None:
    read, splits = SPLIT_READERS[name]
    first, second = ({record.group for record in read(kit / name, split)} for split in splits[:2])
    assert not first & second


@pytest.mark.kit
def test_the_same_question_has_one_key_in_medqa_and_mediq(kit: Path) -> None:
    questions = {question.item_id: question for question in read_medqa_usmle(kit / "medqa-usmle")}
    patients = read_mediq(kit / "mediq-interactive")
    shared = [patient for patient in patients if patient.group in questions]
    assert len(patients) == 1257 and len(shared) > 1240
    assert all(patient.final_question.answer == questions[patient.group].answer for patient in shared)
    assert all(patient.atomic_facts and patient.initial_info for patient in patients)


@pytest.mark.kit
def test_cases_tools_and_records(kit: Path) -> None:
    cases = read_agentclinic(kit / "agentclinic-medqa")
    assert len(cases) == 150 and sum(case.in_base for case in cases) == 77
    assert cases[0].diagnosis == "Myasthenia gravis" and "Demographics" in cases[0].patient
    tools = read_fhir_tools(kit / "fhir-agent-tools")
    assert len(tools.tools) == 9 and len(tools.tasks) == 10 and sum(task.writes for task in tools.tasks) == 5
    bank = read_ehrsql(kit / "ehrsql-templates")
    assert len(bank.answerable) == 174 and len(bank.unanswerable) == 53
    questions = read_synthea_questions(kit / "synthea-fhir-r4", "val")
    bundles = {bundle.patient_id: bundle for bundle in read_synthea_bundles(kit / "synthea-fhir-r4", "val")}
    assert len(questions) == 820 and {question.patient_id for question in questions} == set(bundles)
    assert {question.group for question in questions} == {bundle.group for bundle in bundles.values()}
    kept = {f"{r['resourceType']}/{r['id']}" for r in bundles[questions[0].patient_id].resources}
    assert set(questions[0].evidence) <= kept


@pytest.mark.kit
def test_pictures_and_fixtures(kit: Path) -> None:
    assert len(read_cxr_covid(kit / "cxr-covid")) == 55
    lesions = read_ham10000_part(kit / "derm-ham10000")
    assert sum(lesion.labels["age"] == "" for lesion in lesions) == 11
    eyes = read_fundus_dr(kit / "fundus-dr")
    assert sum(eye.labels["dr_grade"] == "" for eye in eyes) == 5 and len({eye.group for eye in eyes}) == 217
    files = read_dicom_files(kit / "dicom-real")
    assert len(files) == 20 and all(file.path.is_file() and file.group for file in files)
    assert [f.photometric_interpretation for f in files if f.path.name == "RG1_J2KI.dcm"] == ["MONOCHROME1"]
    assert all(file.path.is_file() for file in read_slide_and_volume(kit / "wsi-nifti-real"))
    assert [(s.name, s.num_episodes) for s in read_rlds_info(kit / "rlds-bridge-sample")] == [("train", 6), ("val", 3)]
    rubrics = read_k_qa(kit / "k-qa")
    pairs = read_k_qa_pairs(kit / "k-qa")
    assert len(rubrics) == 151 and len(pairs) == 205
    # One of the 25 questions is worded otherwise in the release's two files.
    assert len({pair.group for pair in pairs} - {rubric.group for rubric in rubrics}) == 1


@pytest.mark.kit
def test_card_names_the_default_reader(kit: Path) -> None:
    for name in list_cards():
        card = load_card(name)
        if (kit / name).is_dir() and card.reader:
            module, function = card.reader.split(":")
            assert list(getattr(importlib.import_module(module), function)(kit / name)), name


QUESTION = {"id": "q", "question": "Why?", "options": {"A": "a", "B": "b"}, "answer": "B"}
PAIR = {"id": "p", "premise": "x", "hypothesis": "y", "label": "neutral"}
SCENARIO = {
    "id": "s",
    "in_base_107": True,
    "OSCE_Examination": {
        "Objective_for_Doctor": "o",
        "Patient_Actor": {},
        "Physical_Examination_Findings": {},
        "Test_Results": {},
        "Correct_Diagnosis": "d",
    },
}
EXAMINATION: dict[str, object] = dict(SCENARIO["OSCE_Examination"])  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("read", "file", "row", "message"),
    [
        (read_medqa_usmle, "dev", {**QUESTION, "answer": "E"}, "record 2 has answer 'E'; expected one of A, B"),
        (read_medqa_usmle, "dev", {**QUESTION, "options": {"A": "a"}}, "record 2 has options"),
        (read_medqa_usmle, "dev", {**QUESTION, "options": {"B": "b", "A": "a"}}, "record 2 has options"),
        (read_medqa_usmle, "dev", {**QUESTION, "options": ["a", "b"]}, "record 2 has no object in 'options'"),
        (read_medqa_usmle, "dev", {**QUESTION, "question": " "}, "record 2 has an empty 'question'"),
        (read_snli, "val", {**PAIR, "label": "maybe"}, "record 2 has label 'maybe'; expected entailment"),
        (read_snli, "val", {k: v for k, v in PAIR.items() if k != "premise"}, "line 2 has no field premise"),
    ],
)
def test_a_bad_row_is_refused_by_file_and_row(
    tmp_path: Path, read: Callable[..., Any], file: str, row: dict[str, object], message: str
) -> None:
    good = QUESTION if read is read_medqa_usmle else PAIR
    write_lines(tmp_path / f"{file}.jsonl.gz", dict(good))
    assert len(read(tmp_path, file)) == 1
    write_lines(tmp_path / f"{file}.jsonl.gz", dict(good), row)
    with pytest.raises(ValueError, match=f"{file}.jsonl.gz: .*{message}"):
        read(tmp_path, file)


def test_bad_cases_reports_and_episodes_are_refused(tmp_path: Path) -> None:
    write_lines(tmp_path / "scenarios.jsonl.gz", SCENARIO)
    assert read_agentclinic(tmp_path)[0].diagnosis == "d"
    without = {key: value for key, value in EXAMINATION.items() if key != "Test_Results"}
    write_lines(tmp_path / "scenarios.jsonl.gz", {**SCENARIO, "OSCE_Examination": without})
    with pytest.raises(ValueError, match=r"scenarios.jsonl.gz: record 1 has no Test_Results"):
        read_agentclinic(tmp_path)
    info = tmp_path / "bridge_dataset" / "1.0.0" / "dataset_info.json"
    info.parent.mkdir(parents=True)
    info.write_text(json.dumps({"name": "bridge_dataset", "splits": [{"name": "train", "shardLengths": ["2"]}]}))
    with pytest.raises(ValueError, match="has no bridge_dataset-train.tfrecord-00000-of-00001"):
        read_rlds_info(tmp_path)
    info.write_text("{}")
    with pytest.raises(ValueError, match="names no splits"):
        read_rlds_info(tmp_path)


def test_fields_that_must_be_lists_are(tmp_path: Path) -> None:
    row = {"id": "w", "claim": "c", "evidence": "not a list", "label": "supported"}
    write_lines(tmp_path / "dev.jsonl.gz", row)
    with pytest.raises(ValueError, match="record 1 has no list of texts in 'evidence'"):
        read_wice(tmp_path)
    summary = {"id": "s", "document": "d", "summary": "s", "consistent": "yes"}
    write_lines(tmp_path / "qmsumm.jsonl.gz", summary)
    with pytest.raises(ValueError, match="record 1 has consistent 'yes'; expected true or false"):
        read_summedits(tmp_path)
