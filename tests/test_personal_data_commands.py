"""Every command over files that name a patient: nothing of the identity in what it says or writes."""

import base64
import io
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from random import Random
from zlib import crc32

import pytest

from tests import tiny
from tests.medsiglip.imaging import fuzz_dicom, fuzz_series, fuzz_zip
from tests.personal_data import FUZZ_IDENTITY, search_for
from tests.personal_data_files import texts_of

Run = Callable[..., tuple[int, str]]
NAME = FUZZ_IDENTITY["PatientName"]


@pytest.fixture(scope="module")
def study() -> Iterator[Path]:
    """Good and bad files, away from what is searched: they are full of the identity."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for format in ("dicom-implicit", "dicom-rle", "dicom-jpeg-2000", "dicom-palette", "dicom-colour"):
            (folder / f"{format}.dcm").write_bytes(dicom_of_its_own(fuzz_dicom.originals(format)[0], format))
        series = [(f"{i}.dcm", fuzz_dicom.assemble(parts)) for i, parts in enumerate(fuzz_series.slices())]
        (folder / "series.zip").write_bytes(fuzz_zip.archive(series))
        (folder / "head.nii").write_bytes(named_nifti())
        (folder / "scan.png").write_bytes(named_png())
        for name, data in bad_files().items():
            (folder / name).write_bytes(data)
        yield folder


def named_nifti() -> bytes:
    import nibabel
    import numpy as np

    image = nibabel.Nifti1Image(np.arange(64, dtype=np.int16).reshape(4, 4, 4), np.eye(4))
    for key in ("descrip", "aux_file", "db_name", "intent_name"):
        image.header[key] = NAME
    return bytes(image.to_bytes())


def named_png() -> bytes:
    from PIL import Image, PngImagePlugin

    info = PngImagePlugin.PngInfo()
    info.add_text("Title", NAME)
    info.add_text("Comment", FUZZ_IDENTITY["PatientID"], zip=True)
    buffer = io.BytesIO()
    Image.fromarray(tiny.picture_array(1)).save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def bad_files() -> dict[str, bytes]:
    """Each is refused in another place, some with the identity where a code or number belongs."""
    good = fuzz_dicom.originals("dicom-explicit")[0]
    files = {
        "cut.dcm": dicom_of_its_own(good, "cut")[:-100],
        "letter.dcm": f"Dear {NAME}, {FUZZ_IDENTITY}".encode() * 50,
    }
    for keyword, vr in (
        ("PhotometricInterpretation", "CS"),
        ("NumberOfFrames", "IS"),
        ("Rows", "LO"),
        ("WindowCenter", "DS"),
        ("Modality", "CS"),
        ("PixelSpacing", "DS"),
    ):
        parts = deepcopy(good)
        fuzz_dicom.put_text(parts, keyword, vr, NAME.replace("^", " "))
        files[f"{keyword}.dcm"] = dicom_of_its_own(parts, keyword)
    return files


def dicom_of_its_own(parts: fuzz_dicom.Parts, name: str) -> bytes:
    """In a series of its own, so that no two files make a volume."""
    alone = deepcopy(parts)
    fuzz_dicom.put_text(alone, "SeriesInstanceUID", "UI", f"1.2.826.0.1.3680043.8.498.{crc32(name.encode())}")
    return fuzz_dicom.assemble(alone)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {
        "medsiglip": tiny.encoder_folder(tmp_path_factory.mktemp("tiny-encoder")),
        "medgemma": tiny.decoder_folder(tmp_path_factory.mktemp("tiny-decoder")),
    }


@pytest.fixture
def run(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Runs a command in `tmp_path`: exit status, and all that it said and wrote."""

    def call(command: str, *words: object) -> tuple[int, str]:
        from medgemma.cli import main as medgemma
        from medsiglip.cli import main as medsiglip

        monkeypatch.chdir(tmp_path)
        model = [] if words[0] == "probe" else ["--model", str(models[command])]
        monkeypatch.setattr(sys, "argv", [command, *map(str, words), *model])
        with pytest.raises(SystemExit) as exited:
            (medgemma if command == "medgemma" else medsiglip)()
        captured = capsys.readouterr()
        texts = [
            captured.out,
            captured.err,
            *(text for path in tmp_path.rglob("*") if path.is_file() for text in texts_of(path)),
        ]
        said = "\n".join(text if isinstance(text, str) else text.decode(errors="replace") for text in texts)
        return int(exited.value.code or 0), said

    return call


COMMANDS = [
    ("medsiglip", "classify", "--labels", "lung;heart"),
    ("medsiglip", "classify", "--labels", "lung;heart", "--out", "labels.csv"),
    ("medsiglip", "embed", "--out", "vectors.parquet"),
    ("medsiglip", "look", "--out", "look.png"),
    ("medgemma", "ask", "-q", "Which view is this?", "--each", "--json", "--max-new-tokens", "4"),
    ("medgemma", "ask", "-q", "Which view is this?", "--each", "--out", "answers.txt", "--max-new-tokens", "4"),
]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_commands_name_nobody(run: Run, study: Path, words: tuple[str, ...]) -> None:
    command, verb, *options = words
    files = [path for path in sorted(study.iterdir()) if verb == "look" or path.suffix != ".nii"]
    status, said = run(command, verb, *files, *options)
    assert status == 1, "the bad files were not reported"
    for name in ("cut.dcm: ", "letter.dcm: ", "NumberOfFrames.dcm: "):
        assert name in said, ascii(said[:3000])
    if verb != "look":
        assert "dicom-palette.dcm" in said.replace("cut.dcm: ", ""), "the good files were not answered"
    assert search_for(None).keywords_in(said) == set()


@pytest.mark.parametrize(
    "words",
    [
        ("report", "dicom-implicit.dcm", "--json", "--max-new-tokens", "4"),
        ("locate", "dicom-rle.dcm", "-q", "rib", "--out", "box.png", "--max-new-tokens", "4"),
        ("compare", "dicom-implicit.dcm", "scan.png", "--json", "--max-new-tokens", "4"),
        ("report", "series.zip", "--json", "--max-new-tokens", "4"),
        ("report", "letter.dcm"),
        ("compare", "scan.png", "NumberOfFrames.dcm"),
    ],
    ids=" ".join,
)
def test_commands_of_one_study_name_nobody(run: Run, study: Path, words: tuple[str, ...]) -> None:
    named = [str(study / word) if (study / word).is_file() else word for word in words]
    status, said = run("medgemma", *named)
    assert status == int(words[-1].endswith(".dcm")), said
    assert any(word.split(".")[0] in said for word in words[1:3])
    assert search_for(None).keywords_in(said) == set()


def test_batches_name_nobody(run: Run, study: Path, tmp_path: Path) -> None:
    lines = []
    for path in sorted(study.iterdir()):
        if path.suffix != ".nii":
            url = "data:application/dicom;base64," + base64.b64encode(path.read_bytes()).decode()
            content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "View?"}]
            body = {"messages": [{"role": "user", "content": content}], "max_tokens": 4}
            lines.append({"custom_id": path.name, "method": "POST", "url": "/v1/chat/completions", "body": body})
    requests = study.parent / f"{study.name}-requests.jsonl"  # not searched: the pictures in it name the patient
    requests.write_text("".join(json.dumps(line) + "\n" for line in lines))
    status, said = run("medgemma", "batch", requests, "--out", "replies.jsonl")
    requests.unlink()
    assert status == 1 and "(letter.dcm)" in said and "chat.completion" in said
    assert search_for(None).keywords_in(said) == set()


@pytest.fixture(scope="module")
def labelled() -> Iterator[Path]:
    """A site's table, whose groups are its patients' names: good files, one that is cut, one that is gone."""
    with tempfile.TemporaryDirectory() as name:
        folder, good = Path(name), fuzz_dicom.originals("dicom-explicit")[0]
        random = Random(0)
        rows = ["file,label,patient"]
        for number in range(16):
            parts = deepcopy(good)
            parts.elements[fuzz_dicom.PIXEL_DATA] = good.elements[fuzz_dicom.PIXEL_DATA][:-600] + random.randbytes(600)
            data = dicom_of_its_own(parts, f"{name}{number}")
            (folder / f"{number}.dcm").write_bytes(data if number < 15 else data[:-100])
            rows.append(f"{number}.dcm,{('lung', 'heart')[number % 2]},{NAME} {number // 2}")
        (folder / "labels.csv").write_text("\n".join([*rows, f"gone.dcm,lung,{NAME}"]) + "\n")
        yield folder


def test_a_sites_table_names_nobody(run: Run, labelled: Path, tmp_path: Path) -> None:
    """calibrate, gate-fit with its gate, and probe: what they say, and what they write."""
    table, group = labelled / "labels.csv", ("--group", "patient")
    status, said = run(
        "medsiglip",
        "calibrate",
        table,
        "--labels",
        "lung;heart",
        *group,
        "--out",
        "c.yaml",
        "--page",
        "c.html",
        "--json",
    )
    assert status == 1 and "labels.csv row 18: gone.dcm: no such file" in said and "15.dcm: " in said
    assert (tmp_path / "c.yaml").is_file() and search_for(None).keywords_in(said) == set()
    status, said = run("medsiglip", "gate-fit", table, "--target", "label", *group, "--out", "gate.safetensors")
    assert status == 1 and (tmp_path / "gate.safetensors").is_file() and search_for(None).keywords_in(said) == set()
    status, said = run("medsiglip", "gate", labelled / "0.dcm", "--gate", "gate.safetensors")
    assert status == 0 and "0.dcm,0," in said and search_for(None).keywords_in(said) == set()
    files = sorted(labelled.glob("*.dcm"))
    status, said = run("medsiglip", "embed", *files, "--out", "vectors.parquet")
    assert status == 1 and search_for(None).keywords_in(said) == set()
    status, said = run("medsiglip", "probe", "vectors.parquet", table, "--target", "label", *group, "--out", "probe")
    assert status == 1 and "labels.csv row 17: 15.dcm: not among" in said and "mean AUROC" in said
    assert search_for(None).keywords_in(said) == set()
    assert (tmp_path / "probe" / "metrics.json").is_file()


def test_results_of_python_name_nobody(study: Path) -> None:
    from medsiglip.imaging import FileProblem, Volume, open_images

    problems: list[FileProblem] = []
    items = list(open_images([str(path) for path in sorted(study.iterdir())], on_problem=problems.append))
    volumes = [item for item in items if isinstance(item, Volume)]
    assert len(volumes) == 2 and len(items) > 7 and len(problems) >= 4, (items, problems)
    said = "\n".join(
        f"{item}" for item in [*items, *problems, *(v.findings for v in volumes), *(v.tags for v in volumes)]
    )
    assert search_for(None).keywords_in(said) == set()


def test_the_files_do_name_the_patient(study: Path) -> None:
    """Else the tests above show nothing."""
    for path in study.iterdir():
        if path.suffix != ".zip":
            data = path.read_bytes()
            assert NAME.encode() in data or NAME.encode("utf-16-le") in data, path.name
    assert json.dumps(NAME) == f'"{NAME}"'
