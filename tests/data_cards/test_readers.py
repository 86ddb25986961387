import gzip
import json
import re
from hashlib import sha256
from pathlib import Path

import pytest

from data_cards.readers.pictures import (
    PICTURE_READERS,
    read_labelled_pictures,
    read_lung_histology,
    read_mednist,
)
from data_cards.readers.tables import find_set, read_csv, read_json_array, read_json_lines
from data_cards.readers.text import read_medquad, read_mts_dialog, read_pubmedqa
from data_cards.readers.vqa_rad import read_vqa_rad
from data_cards.split import side
from evals.tasks.picture_questions import facts

MEDNIST = "file,label,label_text,group,licence\nimages/a.jpg,CXR,chest X-ray,CXR_block00,CC BY-SA 4.0\n"


def test_find_set_takes_the_parent_or_the_folder_itself(tmp_path: Path) -> None:
    own = tmp_path / "vqa-rad"
    own.mkdir()
    (own / "labels.csv").touch()
    assert find_set(tmp_path, "vqa-rad") == own == find_set(own, "vqa-rad")
    with pytest.raises(ValueError, match="no data set 'medquad'.*medgemma-data show medquad"):
        find_set(tmp_path, "medquad")


def test_mednist_row(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text(MEDNIST)
    (picture,) = read_mednist(tmp_path)
    assert picture.path == tmp_path / "images/a.jpg"
    assert picture.labels == {"label": "CXR", "label_text": "chest X-ray"}
    assert (picture.group, picture.picture_id) == ("modality-mednist/CXR_block00", "modality-mednist/a.jpg")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MEDNIST.replace(",group,", ",block,"), "has no column group"),
        (MEDNIST.replace("CXR_block00", ""), "record 1 has an empty 'group'"),
        (MEDNIST + "images/b.jpg,CXR\n", "row 3 has not as many cells"),
        (MEDNIST.splitlines()[0] + "\n", "has no rows"),
    ],
)
def test_broken_tables_are_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(ValueError, match=f"labels.csv: .*{message}"):
        read_mednist(tmp_path)


def test_missing_and_misencoded_tables(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="labels.csv: no such file"):
        read_lung_histology(tmp_path)
    (tmp_path / "labels.csv").write_bytes(b"file,group\n\xff\xfe,g\n")
    with pytest.raises(ValueError, match="no UTF-8 CSV"):
        read_csv(tmp_path / "labels.csv", ("file",))


def test_byte_order_mark_of_spreadsheets_is_taken(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text(MEDNIST, encoding="utf-8-sig")
    assert len(read_mednist(tmp_path)) == 1


def test_json_lines_faults_name_the_line(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"id": "1"}\n{"id": \n'))
    with pytest.raises(ValueError, match="line 2 is no JSON"):
        read_json_lines(path, ("id",))
    path.write_bytes(gzip.compress(b'{"id": "1"}\n[1]\n'))
    with pytest.raises(ValueError, match="line 2 has no field id"):
        read_json_lines(path, ("id",))
    whole = gzip.compress(sha256(b"").hexdigest().encode() * 9)
    for broken in (whole[:-12], whole[:30] + b"\xff" * 9 + whole[39:], b"not gzip"):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match="train.jsonl.gz: "):
            read_json_lines(path, ("id",))
        with pytest.raises(ValueError, match="train.jsonl.gz: "):
            read_csv(path, ("id",))
        with pytest.raises(ValueError, match="train.jsonl.gz: "):
            read_json_array(path, ("id",))


def test_same_dialogue_is_one_group_whatever_its_white_space(tmp_path: Path) -> None:
    rows = [
        {"id": i, "section": "ROS", "dialogue": d, "note": "n"}
        for i, d in (("a", "D: Hi. \nP: No."), ("b", "D: Hi.\nP:  No."))
    ]
    (tmp_path / "val.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    first, second = read_mts_dialog(tmp_path, "val")
    assert first.group == second.group and first.item_id != second.item_id


@pytest.mark.kit
@pytest.mark.parametrize("name", sorted(PICTURE_READERS))
def test_kit_pictures_have_files_and_every_side(kit: Path, name: str) -> None:
    pictures = read_labelled_pictures(kit, name)
    assert all(picture.path.is_file() and picture.group for picture in pictures)
    assert len({picture.picture_id for picture in pictures}) == len(pictures)
    if name == "cxr-covid":
        return  # five normal films: no division of them is promised
    for label in {picture.labels.get("label", "") for picture in pictures}:
        sides = {side(p.group) for p in pictures if p.labels.get("label", "") == label}
        assert "train" in sides and len(sides) > 1, label


@pytest.mark.kit
def test_nih_sets_share_patients_under_the_same_group(kit: Path) -> None:
    small, large = (read_labelled_pictures(kit, name) for name in ("cxr-nih14-64px", "cxr-nih14"))
    assert {p.group for p in small} & {p.group for p in large}


@pytest.mark.kit
def test_kit_text_sets(kit: Path) -> None:
    questions = read_medquad(kit / "medquad")
    assert len({question.item_id for question in questions}) == len(questions) == 5000
    held = {question.group for question in read_medquad(kit / "medquad", "val")}
    assert not held & {question.group for question in questions}
    abstract = read_pubmedqa(kit / "pubmedqa", "val")[0]
    assert abstract.context.startswith("BACKGROUND: ") and abstract.answer in ("yes", "no", "maybe")
    assert len(read_mts_dialog(kit / "mts-dialog", "test1")) == 200


@pytest.mark.kit
def test_kit_vqa_rad(kit: Path) -> None:
    questions = read_vqa_rad(kit / "vqa-rad")
    assert len({q.item_id for q in questions}) == 1513 and len({q.group for q in questions}) == 219
    assert sum(q.answer_type == "CLOSED" for q in questions) == 884
    assert all(q.path.is_file() for q in questions)


def test_a_picture_of_vqa_rad_is_one_however_often_it_is_asked_about(tmp_path: Path) -> None:
    rows = (
        ("images/synpic39757.jpg", "HEAD", "a"),
        ("images/synpic39757.jpg", "HEAD", "a"),
        ("images/synpic57317.jpg", "HEAD", "b"),
        ("images/new.jpg", "CHEST", "c"),
    )
    lines = [f"{file},{organ},{case},CC0 1.0" for file, organ, case in rows]
    (tmp_path / "labels.csv").write_text("\n".join(("file,organ,patient_id,licence", *lines)) + "\n")
    pictures = PICTURE_READERS["vqa-rad"](tmp_path)
    assert [picture.group for picture in pictures] == ["a", "b", "c"]
    assert [facts(picture) for picture in pictures] == [
        {"body_part": "head", "modality": "CT"},
        {"body_part": "head", "modality": "MRI"},
        {"body_part": "chest"},  # read by nobody
    ]


@pytest.mark.kit
def test_vqa_rads_modalities_are_those_of_its_questions(kit: Path) -> None:
    """The modality was read by eye; the questions that name it are another's word."""
    words = {"CT": r"\bct\b", "MRI": r"\bmri\b|\bflair\b|\bdwi\b", "X-ray": r"\bx-?\s?ray\b|\bplain film\b|\bcxr\b"}
    modality_of = {picture.path: picture.labels["modality"] for picture in read_labelled_pictures(kit, "vqa-rad")}
    assert len(modality_of) == 220 and set(modality_of.values()) == set(words)
    named = [
        (modality, modality_of[question.path])
        for question in read_vqa_rad(kit / "vqa-rad")
        if "MODALITY" not in question.question_type  # those may ask whether it is another
        for modality, pattern in words.items()
        if re.search(pattern, question.question.lower())
    ]
    assert len(named) > 20 and all(said == seen for said, seen in named)
