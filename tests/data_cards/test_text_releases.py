"""Readers of the owners' own question and text releases, each on a miniature of made-up items in the layout."""

import json
from pathlib import Path

from data_cards.readers.agents import read_agentclinic_release
from data_cards.readers.iu_xray import read_iu_xray
from data_cards.readers.multiple_choice_releases import (
    read_afrimed_qa,
    read_medmcqa_release,
    read_medqa,
    read_medxpertqa,
    read_mmlu,
    read_pubmedqa_release,
)
from data_cards.readers.records import read_synthea_folder
from data_cards.readers.visual_questions import read_google_split, read_path_vqa, read_slake, read_vqa_rad_release
from tests.data_cards.made import put, refuses

# --- visual questions

VQA_RAD = {
    "qid": 7,
    "phrase_type": "test_para",
    "qid_linked_id": "x",
    "image_case_url": "https://example.org/case/1",
    "image_name": "synpic1.jpg",
    "image_organ": "CHEST",
    "question": "Is it made up?",
    "question_type": "PRES",
    "answer": "Yes",
    "answer_type": "CLOSED ",
}


def test_vqa_rad_and_googles_split(tmp_path: Path) -> None:
    put(tmp_path / "VQA_RAD Dataset Public.json", json.dumps([VQA_RAD, {**VQA_RAD, "qid": 8, "answer": 3}]))
    first, second = read_vqa_rad_release(tmp_path)
    assert first.answer_type == "CLOSED" and first.official_split == "test" and second.answer == "3"
    assert first.group == second.group and first.path == tmp_path / "VQA_RAD Image Folder" / "synpic1.jpg"
    table = put(
        tmp_path / "s.tsv", "QID_unique\tSPLIT_BALANCED\tINCLUDED_IN_HUMAN_EVAL\n7\ttest\tTRUE\n8\ttrain\tFALSE\n"
    )
    split = read_google_split(table)
    assert split[first.item_id].side == "test" and not split[second.item_id].in_human_evaluation
    put(table, "QID_unique\tSPLIT_BALANCED\tINCLUDED_IN_HUMAN_EVAL\n7\ttest\tTRUE\n7\ttrain\tFALSE\n")
    refuses(lambda: read_google_split(table), "record 2 repeats the question vqa-rad-7")
    put(table, "QID_unique\tSPLIT_BALANCED\tINCLUDED_IN_HUMAN_EVAL\n7\tdev\tTRUE\n")
    refuses(lambda: read_google_split(table), "record 1 has SPLIT_BALANCED 'dev'")
    put(tmp_path / "VQA_RAD Dataset Public.json", json.dumps({"questions": []}))
    refuses(lambda: read_vqa_rad_release(tmp_path), "holds a JSON dict; expected an array")


def slake(**changes: object) -> dict[str, object]:
    fields: dict[str, object] = {
        "img_id": 1,
        "img_name": "xmlab1/source.jpg",
        "question": "Which organ?",
        "answer": "Liver",
        "q_lang": "en",
        "location": "Abdomen",
        "modality": "CT",
        "answer_type": "OPEN",
        "base_type": "vqa",
        "triple": ["vhead", "_", "_"],
        "qid": 1,
        "content_type": "Organ",
    }
    return fields | changes


def test_slake_by_language(tmp_path: Path) -> None:
    rows = [slake(), slake(q_lang="zh", qid=2), slake(img_name="xmlab2/source.jpg", qid=3)]
    put(tmp_path / "validation.json", json.dumps(rows))
    english = read_slake(tmp_path, "validate")
    assert [question.group for question in english] == ["slake_xmlab1", "slake_xmlab2"]
    assert english[0].path == tmp_path / "imgs" / "xmlab1" / "source.jpg"
    assert [question.item_id for question in read_slake(tmp_path, "validate", "zh")] == ["slake-2"]
    put(tmp_path / "test.json", json.dumps([slake(), slake(q_lang="fr")]))
    refuses(lambda: read_slake(tmp_path), "test.json: record 2 has q_lang 'fr'; expected en, zh")
    put(tmp_path / "test.json", json.dumps([slake(answer="")]))
    refuses(lambda: read_slake(tmp_path), "record 1 has an empty 'answer'")


def test_path_vqa(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    rows = [
        {"image": {"bytes": b"jpeg", "path": None}, "question": "Is it?", "answer": "Yes"},
        {"image": {"bytes": b"jpeg", "path": None}, "question": "What is it?", "answer": "made up"},
        {"image": {"bytes": b"other", "path": None}, "question": "Is it?", "answer": "no"},
    ]
    (tmp_path / "data").mkdir()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "data" / "test-00000-of-00001.parquet")
    questions = list(read_path_vqa(tmp_path))
    assert [question.answer_type for question in questions] == ["CLOSED", "OPEN", "CLOSED"]
    assert questions[0].group == questions[1].group != questions[2].group
    rows[1]["image"] = {"bytes": b"", "path": None}
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "data" / "test-00000-of-00001.parquet")
    refuses(lambda: read_path_vqa(tmp_path), "test-00000-of-00001.parquet: record 2 holds no picture")
    refuses(lambda: read_path_vqa(tmp_path, "train"), r"has no train-\*.parquet")


# --- multiple choice


def test_medqa(tmp_path: Path) -> None:
    row = {"question": "Why?", "answer": "b", "options": {"A": "a", "B": "b"}, "meta_info": "step1", "answer_idx": "B"}
    table = tmp_path / "questions" / "US" / "4_options" / "phrases_no_exclude_test.jsonl"
    put(table, json.dumps(row) + "\n")
    (question,) = read_medqa(tmp_path)
    assert question.answer == "B" and question.item_id == "medqa-test-00000" and question.group.startswith("medqa_")
    put(table, json.dumps({**row, "answer_idx": "C"}) + "\n")
    refuses(lambda: read_medqa(tmp_path), "phrases_no_exclude_test.jsonl: record 1 has answer 'C'")


def medmcqa(tmp_path: Path, *right: int) -> Path:
    lines = [
        {"id": f"q{place}", "question": f"Why {place}?", "opa": "a", "opb": "b", "opc": "c", "opd": "d", "cop": cop}
        | {"subject_name": "Anatomy", "exp": None, "topic_name": None}
        for place, cop in enumerate(right)
    ]
    put(tmp_path / "dev.json", "\n".join(map(json.dumps, lines)))
    return tmp_path


def test_medmcqa_counts_from_one_or_from_zero(tmp_path: Path) -> None:
    assert [question.answer for question in read_medmcqa_release(medmcqa(tmp_path, 1, 4, 2))] == ["A", "D", "B"]
    assert [question.answer for question in read_medmcqa_release(medmcqa(tmp_path, 0, 3, 2))] == ["A", "D", "C"]
    refuses(lambda: read_medmcqa_release(medmcqa(tmp_path, 0, 4)), "expected 1 to 4, or 0 to 3")
    refuses(lambda: read_medmcqa_release(medmcqa(tmp_path, 1, 2)), "has cop values .'1', '2'.; expected")
    refuses(lambda: read_medmcqa_release(medmcqa(tmp_path, 1, 7)), "expected 1 to 4")


def test_pubmedqa(tmp_path: Path) -> None:
    row = {
        "QUESTION": "Does it?",
        "CONTEXTS": ["one", "two"],
        "LABELS": ["AIM", "RESULTS"],
        "LONG_ANSWER": "It does.",
        "final_decision": "yes",
    }
    put(tmp_path / "data" / "ori_pqal.json", json.dumps({"11": row, "12": {**row, "final_decision": "no"}}))
    put(tmp_path / "data" / "test_ground_truth.json", json.dumps({"12": "no"}))
    (test,) = read_pubmedqa_release(tmp_path)
    (other,) = read_pubmedqa_release(tmp_path, "other")
    assert test.answer == "no" and other.group == "pubmed_11" and other.context == "AIM: one\nRESULTS: two"
    put(tmp_path / "data" / "test_ground_truth.json", json.dumps({"12": "yes"}))
    refuses(lambda: read_pubmedqa_release(tmp_path), "test_ground_truth.json: answers 12 otherwise")
    put(tmp_path / "data" / "test_ground_truth.json", json.dumps({"13": "yes"}))
    refuses(lambda: read_pubmedqa_release(tmp_path), "names 13, which ori_pqal.json does not have")
    put(tmp_path / "data" / "test_ground_truth.json", json.dumps({"12": "no"}))
    put(tmp_path / "data" / "ori_pqal.json", json.dumps({"12": {**row, "LABELS": ["AIM"], "final_decision": "no"}}))
    refuses(lambda: read_pubmedqa_release(tmp_path), "record 1 has 1 LABELS and 2 CONTEXTS")


def test_mmlu_and_medxpertqa(tmp_path: Path) -> None:
    put(tmp_path / "test" / "anatomy_test.csv", '"Why, then?",a,b,c,d,C\n')
    (question,) = read_mmlu(tmp_path, subjects=("anatomy",))
    assert question.options == {"A": "a", "B": "b", "C": "c", "D": "d"} and question.answer == "C"
    put(tmp_path / "test" / "anatomy_test.csv", "Why?,a,b,c,C\n")
    refuses(lambda: read_mmlu(tmp_path, subjects=("anatomy",)), "anatomy_test.csv: row 1 has 5 cells")
    refuses(lambda: read_mmlu(tmp_path, subjects=("virology",)), "virology_test.csv: no such file")

    row = {
        "id": "MM-1",
        "question": "What is shown?",
        "options": {"A": "a", "B": "b"},
        "label": "A",
        "images": ["MM-1-a.jpeg"],
        "medical_task": "Diagnosis",
        "body_system": "Skeletal",
        "question_type": "Reasoning",
    }
    put(tmp_path / "MM" / "test.jsonl", json.dumps(row) + "\n")
    (shown,) = read_medxpertqa(tmp_path, "MM")
    assert shown.pictures == (tmp_path / "images" / "MM-1-a.jpeg",) and shown.subject == "Skeletal"
    put(tmp_path / "Text" / "test.jsonl", json.dumps({k: v for k, v in row.items() if k != "images"}) + "\n")
    assert read_medxpertqa(tmp_path)[0].pictures == ()


def test_afrimed_qa_counts_what_it_leaves_out(tmp_path: Path) -> None:
    options = json.dumps({"option1": "a", "option2": "b", "option3": "c"}).replace('"', '""')
    rows = [
        f'i1,test,mcq,Why?,"{options}",option2,Surgery',
        f'i2,test,mcq,Which?,"{options}","option1,option3",Surgery',
        "i3,test,saq,How?,,,Surgery",
        f'i4,train,mcq,Where?,"{options}",option1,Surgery',
    ]
    header = "sample_id,split,question_type,question_clean,answer_options,correct_answer,specialty"
    table = put(tmp_path / "afri.csv", "\n".join([header, *rows]) + "\n")
    found = read_afrimed_qa(table, "test")
    assert [question.answer for question in found.questions] == ["B"]
    assert (found.num_with_several_answers, found.num_of_other_types) == (1, 1)
    assert len(read_afrimed_qa(table).questions) == 2
    put(table, "\n".join([header, rows[0].replace("option2,Surgery", "option9,Surgery")]) + "\n")
    refuses(lambda: read_afrimed_qa(table).questions, "afri.csv: record 1 has correct_answer 'option9'")


# --- reports, records, cases

REPORT = """<?xml version="1.0" encoding="utf-8"?>
<eCitation><uId id="CXR{number}"/><MedlineCitation><Article><Abstract>
<AbstractText Label="COMPARISON">None.</AbstractText><AbstractText Label="INDICATION">Made up.</AbstractText>
<AbstractText Label="FINDINGS">{findings}</AbstractText><AbstractText Label="IMPRESSION">Nothing.</AbstractText>
</Abstract></Article></MedlineCitation><MeSH><major>normal</major></MeSH>
<parentImage id="CXR{number}_IM-0001-1001"/></eCitation>
"""


def test_iu_xray(tmp_path: Path) -> None:
    for number, findings in ((2, "Clear lungs."), (10, "Clear  LUNGS."), (11, "")):
        put(tmp_path / "ecgen-radiology" / f"{number}.xml", REPORT.format(number=number, findings=findings))
    reports = read_iu_xray(tmp_path)
    assert [report.item_id for report in reports] == ["iu-xray-2", "iu-xray-10", "iu-xray-11"]
    assert reports[0].group == reports[1].group and reports[2].group == "iuxray_11" and reports[2].findings == ""
    assert reports[0].pictures[0].file == "NLMCXR_png/CXR2_IM-0001-1001.png" and reports[0].problems == ("normal",)
    put(tmp_path / "ecgen-radiology" / "12.xml", "<eCitation>")
    refuses(lambda: read_iu_xray(tmp_path), "12.xml: is no XML")
    put(tmp_path / "ecgen-radiology" / "12.xml", "<eCitation/>")
    refuses(lambda: read_iu_xray(tmp_path), "12.xml: has no uId")


def test_synthea_and_agentclinic(tmp_path: Path) -> None:
    entries = [{"resource": {"resourceType": "Patient", "id": "p1"}}, {"resource": {"resourceType": "Condition"}}]
    put(tmp_path / "fhir" / "Made_Up.json", json.dumps({"resourceType": "Bundle", "entry": entries}))
    put(tmp_path / "fhir" / "hospitalInformation1.json", "{}")
    (bundle,) = read_synthea_folder(tmp_path)
    assert bundle.patient_id == "p1" and bundle.group == "synthea_p1" and len(bundle.resources) == 2
    put(tmp_path / "fhir" / "Made_Up.json", json.dumps({"resourceType": "Bundle", "entry": entries * 2}))
    refuses(lambda: read_synthea_folder(tmp_path), "Made_Up.json: has 2 Patient resources")
    put(tmp_path / "fhir" / "Made_Up.json", json.dumps({"resourceType": "Bundle"}))
    refuses(lambda: read_synthea_folder(tmp_path), "Made_Up.json: is no FHIR Bundle")

    examination = {
        "Objective_for_Doctor": "o",
        "Patient_Actor": {},
        "Physical_Examination_Findings": {},
        "Test_Results": {},
        "Correct_Diagnosis": "d",
    }
    table = put(tmp_path / "agentclinic_medqa.jsonl", json.dumps({"OSCE_Examination": examination}) + "\n")
    (case,) = read_agentclinic_release(table)
    assert case.diagnosis == "d" and case.in_base and case.item_id == "agentclinic-medqa-000"
