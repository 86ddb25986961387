"""Reports from labels: what is written, what a report is read to say, F1 by hand, repeats, the owners' layout."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evals.items import Item
from evals.measures import Answered
from evals.outputs import Output
from evals.results.scores import measures, value_of
from evals.tasks.catalogue import TASKS
from evals.tasks.chest_films import NIH14_CONDITIONS
from evals.tasks.label_reports import (
    NOTHING,
    SAID_AS,
    conditions_said,
    repeated_share,
    report_of,
    sentences,
    without_repeats,
)
from evals.tasks.task import ItemOptions

TASK = TASKS["kit-nih14-label-report"]


def test_a_report_says_its_conditions_and_nothing_else() -> None:
    assert report_of(["pneumonia", "pleural effusion", "mass"]) == (
        "Findings: There is pneumonia. There is pleural effusion. There is mass.\n"
        "Impression: Pneumonia, pleural effusion and mass."
    )
    assert conditions_said(NOTHING) == frozenset() and SAID_AS.keys() == NIH14_CONDITIONS.keys()
    for condition in SAID_AS:
        assert conditions_said(report_of([condition])) == {condition}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("No pneumothorax. Small left effusion.", {"pleural effusion"}),
        ("There is no edema or consolidation.", set()),
        ("Not enlarged heart", set()),
        ("The heart is not large but there is atelectasis.", {"atelectasis"}),
        ("Bibasilar atelectatic change, without effusion", {"atelectasis"}),
        ("Pleural thickening and oedema; fibrotic scar", {"pleural thickening", "edema", "fibrosis"}),
        ("Massive heart", set()),
        ("", set()),
    ],
)
def test_what_a_report_is_read_to_say(text: str, said: set[str]) -> None:
    assert conditions_said(text) == said


def test_repeats_are_counted_and_taken_out() -> None:
    text = "Findings: There is edema. There is edema. There is mass.\nImpression: there is  edema."
    assert sentences(text) == ["There is edema.", "There is edema.", "There is mass.", "there is  edema."]
    assert repeated_share(text) == 0.5 and repeated_share("") == 0
    assert without_repeats("There is edema. Clear. There is edema.\nClear. New.") == "There is edema. Clear.\nNew."
    assert without_repeats(NOTHING) == NOTHING


def item(number: int, *conditions: str) -> Item:
    meta = {"card": "cxr-nih14", "normality": ""}
    return Item(f"f{number}", (), "", report_of(conditions), "open", f"p{number}", meta)


def test_f1_by_hand() -> None:
    """Three films: one of two found with a false one; both empty; one missed and nothing said at all."""
    items = [item(0, "edema", "mass"), item(1), item(2, "mass")]
    texts = ["There is edema. There is hernia.", "No finding.", ""]
    outputs = [Output(one.item_id, "", "m", text=text) for one, text in zip(items, texts, strict=True)]
    assert [TASK.grade(one, out)["finding_f1"] for one, out in zip(items, outputs, strict=True)] == [0.5, 1, 0]
    assert TASK.grade(items[1], Output("f1", "", "m", text=" "))["finding_f1"] == 0  # silence is no normal report
    found = {name: value_of(m) for name, m in measures(TASK, [*map(Answered, items, outputs)]).items()}
    assert found["finding_f1"] == 0.5 and found["repeated"] == 0
    assert found["micro_f1"] == pytest.approx(2 * 1 / (2 + 3)) and found["micro_precision"] == 0.5
    assert found["micro_recall"] == pytest.approx(1 / 3)
    assert found["macro_f1"] == 0.5  # edema 1, mass 0; hernia is on no film


def test_the_owners_folder_is_read_by_their_split(tmp_path: Path) -> None:
    folder = tmp_path / "nih-chestxray14"
    (folder / "images_001" / "images").mkdir(parents=True)
    rows = ["Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position"]
    for number, labels in enumerate(["Effusion|Mass", "No Finding", "Pneumonia"], start=1):
        name = f"0000000{number}_000.png"
        rows.append(f"{name},{labels},0,{number},50,M,PA")
        Image.fromarray(np.full((8, 8), 90, np.uint8)).save(folder / "images_001" / "images" / name)
    (folder / "Data_Entry_2017_v2020.csv").write_text("\n".join(rows) + "\n")
    (folder / "train_val_list.txt").write_text("00000001_000.png\n00000002_000.png\n")
    (folder / "test_list.txt").write_text("00000003_000.png\n")
    task = TASKS["nih14-label-report"]
    train, test = (task.items(tmp_path, ItemOptions(side)) for side in ("train", "test"))
    assert [one.reference for one in test] == [report_of(["pneumonia"])]
    assert {one.reference for one in train} == {report_of(["pleural effusion", "mass"]), NOTHING}


@pytest.mark.kit
def test_the_kits_references_are_right_and_the_commonest_is_not(kit: Path) -> None:
    items = TASK.items(kit, ItemOptions("held-out"))
    normal = sum(one.meta["normality"] == "normal" for one in items) / len(items)
    for text, expected in ((None, 1.0), (NOTHING, normal)):
        answered = [Answered(i, Output(i.item_id, "", "m", text=text or i.reference)) for i in items]
        assert value_of(measures(TASK, answered)["finding_f1"]) == pytest.approx(expected)
