"""Captions of a table's rows: what they say, which are true of which picture, which are refused; ranks by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data_cards.table import Columns, Table, read_table
from finetune.tables.pair_scores import Labels, Seen, mean_reciprocal_rank, ranks_of
from finetune.tables.pairs import Pairs, captioned_rows, fitting, paired
from medsiglip.encoder import MedSigLIP
from medsiglip.nano import NANO_FOLDER

FINDINGS = [
    "file,effusion,edema,nodule,patient",
    "0.png,1,0,0,a",  # effusion
    "1.png,1,1,0,b",  # effusion, edema
    "2.png,0,0,0,c",  # no finding
    "3.png,0,,0,d",  # states nothing, and leaves edema open: no caption
    "4.png,1,,0,e",  # effusion, edema open
    "5.png,0,0,1,f",  # nodule
]
REPORTS = [
    "file,report,diagnosis,patient",
    "0.png,Small effusion on the left side.,effusion,a",
    "1.png,Large effusion that has grown.,effusion,b",
    "2.png,The lungs are clear today.,normal,c",
    "3.png,The lungs are clear today.,normal,d",
    "4.png,Something else in the apex.,,e",
]


def table_of(folder: Path, lines: list[str], *labels: str, kind: str | None = None) -> Table:
    for number in range(len(lines) - 1):
        pixels = np.random.default_rng(number).integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    (folder / "T.csv").write_text("\n".join(lines) + "\n")
    return read_table(folder / "T.csv", Columns(label=labels, group="patient", kind=kind))  # type: ignore[arg-type]


def pairs_of(table: Table, caption: str = "", same_class: str = "", template: str = "{}") -> Pairs:
    rows, _ = captioned_rows(table, caption, same_class, template)
    return paired(rows, [(number,) for number in range(len(rows))], sorted({r.class_name for r in rows} - {""}))


def relations(pairs: Pairs) -> list[list[float]]:
    everyone = torch.arange(len(pairs))
    return [[float(value) for value in row] for row in pairs.relations(everyone, everyone)]


def test_captions_of_findings_and_what_they_are_true_of(tmp_path: Path) -> None:
    table = table_of(tmp_path, FINDINGS, "effusion", "edema", "nodule")
    rows, left_out = captioned_rows(table, "", "", "a chest X-ray of {}")
    said = ["effusion", "effusion, edema", "no finding", "effusion", "nodule"]
    assert [row.caption for row in rows] == [f"a chest X-ray of {label}" for label in said]
    assert left_out == ["1 rows deny some findings, state none, and leave others open, and are left out"]
    assert relations(pairs_of(table)) == [
        # effusion, effusion with edema, no finding, effusion, nodule
        [1, -1, -1, 1, -1],
        [1, 1, -1, 1, -1],  # "effusion" is true of a picture that has edema too
        [-1, -1, 1, -1, -1],
        [1, 0, -1, 1, -1],  # whether the fourth has edema is open
        [-1, -1, -1, -1, 1],
    ]


def test_identical_reports_are_true_of_each_other_and_those_of_a_class_are_no_negatives(tmp_path: Path) -> None:
    table = table_of(tmp_path, REPORTS, "report", "diagnosis")
    assert relations(pairs_of(table, "report", "diagnosis")) == [
        [1, 0, -1, -1, -1],
        [0, 1, -1, -1, -1],
        [-1, -1, 1, 1, -1],
        [-1, -1, 1, 1, -1],
        [-1, -1, -1, -1, 1],  # rows without a class are of none
    ]
    assert relations(pairs_of(table, "report"))[0] == [1, -1, -1, -1, -1]  # control: without the column


def test_classes_become_captions(tmp_path: Path) -> None:
    lines = ["file,label,patient", "0.png,Pleural_Thickening,a", "1.png,normal,b", "2.png,normal,c"]
    pairs = pairs_of(table_of(tmp_path, lines, "label"), template="a film of {}")
    assert list(pairs.texts) == ["a film of Pleural Thickening", "a film of normal"]
    assert relations(pairs) == [[1, -1, -1], [-1, 1, 1], [-1, 1, 1]]


def test_pairs_of_another_table_are_false_unless_their_words_are_the_same(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir(), (tmp_path / "general").mkdir()
    own = pairs_of(table_of(tmp_path / "own", FINDINGS, "effusion", "edema", "nodule"))
    lines = ["file,caption,patient", "0.png,a dog in the park,a", "1.png,a cat,b", "2.png,nodule,c"]
    both = own.with_more(pairs_of(table_of(tmp_path / "general", lines, "caption", kind="text")))
    assert relations(both)[0] == [1, -1, -1, 1, -1, -1, -1, -1]
    assert relations(both)[4] == [-1, -1, -1, -1, 1, -1, -1, 1]
    assert relations(both)[5:] == [
        [-1, -1, -1, -1, -1, 1, -1, -1],
        [-1, -1, -1, -1, -1, -1, 1, -1],
        [-1, -1, -1, -1, 1, -1, -1, 1],
    ]
    assert both.sources.tolist() == [0] * 5 + [1] * 3 and len(both.texts) == 6


def test_shuffled_captions_go_to_other_pictures_with_all_they_mean(tmp_path: Path) -> None:
    pairs = pairs_of(table_of(tmp_path, FINDINGS, "effusion", "edema", "nodule"))
    shuffled = pairs.shuffled(0)
    assert sorted(shuffled.pictures) == sorted(pairs.pictures) != shuffled.pictures
    assert relations(shuffled) == relations(pairs)


def test_long_captions_are_named_cut_or_left_out(tmp_path: Path) -> None:
    encoder = MedSigLIP.from_pretrained(NANO_FOLDER, device="cpu")
    long = " ".join(["effusion"] * 70)
    table = table_of(tmp_path, [*REPORTS, f"5.png,{long},effusion,f"], "report", "diagnosis")
    rows, _ = captioned_rows(table, "report", "", "{}")
    with pytest.raises(ValueError, match=r"1 of 6 captions are longer than the 64 tokens .*: T\.csv row 7; shorten"):
        fitting(rows, encoder, "refused")
    kept, said = fitting(rows, encoder, "left-out")
    assert len(kept) == 5 and said.endswith("and are left out")
    cut, said = fitting(rows, encoder, "cut")
    assert said.endswith("and are cut there") and [row.caption for row in cut[:5]] == [row.caption for row in rows[:5]]
    assert long.startswith(cut[5].caption) and len(encoder.encode_texts(cut[5].caption)) == 1
    with pytest.raises(ValueError, match="tokens long"):
        encoder.encode_texts(f"{cut[5].caption} effusion")  # not a word more fits


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ({"template": "no place"}, r"template is 'no place'; expected one \{\}"),
        (
            {"caption": "report", "same_class": "diagnosis", "kind": "text"},
            "diagnosis is of the kind text; expected cl",
        ),
        ({}, "expected one label column, got 'report, diagnosis'"),
        ({"caption": "impression"}, "got 'impression' of report, diagnosis"),
    ],
)
def test_what_is_refused(given: dict[str, str], fault: str, tmp_path: Path) -> None:
    table = table_of(tmp_path, REPORTS, "report", "diagnosis", kind=given.get("kind"))
    with pytest.raises(ValueError, match=fault):
        captioned_rows(table, given.get("caption", ""), given.get("same_class", ""), given.get("template", "{}"))


def test_ranks_by_hand(tmp_path: Path) -> None:
    """Four reports of three texts; a false one that is as near counts as nearer."""
    pairs = pairs_of(table_of(tmp_path, REPORTS[:5], "report", kind="text"))
    images = np.array([[1, 0], [0, 1], [0.6, 0.8], [1, 0]], np.float32)
    texts = np.array([[1, 0], [0, 1], [0.8, 0.6]], np.float32)
    found = ranks_of(Seen(images, texts, np.zeros((0, 2), np.float32)), pairs)
    # picture 2: its text 0.96, the others 0.6 and 0.8; picture 3: its text 0.8, the first 1.0 is nearer
    assert found["picture to caption"].tolist() == [1, 1, 1, 2]
    # text 0: picture 0 at 1.0, and picture 3, which is not its own, as near; text 2: picture 2 at 0.96
    assert found["caption to picture"].tolist() == [2, 1, 1, 1]
    mean = ((1 + 1 + 1 + 0.5) / 4 + (0.5 + 1 + 1 + 1) / 4) / 2
    assert mean_reciprocal_rank(Seen(images, texts, texts), pairs) == pytest.approx(mean)


def test_labels_are_what_the_rows_say(tmp_path: Path) -> None:
    table = table_of(tmp_path, FINDINGS, "effusion", "edema", "nodule")
    rows, _ = captioned_rows(table, "", "", "an X-ray of {}")
    labels = Labels.of(rows, table.target(), "an X-ray of {}")
    assert labels.captions == ("an X-ray of effusion", "an X-ray of edema", "an X-ray of nodule")
    np.testing.assert_array_equal(labels.values[3], [1, np.nan, 0])
    assert Labels.of(rows, None, "{}").names == ()
