"""The recipe for tissue: owners' layouts in miniature, sides, and what is learned."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from data_cards.readers.pictures import read_lung_histology
from data_cards.readers.tissue_and_skin import LC25000_CLASSES, NCT_CRC_CLASSES
from data_cards.split import side
from evals.outputs import Output
from evals.tasks.catalogue import task_named
from evals.tasks.task import ItemOptions
from finetune.configuration import load_config
from finetune.recipes import histopathology
from finetune.tables import of_sets
from tests.tiny import picture_array

YAML = Path(histopathology.__file__).with_suffix(".yaml")


@pytest.fixture(scope="module")
def nct_crc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The two releases, as the archives unpack: a folder a class, the owners' file names."""
    root = tmp_path_factory.mktemp("data") / "nct-crc-he"
    for release, patches in (("NCT-CRC-HE-100K", 12), ("CRC-VAL-HE-7K", 2)):
        for number, label in enumerate(NCT_CRC_CLASSES):
            folder = root / release / label
            folder.mkdir(parents=True)
            for patch in range(patches):
                seed = 1000 * (release == "CRC-VAL-HE-7K") + 100 * number + patch
                Image.fromarray(picture_array(seed, 56, 56)).save(folder / f"{label}-{seed:08d}.tif")
    return root.parent


@pytest.fixture(scope="module")
def lc25000(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LC25000.zip unpacked, in the owners' names: 12 tiles a class, two turns each, and LC25000-clean's list."""
    root = tmp_path_factory.mktemp("data") / "lc25000"
    rows = ["stem,filename,label,tissue,local_cluster_label,group_id"]
    for label in LC25000_CLASSES:
        organ, kind = label.split("_")
        folder = root / "lung_colon_image_set" / f"{organ}_image_sets" / label
        folder.mkdir(parents=True)
        for number in range(24):
            stem = f"{organ}{'ca' if label == 'colon_aca' else kind}{number + 1}"
            picture = Image.fromarray(picture_array(number // 2, 32, 32))
            picture.rotate(90 * (number % 2)).save(folder / f"{stem}.jpeg")
            rows.append(f"{stem},{stem}.jpeg,{label},{organ},{number // 2},{number // 2}")
    (root / "lc25000_image_groups.csv").write_text("\n".join(rows) + "\n")
    return root.parent


def test_no_tile_of_lc25000_is_on_two_sides(lc25000: Path) -> None:
    task = task_named("lc25000")
    learned, scored = (task.items(lc25000, ItemOptions(name)) for name in ("train", "held-out"))
    assert len(task.items(lc25000, ItemOptions("all"))) == 60  # one picture a tile
    assert learned and scored and not {item.group for item in learned} & {item.group for item in scored}
    for item in scored:
        right = histopathology.letter_line(item)
        assert task.grade(item, Output(item.item_id, "", "", text=right))["accuracy"] == 1


def test_a_tile_of_lc25000_is_on_the_side_that_it_has_in_the_kit(lc25000: Path, kit: Path) -> None:
    """nano learned the kit's lung tiles of the side train; in the whole release they are on that side too."""
    ours = {picture.group for picture in read_lung_histology(kit / "histo-lc25000-lung")}
    learned = {item.group for item in task_named("lc25000").items(lc25000, ItemOptions("train"))}
    shared = ours & {f"lc25000_{label}_tile{number:03d}" for label in LC25000_CLASSES for number in range(12)}
    assert shared and {group for group in shared if side(group) == "train"} == shared & learned


def test_the_line_with_the_letter_is_graded_as_right(nct_crc: Path) -> None:
    task = task_named("nct-crc")
    items = task.items(nct_crc, ItemOptions("CRC-VAL-HE-7K"))
    assert len(items) == 18
    for item in items:
        right = histopathology.letter_line(item)
        assert task.grade(item, Output(item.item_id, "", "", text=right))["accuracy"] == 1
        assert f"{right[-1]}: {NCT_CRC_CLASSES[item.reference]}" in item.prompt
    assert {histopathology.letter_line(i) for i in items} == {f"Final Answer: {letter}" for letter in "ABCDEFGHI"}


def test_skin_is_taught_in_its_own_words(kit: Path) -> None:
    task = task_named("kit-skin")
    for item in task.items(kit, ItemOptions("held-out"))[:20]:
        right = histopathology.letter_line(item)
        assert right.startswith("The most likely diagnosis is: ")
        assert task.grade(item, Output(item.item_id, "", "", text=right))["accuracy"] == 1


def test_the_test_release_is_neither_learned_nor_chosen_by(nct_crc: Path) -> None:
    sided = histopathology._sided(task_named("nct-crc"))
    sides = {side: {i.item_id for i in sided.items(nct_crc, ItemOptions(side))} for side in sided.sides}
    assert sided.sides[0] == "CRC-VAL-HE-7K" and {name: len(ids) for name, ids in sides.items()}["CRC-VAL-HE-7K"] == 18
    assert len(sides["train"]) + len(sides["validation"]) == 108 and sides["validation"]
    assert not sides["train"] & sides["validation"]
    assert not (sides["train"] | sides["validation"]) & sides["CRC-VAL-HE-7K"]


def test_a_task_without_letters_is_refused(nct_crc: Path, tmp_path: Path) -> None:
    config = load_config(histopathology.Config, [YAML], ["tasks=[vqa-rad]"])
    with pytest.raises(ValueError, match="task vqa-rad: asks for no class of a picture by letter; choose of kit-lung"):
        histopathology.run(config, nct_crc, tmp_path / "out", quiet=True)


@pytest.mark.slow
def test_the_owners_layout_runs_to_a_table(
    nct_crc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shapes: Callable[[str], Path]
) -> None:
    """On the Hub's shape."""
    monkeypatch.setattr(of_sets, "QUICK_ITEMS", 6)
    settings = ["quick=true", "device=cpu", "epochs=0.2", "evaluations=1", "evaluated_rows=4", "merge=false"]
    settings.append(f"model={shapes('hub')}")
    config = load_config(histopathology.Config, [YAML], settings)
    histopathology.run(config, nct_crc, tmp_path / "out", quiet=True)
    table = (tmp_path / "out" / "scores" / "before_after.md").read_text()
    assert "| learned | nct-crc | accuracy |" in table and "| learned | nct-crc | weighted_f1 |" in table
    assert (tmp_path / "out" / "adapter" / "adapter_model.safetensors").is_file()
