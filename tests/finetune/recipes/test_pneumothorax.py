"""The recipe for pneumothorax: owners' layouts in miniature, sides and folds, and runs to figures."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finetune.configuration import load_config
from finetune.recipes import pneumothorax
from finetune.recipes.pneumothorax import Film, films_of, folds_of
from tests.medsiglip.imaging.dicom_writer import dicom_bytes

YAML = Path(pneumothorax.__file__).with_suffix(".yaml")
SETS = ("siim-acr-pneumothorax", "nih-chestxray14", "cxr-nih14")


def film(bright: bool, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 60, (64, 64), dtype=np.uint8)
    return noise + np.uint8(150 * bright)


def siim_films(data: Path, films: int) -> Path:
    """train-rle.csv, a row a region, and the films as .dcm in the owners' nested folders."""
    root = data / "siim-acr-pneumothorax"
    root.mkdir(parents=True)
    with (root / "train-rle.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["ImageId", "EncodedPixels"])
        for number in range(films):
            name, bright = f"1.2.276.{number}", number % 4 == 0
            writer.writerow([name, "10 5 1019 5" if bright else "-1"])
            if number % 8 == 0:
                writer.writerow([name, "9000 7"])
            folder = root / "dicom-images-train" / f"s{number}" / f"e{number}"
            folder.mkdir(parents=True)
            (folder / f"{name}.dcm").write_bytes(dicom_bytes(film(bright, number), Modality="CR"))
    return data


@pytest.fixture(scope="module")
def siim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return siim_films(tmp_path_factory.mktemp("data"), 160)


def test_siims_layout_is_read_with_sides(siim: Path) -> None:
    films = films_of(SETS, siim)
    assert len(films) == 160 and sum(f.is_present for f in films) == 40
    assert {f.split for f in films} == {"train", "validation", "test"} and all(f.path.is_file() for f in films)


def test_chestxray14s_layout_keeps_its_owners_test_list(tmp_path: Path) -> None:
    root = tmp_path / "nih-chestxray14"
    (root / "images_001" / "images").mkdir(parents=True)
    columns = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position\n"
    rows = [
        f"{n:08d}_000.png,{'Pneumothorax|Mass' if n % 3 == 0 else 'No Finding'},0,{n},50,M,PA\n" for n in range(1, 41)
    ]
    (root / "Data_Entry_2017.csv").write_text(columns + "".join(rows))
    names = [f"{n:08d}_000.png" for n in range(1, 41)]
    (root / "train_val_list.txt").write_text("\n".join(names[:30]) + "\n")
    (root / "test_list.txt").write_text("\n".join(names[30:]) + "\n")
    for name in names:
        Image.fromarray(film(False, 0)).save(root / "images_001" / "images" / name)
    films = films_of(SETS, tmp_path)
    assert [f.split for f in films[30:]] == ["test"] * 10 and {f.split for f in films[:30]} == {"train", "validation"}
    assert sum(f.is_present for f in films) == 13


def test_folds_keep_patients_whole_and_positives_alike() -> None:
    films = [Film(Path(f"{n}.png"), n % 5 == 0, f"patient {n // 2}", "train") for n in range(100)]
    folds = folds_of(films, 5, seed=0)
    groups = {f.group: {folds[n] for n, g in enumerate(films) if g.group == f.group} for f in films}
    assert all(len(found) == 1 for found in groups.values())
    positives = [sum(f.is_present for f, own in zip(films, folds, strict=True) if own == k) for k in range(5)]
    assert positives == [4] * 5
    with pytest.raises(ValueError, match="3 patients have a pneumothorax, fewer than 5 folds; give --set folds=3"):
        folds_of([f if n < 20 else Film(f.path, False, f.group, "train") for n, f in enumerate(films)][5:], 5, seed=0)


def test_no_set_is_said_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="holds none of siim-acr-pneumothorax, nih-chestxray14, cxr-nih14; `medgemma-data"
    ):
        films_of(SETS, tmp_path)


def scores(out: Path) -> dict[str, object]:
    return json.loads((out / "scores.json").read_text())


def test_a_head_learns_bright_films_and_is_scored_by_itself(
    siim: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The data are named as users name them: a link, relative to where the command is run."""
    (tmp_path / "my data").symlink_to(siim)
    monkeypatch.chdir(tmp_path)
    data = Path("my data")
    settings = ["quick=true", "device=cpu", "fewest_positives=3", "sensitivity=0.5", "head={head_steps: 60}"]
    pneumothorax.run(load_config(pneumothorax.Config, [YAML], settings), data, tmp_path / "out", quiet=True)
    found = scores(tmp_path / "out")
    assert found["remark"] == "" and found["figures"]["auroc"]["value"] > 0.9  # type: ignore[index]
    films = {str(f.path): f for f in films_of(SETS, data)}
    with (tmp_path / "out" / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {films[row["file"]].split for row in rows} == {"test"}
    assert len(rows) == sum(f.split == "test" for f in films.values())


@pytest.mark.slow
def test_too_few_positives_are_a_smoke_run_in_folds_by_letter(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = siim_films(tmp_path / "data", 32)
    letter = "letter={epochs: 0.2, evaluations: 0, merge: false, learning_rate: 1.0e-3}"
    settings = ["quick=true", "device=cpu", "way=letter", "fewest_positives=100", "sensitivity=0.5", letter]
    pneumothorax.run(load_config(pneumothorax.Config, [YAML], settings), few, tmp_path / "out", quiet=True)
    found = scores(tmp_path / "out")
    assert str(found["remark"]).startswith("a smoke run: ") and "2 folds by patient" in capsys.readouterr().err
    assert found["figures"]["accuracy"]["n"] == 32  # type: ignore[index]
