"""`medgemma-data overlap`: planted copies under eight edits are found, others are not; what is refused and written."""

import io
import json
import random
import re
import string
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from numpy.typing import NDArray

from data_cards.cli import main
from data_cards.overlap.check import demand_writable, overlap, write_without
from data_cards.overlap.pictures import Maps, correlation, find_copies, maps_of, read_grey
from data_cards.overlap.texts import find_shared, pairs_of
from data_cards.table import read_table
from data_cards.table.cards import read_card, records_of
from tests.data_cards.table.made import table_file

Grey = NDArray[np.float32]


def words_changed(parts: Sequence[str]) -> list[str]:
    """One word of ten in the question, two at least."""
    words, draw = parts[0].split(), random.Random(parts[0])
    for place in draw.sample(range(len(words)), min(len(words), max(2, len(words) // 10))) if len(words) >= 8 else ():
        words[place] = "another"
    return [" ".join(words), *parts[1:]]


TEXT_EDITS: dict[str, Callable[[Sequence[str]], list[str]]] = {
    "case": lambda parts: [part.upper() for part in parts],
    "punctuation": lambda parts: [re.sub(f"[{re.escape(string.punctuation)}]", " ", part) for part in parts],
    "white space": lambda parts: ["  ".join(part.split()) + "\n" for part in parts],
    "words changed": words_changed,
    "options reordered": lambda parts: [parts[0], *parts[:0:-1]],
    "wrapped": lambda parts: [f"You are a doctor. Answer with a letter. {parts[0]} Think first.", *parts[1:]],
    "cut": lambda parts: [parts[0][: len(parts[0]) * 4 // 5], *parts[1:]],
    "an option less": lambda parts: list(parts[:-1]),
}


def jpeg(grey: Grey) -> Grey:
    buffer = io.BytesIO()
    PIL.Image.fromarray(grey.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=40)
    return np.asarray(PIL.Image.open(buffer), np.float32)


def resized(grey: Grey, times: float) -> Grey:
    size = round(grey.shape[1] * times), round(grey.shape[0] * times)
    return np.asarray(PIL.Image.fromarray(grey).resize(size, PIL.Image.Resampling.BICUBIC), np.float32)


def cropped(grey: Grey) -> Grey:
    rows, columns = (round(0.05 * side) for side in grey.shape)
    return grey[rows:-rows, columns:-columns]


def windowed(grey: Grey) -> Grey:
    low, high = np.percentile(grey, (20, 90))
    return ((grey - low) / (high - low + 1e-6)).clip(0, 1) * 255


PICTURE_EDITS: dict[str, Callable[[Grey], Grey]] = {
    "JPEG": jpeg,
    "half the size": lambda grey: resized(grey, 0.5),
    "twice the size": lambda grey: resized(grey, 2.0),
    "crop of 5 %": cropped,
    "brightness": lambda grey: (grey * 1.3 + 20).clip(0, 255),
    "window": windowed,
    "mirrored": lambda grey: grey[:, ::-1],
    "inverted": lambda grey: 255 - grey,
}


@pytest.mark.kit
def test_copies_of_texts_are_found_and_others_are_not(kit: Path) -> None:
    rows = [row for name in ("medmcqa", "medqa-usmle", "pubmedqa") for row in read_card(name, kit).rows]
    random.Random(0).shuffle(rows)
    parts = [[row.question, *(row.choices or [row.answer])] for row in rows[:900]]
    theirs, others = [pairs_of(part) for part in parts[::2]], [pairs_of(part) for part in parts[1::2]]
    for name, edit in TEXT_EDITS.items():
        mine = [pairs_of(edit(part)) for part in parts[:400:2]]
        found = {one.mine for one in find_shared(mine, theirs) if one.theirs == one.mine}
        assert len(found) >= 0.95 * len(mine), f"{name}: {len(found)} of {len(mine)}"
    assert len(find_shared(others, theirs)) <= 0.01 * len(others)


@pytest.mark.kit
@pytest.mark.slow
def test_copies_of_pictures_are_found_and_others_are_not(kit: Path) -> None:
    greys: list[Grey] = []
    for name in ("cxr-nih14", "derm-ham10000", "histo-lc25000-lung"):
        first = {row.group: row.files[0] for row in read_table(kit / name / "labels.csv").rows}
        greys += [read_grey(file) for file in random.Random(0).sample(sorted(first.values()), 60)]
    maps = [maps_of(grey) for grey in greys]
    theirs, others = maps[::2], maps[1::2]
    assert len(find_copies(others, theirs)) <= 0.04 * len(others)
    for name, edit in PICTURE_EDITS.items():
        mine = [maps_of(edit(grey)) for grey in greys[::6]]
        found = [one for one in find_copies(mine, theirs) if one.theirs == 3 * one.mine]
        assert len(found) >= 0.95 * len(mine), f"{name}: {len(found)} of {len(mine)}"


def noise(seed: int) -> Grey:
    """A picture of blobs, 12 bits."""
    from scipy.ndimage import gaussian_filter

    values = gaussian_filter(np.random.default_rng(seed).normal(size=(160, 200)), 4)
    return ((values - values.min()) / np.ptp(values) * 4095).astype(np.float32)


def test_a_dicom_and_its_export_are_one_picture(tmp_path: Path) -> None:
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    values = noise(1).astype(np.uint16)
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    made.Rows, made.Columns = values.shape
    made.BitsAllocated, made.BitsStored, made.HighBit = 16, 12, 11
    made.SamplesPerPixel, made.PixelRepresentation, made.PhotometricInterpretation = 1, 0, "MONOCHROME1"
    made.PixelData = values.tobytes()
    made.save_as(tmp_path / "film.dcm", enforce_file_format=True)
    PIL.Image.fromarray((255 - windowed(values.astype(np.float32))).astype(np.uint8)).save(tmp_path / "film.png")
    one, other = (maps_of(read_grey(tmp_path / name)) for name in ("film.dcm", "film.png"))
    assert correlation(one, other) > 0.9
    assert correlation(one, maps_of(noise(2))) < 0.6
    (tmp_path / "none.png").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"none\.png: cannot be read as a picture"):
        read_grey(tmp_path / "none.png")


def test_small_pictures_must_stand_out_further() -> None:
    def maps(seed: int) -> Maps:
        return maps_of(noise(seed))

    theirs = [maps(seed) for seed in range(20)]
    mixed = maps_of(noise(3) + 0.9 * noise(50))
    assert [one.theirs for one in find_copies([mixed], theirs)] == [3]
    assert find_copies([mixed._replace(is_small=True)], theirs) == []
    assert [one.theirs for one in find_copies([maps(3)._replace(is_small=True)], theirs)] == [3]
    assert find_copies([mixed], theirs[:5]) == [] and len(find_copies([maps(3)], theirs[:5])) == 1


QUESTIONS = [
    "Which nerve supplies the deltoid muscle of the shoulder in most adults?",
    "Which drug is given first for status epilepticus in a child with a line?",
]


@pytest.mark.kit
def test_the_command_names_shared_rows_and_writes_the_table_without_them(
    kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row = next(row for row in read_card("medmcqa", kit).rows if row.split != "train" and len(row.question) > 60)
    text = row.question.upper().replace('"', "'").replace("\n", " ")
    made = f'question,answer\n"{QUESTIONS[0]}",x\n"{text}",y\n"{QUESTIONS[1]}\nIn two lines.",z\n'
    table, out = table_file(tmp_path, made), tmp_path / "clean.csv"
    words = ["medgemma-data", "overlap", str(table), "--data", str(kit), "--card", "medmcqa"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    assert ended.value.code == 1
    assert "shared: T.csv row 3: text of medmcqa record" in said.out and "1 of 3 rows are shared" in said.out
    monkeypatch.setattr(sys, "argv", [*words, "--exclude", str(out)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code in (0, None) and "2 rows" in capsys.readouterr().out
    assert [one.question for one in read_table(out).rows] == [QUESTIONS[0], f"{QUESTIONS[1]}\nIn two lines."]
    assert overlap(read_table(out), kit, ["medmcqa"]).shared == ()


def test_what_cannot_be_written_or_compared_is_refused(tmp_path: Path) -> None:
    table = read_table(table_file(tmp_path, f"question,answer\n{QUESTIONS[0]},x\n{QUESTIONS[1]},y\n"))
    for out, message in ((table.source, "is the table itself"), (tmp_path / "out.txt", r"ends in \.csv")):
        with pytest.raises(ValueError, match=message):
            demand_writable(table, out)
    with pytest.raises(ValueError, match="no evaluation set with rows is there"):
        overlap(table, tmp_path)
    lines = table_file(tmp_path, f'{{"question": "{QUESTIONS[0]}", "answer": "x"}}\n' * 2, "T.jsonl")
    assert write_without(read_table(lines), {"T.jsonl line 2"}, tmp_path / "out.jsonl") == 1
    assert (tmp_path / "out.jsonl").read_text(encoding="utf-8").count("\n") == 1


@pytest.mark.kit
def test_dialogues_and_reports_are_compared_too(kit: Path, tmp_path: Path) -> None:
    note = next(record for record in records_of("mts-dialog", kit / "mts-dialog") if len(record.dialogue.split()) > 60)
    table = read_table(
        table_file(tmp_path, json.dumps({"question": note.dialogue.lower(), "answer": "x"}) + "\n", "T.jsonl")
    )
    (found,) = overlap(table, kit, ["mts-dialog"]).shared
    assert found.what.startswith("text of mts-dialog record")
