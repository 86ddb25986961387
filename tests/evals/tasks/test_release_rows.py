"""The rows over the owners' own releases, on miniatures of made-up items in the releases' layouts."""

import json
from pathlib import Path

import pytest

from data_cards.readers.chest_releases import CHEXPERT_OBSERVATIONS, read_chexpert_test
from evals.items import Item
from evals.measures import Answered
from evals.outputs import Output
from evals.results.scores import measures, value_of
from evals.tasks.catalogue import TASKS
from evals.tasks.task import ItemOptions
from evals.tasks.visual_questions import FINAL_ANSWER, VQA_RAD_PREAMBLE


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def lines(*rows: dict[str, object]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def items_of(folder: Path, name: str, side: str = "", num_fewshot: int = 0) -> list[Item]:
    return TASKS[name].items(folder, ItemOptions(TASKS[name].checked_side(side), 0, num_fewshot))


def score(name: str, items: list[Item], text: str) -> dict[str, float]:
    answered = [Answered(item, Output(item.item_id, "s", "m", text=text)) for item in items]
    return {metric: value_of(measure) for metric, measure in measures(TASKS[name], answered).items()}


def multiple_choice(folder: Path) -> None:
    four = {"A": "a", "B": "b", "C": "c", "D": "d"}
    for split, answer in (("test", "B"), ("train", "C")):
        row = {"question": f"Why {split}?", "answer": "x", "options": four, "meta_info": "", "answer_idx": answer}
        put(folder / "medqa" / "questions" / "US" / "4_options" / f"phrases_no_exclude_{split}.jsonl", lines(row))
    for split in ("dev", "train"):
        row = {"id": split, "question": f"Why {split}?", "subject_name": "Anatomy", "cop": 4}
        put(folder / "medmcqa-full" / f"{split}.json", lines(row | {f"op{name}": name for name in "abcd"}))
    abstract = {
        "QUESTION": "Does it?",
        "CONTEXTS": ["one", "two"],
        "LABELS": ["AIM", "RESULTS"],
        "LONG_ANSWER": "It does.",
    }
    rows = {"11": {**abstract, "final_decision": "yes"}, "12": {**abstract, "final_decision": "no"}}
    put(folder / "pubmedqa-full" / "data" / "ori_pqal.json", json.dumps(rows))
    put(folder / "pubmedqa-full" / "data" / "test_ground_truth.json", json.dumps({"12": "no"}))
    for subject in ("anatomy", "clinical_knowledge", "college_biology", "college_medicine", "medical_genetics",
                    "professional_medicine", "virology"):  # fmt: skip
        for split in ("test", "dev"):
            put(
                folder / "mmlu-medical-full" / split / f"{subject}_{split}.csv", f'"Why {subject} {split}?",a,b,c,d,C\n'
            )
    expert = {"id": "MM-1", "question": "What is shown?", "options": {"A": "a", "B": "b"}, "label": "A",
              "images": ["MM-1-a.jpeg"], "body_system": "Skeletal"}  # fmt: skip
    put(folder / "medxpertqa" / "MM" / "test.jsonl", lines(expert))
    put(folder / "medxpertqa" / "Text" / "test.jsonl", lines({**expert, "id": "Text-1", "images": []}))
    head = "sample_id,split,question_type,question_clean,answer_options,correct_answer,specialty"
    options = json.dumps({"option1": "a", "option2": "b"}).replace('"', '""')
    put(folder / "afrimed-qa" / "afri.csv", f'{head}\ni1,test,mcq,Why?,"{options}",option2,Surgery\n')


@pytest.mark.parametrize(
    ("name", "answer", "n"),
    [
        ("medqa", "B", 1),
        ("medmcqa", "D", 1),
        ("pubmedqa", "B", 1),
        ("mmlu-medical", "C", 7),
        ("medxpertqa-text", "A", 1),
        ("medxpertqa-mm", "A", 1),
        ("afrimed-qa", "B", 1),
    ],
)
def test_multiple_choice_releases(tmp_path: Path, name: str, answer: str, n: int) -> None:
    multiple_choice(tmp_path)
    items = items_of(tmp_path, name)
    assert len(items) == n and {item.reference for item in items} == {answer}
    assert score(name, items, f"Final Answer: ({answer})")["accuracy"] == 1
    assert score(name, items, "Final Answer: (Z)")["unparsed"] == 1
    assert [len(item.files) for item in items] == [int(name == "medxpertqa-mm")] * n


@pytest.mark.parametrize("name", ["medqa", "medmcqa", "pubmedqa", "mmlu-medical"])
def test_likelihood_of_releases_with_and_without_examples(tmp_path: Path, name: str) -> None:
    multiple_choice(tmp_path)
    (bare, *_), (shown, *_) = (items_of(tmp_path, f"{name}-likelihood", num_fewshot=k) for k in (0, 1))
    assert bare.prompt.endswith("Answer:") and shown.prompt.endswith("Answer:")
    example, _, question = shown.prompt.rpartition("\n\n")
    assert example.split()[-1] == {"medqa": "C", "medmcqa": "D", "pubmedqa": "yes", "mmlu-medical": "C"}[name]
    assert bare.prompt.endswith(question)
    expected = (" yes", " no", " maybe") if name == "pubmedqa" else (" A", " B", " C", " D")
    assert bare.choices == expected


def test_a_generated_row_shows_examples_with_their_answers(tmp_path: Path) -> None:
    multiple_choice(tmp_path)
    (item,) = items_of(tmp_path, "medqa", num_fewshot=1)
    assert item.prompt.index("Why train?") < item.prompt.index("Final Answer: (C)") < item.prompt.index("Why test?")
    with pytest.raises(ValueError, match="has no part to take examples from"):
        items_of(tmp_path, "afrimed-qa", num_fewshot=1)


def test_the_mean_over_subjects_is_not_the_mean_over_questions(tmp_path: Path) -> None:
    multiple_choice(tmp_path)
    more = "\n".join(f'"Why more {n}?",a,b,c,d,A' for n in range(3))
    put(tmp_path / "mmlu-medical-full" / "test" / "virology_test.csv", f'"Why virology?",a,b,c,d,C\n{more}\n')
    items = items_of(tmp_path, "mmlu-medical")
    found = score("mmlu-medical", items, "Final Answer: (C)")
    assert found["accuracy"] == pytest.approx(7 / 10)
    assert found["accuracy_mean_over_subjects"] == pytest.approx((6 + 1 / 4) / 7)


def vqa_rad(folder: Path) -> None:
    row = {"phrase_type": "freeform", "image_case_url": "case/1", "image_name": "a.jpg", "image_organ": "CHEST",
           "question": "Is it?", "question_type": "PRES", "answer": "Yes", "answer_type": "CLOSED"}  # fmt: skip
    rows = [
        {**row, "qid": 7},
        {**row, "qid": 8, "phrase_type": "test_para", "answer_type": "OPEN", "answer": "left lung"},
    ]
    put(folder / "vqa-rad-full" / "VQA_RAD Dataset Public.json", json.dumps(rows))
    table = "QID_unique\tSPLIT_BALANCED\tINCLUDED_IN_HUMAN_EVAL\n7\ttest\tTRUE\n8\ttrain\tFALSE\n"
    put(folder / "vqa-rad-balanced" / "vqa_rad_balanced_split_and_human_eval_inclusions.tsv", table)


def test_every_reading_of_vqa_rads_split(tmp_path: Path) -> None:
    vqa_rad(tmp_path)
    sides = {side: [i.item_id for i in items_of(tmp_path, "vqa-rad-release", side)] for side in ("balanced-test",
             "balanced-train", "balanced-all", "official-test", "official-train", "all")}  # fmt: skip
    assert sides["balanced-test"] == sides["official-train"] == ["vqa-rad-7"]
    assert sides["balanced-train"] == sides["official-test"] == ["vqa-rad-8"]
    assert sorted(sides["balanced-all"]) == sorted(sides["all"]) == ["vqa-rad-7", "vqa-rad-8"]
    items = items_of(tmp_path, "vqa-rad-release", "all")
    assert items[0].prompt == f"{VQA_RAD_PREAMBLE}\nQuestion: Is it?"
    found = score("vqa-rad-release", items, "yes")
    assert (found["token_f1_squad"], found["closed_accuracy"], found["open_token_recall"]) == (0.5, 1, 0)
    table = tmp_path / "vqa-rad-balanced" / "vqa_rad_balanced_split_and_human_eval_inclusions.tsv"
    table.write_text("QID_unique\tSPLIT_BALANCED\tINCLUDED_IN_HUMAN_EVAL\n7\ttest\tTRUE\n")
    with pytest.raises(
        ValueError, match=r"1 question\(s\) are in it or in the release but not in both, such as vqa-rad-8"
    ):
        items_of(tmp_path, "vqa-rad-release", "balanced-test")


def test_slake_and_path_vqa(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    row = {"img_name": "xmlab1/source.jpg", "question": "Which organ?", "answer": "Liver", "q_lang": "en",
           "location": "Abdomen", "answer_type": "OPEN", "qid": 1, "content_type": "Organ"}  # fmt: skip
    put(tmp_path / "slake" / "test.json", json.dumps([row, {**row, "qid": 2, "q_lang": "zh"}]))
    (item,) = items_of(tmp_path, "slake")
    assert item.prompt == f"Which organ?\n{FINAL_ANSWER}"
    assert score("slake", [item], "I reason.\nFinal Answer: the liver")["token_f1_squad"] == 1

    (tmp_path / "path-vqa" / "data").mkdir(parents=True)
    rows = [{"image": {"bytes": b"jpeg", "path": None}, "question": q, "answer": a} for q, a in (("Is it?", "Yes"),
            ("What?", "made up"))]  # fmt: skip
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "path-vqa" / "data" / "test-0.parquet")
    first, second = items_of(tmp_path, "path-vqa")
    assert first.files == second.files and Path(first.files[0]).read_bytes() == b"jpeg"
    assert {first.kind, second.kind} == {"closed", "open"} and first.group == second.group
    again = items_of(tmp_path, "path-vqa")
    assert [item.files for item in again] == [first.files, second.files]


def observations(values: dict[str, str]) -> str:
    return ",".join(values.get(name, "") for name in CHEXPERT_OBSERVATIONS)


def test_uncertain_and_missing_labels_are_left_out_or_negative(tmp_path: Path) -> None:
    folder = tmp_path / "mimic-cxr-jpg"
    head = "dicom_id,subject_id,study_id"
    put(
        folder / "mimic-cxr-2.0.0-metadata.csv",
        f"{head},ViewPosition\nd1,10000001,50000001,PA\nd2,10000001,50000001,LL\n",
    )
    put(folder / "mimic-cxr-2.0.0-split.csv", f"{head},split\nd1,10000001,50000001,test\nd2,10000001,50000001,test\n")
    names = ",".join(CHEXPERT_OBSERVATIONS)
    values = observations({"Edema": "1.0", "Consolidation": "-1.0", "Atelectasis": "0.0"})
    put(folder / "mimic-cxr-2.0.0-chexpert.csv", f"subject_id,study_id,{names}\n10000001,50000001,{values}\n")
    negative = {i.meta["condition"]: i.reference for i in items_of(tmp_path, "mimic-cxr-conditions")}
    assert negative == {"atelectasis": "no", "cardiomegaly": "no", "consolidation": "no", "edema": "yes",
                        "pleural effusion": "no"}  # fmt: skip
    labelled = {i.meta["condition"]: i.reference for i in items_of(tmp_path, "mimic-cxr-conditions-labelled")}
    assert labelled == {"atelectasis": "no", "edema": "yes"}
    findings = {i.meta["label_set"]: i.reference for i in items_of(tmp_path, "zero-shot-mimic-cxr-findings")}
    assert findings == {"atelectasis": "absent", "edema": "present"}


def test_chexpert_test_and_valid(tmp_path: Path) -> None:
    folder = tmp_path / "chexpert"
    values = observations(dict.fromkeys(CHEXPERT_OBSERVATIONS, "0") | {"Edema": "1"})
    rows = [f"test/patient64741/study1/view1_{view}.jpg,{values}" for view in ("frontal", "lateral")]
    put(folder / "groundtruth.csv", "\n".join([f"Path,{','.join(CHEXPERT_OBSERVATIONS)}", *rows]) + "\n")
    items = items_of(tmp_path, "chexpert-conditions")
    assert len(items) == 10 and len({item.item_id for item in items}) == 10
    assert {item.group for item in items} == {"chexpert_patient64741"}
    assert Path(items[0].files[0]).parts[-4:-1] == ("test", "patient64741", "study1")
    assert len(items_of(tmp_path, "zero-shot-chexpert-findings")) == 13  # the frontal film alone
    found = score("chexpert-conditions", items, "Final Answer: yes")
    assert (found["macro_f1"], found["macro_recall"], found["accuracy"]) == (1, 1, 0.2)
    put(folder / "groundtruth.csv", f"Path,{','.join(CHEXPERT_OBSERVATIONS)}\ntrain/x.jpg,{values}\n")
    with pytest.raises(ValueError, match=r"groundtruth.csv: record 1 has Path 'train/x.jpg'; expected test/patient"):
        read_chexpert_test(folder)
    path = "CheXpert-v1.0-small/valid/patient1/study1/view1_frontal.jpg"
    head = "Path,Sex,Age,Frontal/Lateral,AP/PA," + ",".join(CHEXPERT_OBSERVATIONS)
    put(folder / "valid.csv", f"{head}\n{path},Female,87,Frontal,AP,{observations({'Edema': '1.0'})}\n")
    (item,) = items_of(tmp_path, "chexpert-conditions", "valid")
    assert (item.meta["sex"], item.meta["age_band"], item.meta["view"]) == ("F", "80+", "AP")


def test_radiologists_labels_of_cxr14_and_siim(tmp_path: Path) -> None:
    head = "Image Index,Patient ID,Fracture,Pneumothorax,Airspace opacity,Nodule or mass"
    for split, row in (
        ("test", "00000013_008.png,13,NO,YES,NO,NO"),
        ("validation", "00000014_000.png,14,YES,NO,NO,NO"),
    ):
        name = f"four_findings_expert_labels_{split}_labels.csv"
        put(tmp_path / "nih-chestxray14" / name, f"{head}\n{row}\n")
    answers = {
        i.meta["condition"]: (i.prompt.splitlines()[0], i.reference) for i in items_of(tmp_path, "cxr14-conditions")
    }
    assert answers == {
        "lung opacity": ("Is there lung opacity in this image?", "no"),
        "pneumothorax": ("Is there pneumothorax in this image?", "yes"),
        "fracture": ("Are there any fractures in the image?", "no"),
    }
    assert {i.group for i in items_of(tmp_path, "cxr14-conditions", "val")} == {"nih_00014"}
    put(tmp_path / "siim-acr-pneumothorax" / "stage_2_train.csv", "ImageId,EncodedPixels\nx,-1\ny,1 2\n")
    films = items_of(tmp_path, "siim-pneumothorax", "all")
    assert sorted(item.reference for item in films) == ["no", "yes"]
    assert score("siim-pneumothorax", films, "yes")["macro_f1"] == pytest.approx(2 / 3)


def test_tissue_and_skin(tmp_path: Path) -> None:
    for label in ("ADI", "TUM"):
        put(tmp_path / "nct-crc-he" / "CRC-VAL-HE-7K" / label / f"{label}-1.tif", "")
    items = items_of(tmp_path, "nct-crc")
    assert items[0].prompt.splitlines()[1] == "A: adipose" and items[0].prompt.splitlines()[9].startswith(
        "I: colorectal"
    )
    found = score("nct-crc", items, "I: colorectal adenocarcinoma epithelium")
    assert (found["accuracy"], found["weighted_f1"], found["unparsed"]) == (0.5, pytest.approx(1 / 3), 0)
    assert TASKS["probe-nct-crc"].trained_on == "NCT-CRC-HE-100K"
    head = "lesion_id,image_id,dx,dx_type,age,sex,localization"
    put(tmp_path / "ham10000" / "HAM10000_metadata.csv", f"{head}\nHAM_1,ISIC_1,mel,histo,55.0,male,back\n")
    (item,) = items_of(tmp_path, "ham10000", "all")
    assert (item.reference, item.meta["sex"], item.meta["age_band"]) == ("mel", "M", "40-64")
    assert score("ham10000", [item], "The most likely diagnosis is: melanoma")["accuracy"] == 1
    (by_caption,) = items_of(tmp_path, "zero-shot-ham10000", "all")
    assert "mel: a skin lesion: melanoma; dermatoscopy of melanoma" in by_caption.prompt


def test_retinopathy_grades_have_a_weighted_kappa() -> None:
    def graded(reference: str, letter: str) -> Answered:
        item = Item(f"{reference}{letter}", (), "p", reference, "closed", reference + letter, {"card": "fundus-dr"})
        return Answered(item, Output(item.item_id, "s", "m", text=f"The most likely diagnosis is: {letter}"))

    right = [graded(grade, letter) for grade, letter in zip("01234", "ABCDE", strict=True)]
    off = [graded(grade, letter) for grade, letter in zip("01234", "BCDEE", strict=True)]
    unparsed = [*right[:4], graded("4", "?")]

    def kappa(pairs: list[Answered]) -> float:
        return value_of(measures(TASKS["kit-fundus"], pairs)["weighted_kappa_quadratic"])

    assert kappa(right) == 1 and kappa(right) > kappa(off) > kappa(unparsed)
    # unparsed counts as grade 0 for a reference of 4: 1 - sum(w O) / sum(w E), w = (i - j)^2 / 16, by hand
    assert kappa(unparsed) == pytest.approx(
        1 - (16 * 1) / ((0 + 1 + 4 + 9 + 16) * 2 + (1 + 0 + 1 + 4 + 9) + (4 + 1 + 0 + 1 + 4) + (9 + 4 + 1 + 0 + 1)) * 5
    )


def test_an_example_with_the_text_of_a_question_is_not_shown(tmp_path: Path) -> None:
    from evals.running.checks import demand_disjoint_groups

    multiple_choice(tmp_path)
    put(
        tmp_path / "mmlu-medical-full" / "dev" / "anatomy_dev.csv", "Why anatomy test?,d,c,b,a,B\nWhy else?,a,b,c,d,D\n"
    )
    for name in ("mmlu-medical", "mmlu-medical-likelihood"):
        items = items_of(tmp_path, name, num_fewshot=5)
        (anatomy,) = [item for item in items if item.meta["subject"] == "anatomy"]
        assert anatomy.prompt.count("Why anatomy test?") == 1
        examples = TASKS[name].items(tmp_path, ItemOptions("dev", examples_for="test"))
        demand_disjoint_groups(examples, items)
        with pytest.raises(ValueError, match="learnt from or shown as examples"):
            demand_disjoint_groups(items_of(tmp_path, name, "dev"), items)
