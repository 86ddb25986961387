"""pneumothorax: whether a chest film shows one, by a head or LoRA on MedSigLIP, or as a multiple choice of MedGemma.

Films are SIIM-ACR's (run lengths and DICOM) or ChestX-ray14's. OUT/scores.json has F1, AUROC, calibration, and what a
threshold for a wanted sensitivity reaches; OUT/predictions.csv every film's probability. Where too few films with a
pneumothorax are kept from training, films are scored in folds by patient, and the run says that it is a smoke run.

Source: MedGemma technical report (arXiv:2507.05201), section 5: SIIM-ACR as a multiple choice, accuracy and F1.
"""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from data_cards.readers.chest_releases import NIH14_TABLES, read_nih14_release
from data_cards.readers.pictures import LabelledPicture, read_nih14, read_nih14_64px
from data_cards.readers.pneumothorax_masks import read_siim_pneumothorax
from data_cards.readers.tables import find_set
from data_cards.split import is_kept_from_training, side
from data_cards.table import Columns, Row, Split, Table, read_table
from finetune.configuration import Section, load_config
from finetune.recipes import answers, classify
from finetune.tables.finding_scores import finding_figures, threshold_of_others
from medsiglip.calibration.decisions import threshold_at
from medsiglip.command import say, whole_file

LABELS = ("no pneumothorax", "pneumothorax")
VALIDATION_PERCENT = 10
"""Of the training films' groups: the weights and the threshold are chosen on them, as in the report."""


class Config(Section):
    """What is tuned, and how; the values are in pneumothorax.yaml."""

    sets: tuple[str, ...]
    way: Literal["head", "letter"]
    model: str
    seed: int
    quick: bool
    device: str
    labels: Literal["real", "shuffled"]
    sensitivity: float = Field(gt=0, lt=1)
    fewest_positives: int = Field(ge=1)
    folds: int = Field(ge=2)
    head: dict[str, Any]
    """Settings of `classify` that differ from its own."""
    letter: dict[str, Any]
    """Settings of `answers` that differ from its own."""


@dataclass(frozen=True)
class Film:
    """One film."""

    path: Path
    is_present: bool
    group: str
    split: Split


@dataclass(frozen=True)
class Predicted:
    """What was said of some films."""

    films: Sequence[Film]
    probability: NDArray[np.float64]


def run(config: Config, data: Path, out: Path, quiet: bool) -> None:
    """Tune on the first set that is there, and score films of other patients.

    Raises:
        ValueError: No set is there, or one is broken.
        FloatingPointError: The loss is not finite; the films are named, the last checkpoint is kept.
    """
    films = films_of(config.sets, data)
    kept = sum(film.is_present for film in films if film.split == "test")
    if kept >= config.fewest_positives:
        fold = _predicted(config, films, out / "run", quiet)
        chosen, scored = fold["validation"], fold["test"]
        threshold = threshold_at(config.sensitivity, chosen.probability, _present(chosen).astype(np.float64))
        thresholds = np.full(len(scored.films), np.nan if threshold is None else threshold)
        _write(config, scored, thresholds, out, smoke="")
        return
    number = 2 if config.quick else config.folds
    smoke = (
        f"a smoke run: {kept} films kept from training show a pneumothorax, fewer than {config.fewest_positives}; they "
        f"are scored in {number} folds by patient, which shows that the recipe runs, and little more"
    )
    say(smoke)
    folds = folds_of(films, number, config.seed)
    found = []
    for fold_number in range(number):
        moved = [
            replace(film, split="test" if own == fold_number else "train")
            for film, own in zip(films, folds, strict=True)
        ]
        found.append(_predicted(config, moved, out / f"fold-{fold_number}", quiet)["test"])
    together = Predicted([f for p in found for f in p.films], np.concatenate([p.probability for p in found]))
    of_fold = np.repeat(np.arange(number), [len(p.films) for p in found])
    thresholds = threshold_of_others(config.sensitivity, _present(together), together.probability, of_fold)
    _write(config, together, thresholds, out, smoke)


def films_of(sets: Sequence[str], data: Path) -> list[Film]:
    """The films of the first entry whose sets, joined by +, are in `data`, with their sides.

    SIIM-ACR and the kit's part are divided by a hash of the group, ChestX-ray14 as its owners do.

    Raises:
        ValueError: None is there, or one is broken.
    """
    readers = {
        "siim-acr-pneumothorax": lambda folder: [
            Film(film.path, film.pneumothorax, film.group, _split(film.group))
            for film in read_siim_pneumothorax(folder)
        ],
        "nih-chestxray14": lambda folder: [_nih_film(film) for film in read_nih14_release(folder)],
        "cxr-nih14-64px": lambda folder: [_nih_film(film) for film in read_nih14_64px(folder)],
        "cxr-nih14": lambda folder: [_nih_film(film) for film in read_nih14(folder)],
    }
    for entry in sets:
        names = entry.split("+")
        if unknown := [name for name in names if name not in readers]:
            raise ValueError(f"set {unknown[0]}: choose of {', '.join(readers)}")
        folders = [_folder(name, data) for name in names]
        if all(folders):
            return [
                film for name, folder in zip(names, folders, strict=True) if folder for film in readers[name](folder)
            ]
    raise ValueError(f"{data}: holds none of {', '.join(sets)}; `medgemma-data show NAME` says how to get a set")


def _folder(name: str, data: Path) -> Path | None:
    """The set's folder, if it is there; the radiologists' labels of ChestX-ray14 alone are not."""
    try:
        folder = find_set(data, name)
    except ValueError:
        return None
    is_whole = name != "nih-chestxray14" or any((folder / table).is_file() for table in NIH14_TABLES)
    return folder if folder.is_dir() and is_whole else None


def folds_of(films: Sequence[Film], folds: int, seed: int) -> list[int]:
    """Each film's fold: whole groups, and alike many positives a fold.

    Raises:
        ValueError: Fewer groups than folds show a pneumothorax.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    groups = [film.group for film in films]
    present = np.array([film.is_present for film in films])
    if (there := len({g for g, p in zip(groups, present, strict=True) if p})) < folds:
        raise ValueError(f"{there} patients have a pneumothorax, fewer than {folds} folds; give --set folds={there}")
    found = np.zeros(len(films), dtype=np.int64)
    split = StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(present, present, groups)
    for number, (_, rows) in enumerate(split):
        found[rows] = number
    return [int(number) for number in found]


def _nih_film(film: LabelledPicture) -> Film:
    official = film.labels.get("official_split", "")
    split: Split = _split(film.group)
    if official:
        chosen = is_kept_from_training(f"validation:{film.group}", VALIDATION_PERCENT)
        split = "test" if official == "test" else "validation" if chosen else "train"
    return Film(film.path, film.labels["Pneumothorax"] == "1", film.group, split)


def _split(group: str) -> Split:
    if side(group) != "train":
        return "test"
    return "validation" if is_kept_from_training(f"validation:{group}", VALIDATION_PERCENT) else "train"


def _predicted(config: Config, films: Sequence[Film], out: Path, quiet: bool) -> dict[Split, Predicted]:
    """Tune, and say how likely each film that is not learned shows a pneumothorax."""
    out.mkdir(parents=True, exist_ok=True)
    table = _table(films, out / "films.csv")
    shared = {key: getattr(config, key) for key in ("model", "seed", "quick", "device", "labels")}
    if config.way == "head":
        settings = _settings(classify, {**shared, **config.head})
        classify.run_table(settings, table, out / "run", quiet)
    else:
        settings = _settings(answers, {**shared, **config.letter})
        answers.run_table(settings, table, out / "run", quiet)
    by_path = {film.path.resolve(): film for film in films}
    found: dict[Split, Predicted] = {}
    for split in ("validation", "test"):
        rows = table.on(split)
        if rows:
            of_rows = _of_head if config.way == "head" else _of_letter
            said = of_rows(settings, rows, table, split, out / "run")
            found[split] = Predicted([by_path[row.files[0]] for row in rows], said)
    return found


def _of_head(settings: Any, rows: Sequence[Row], table: Table, split: Split, out: Path) -> NDArray[np.float64]:
    import torch

    from finetune.tables.classification import LabelledRows, probabilities
    from finetune.tables.examples import SeenPictures, read_study
    from finetune.training import join_ranks
    from medsiglip.preprocess import Preprocessing

    pictures = SeenPictures(Preprocessing.from_folder(out / "model"), read_study)
    numbers = [pictures.add(files, read_study(files)) for files in (tuple(map(str, row.files)) for row in rows)]
    classes = next(iter(table.targets.values())).classes
    labelled = LabelledRows(numbers, torch.zeros(len(rows), len(classes)), [row.place for row in rows])
    said = probabilities(out / "model", labelled, pictures, str(join_ranks(settings.device)[1]), lambda _: None)
    return said[:, classes.index(LABELS[1])].double().numpy()


def _of_letter(settings: Any, rows: Sequence[Row], table: Table, split: Split, out: Path) -> NDArray[np.float64]:
    """The share that the tuned model gives the letter of a pneumothorax, of both letters together."""
    from evals.tasks.tables import completion
    from finetune.tables.examples import table_items
    from medgemma import MedGemma

    whole = settings.adapter.method == "full"
    gemma = MedGemma.from_pretrained(
        out / "model" if whole else settings.model,
        device=settings.device,
        dtype=settings.dtype,
        adapter=None if whole else out / "adapter",
    )
    items = {item.files: item for item in table_items(table, split)}
    found = []
    for row in rows:
        item = items[tuple(str(file) for file in row.files)]
        choices = [completion(replace(item, reference=label)) for label in LABELS]
        absent, present = gemma.score([str(file) for file in row.files], item.prompt, choices)
        found.append(1 / (1 + np.exp(np.clip(absent.logprob - present.logprob, -700, 700))))
    return np.array(found)


def _settings(recipe: Any, values: dict[str, Any]) -> Any:
    """A recipe's configuration: its own YAML, and over it this one's."""
    given = [f"{key}={json.dumps(value)}" for key, value in values.items()]
    return load_config(recipe.Config, [Path(recipe.__file__).with_suffix(".yaml")], given)


def _table(films: Sequence[Film], path: Path) -> Table:
    """The films as a table of the user's, written so that `answers` and `classify` can be run on it alone."""
    with whole_file(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["file", "label", "patient", "split"])
        writer.writerows([film.path.resolve(), LABELS[film.is_present], film.group, film.split] for film in films)
    return read_table(path, Columns(files=("file",), label=("label",), group="patient", split="split"))


def _present(predicted: Predicted) -> NDArray[np.bool_]:
    return np.array([film.is_present for film in predicted.films])


def _write(config: Config, scored: Predicted, thresholds: NDArray[np.float64], out: Path, smoke: str) -> None:
    groups = [film.group for film in scored.films]
    found = finding_figures(_present(scored), scored.probability, groups, thresholds)
    head = {"way": config.way, "sensitivity wanted": config.sensitivity, "remark": smoke}
    with whole_file(out / "scores.json") as file:
        file.write(json.dumps({**head, "figures": found}, indent=1, allow_nan=False) + "\n")
    with whole_file(out / "predictions.csv") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["file", "patient", "right", "probability"])
        for film, said in zip(scored.films, scored.probability, strict=True):
            writer.writerow([film.path, film.group, LABELS[film.is_present], f"{said:.6f}"])
    for name, figure in found.items():
        low, high = figure.get("ci95") or (None, None)
        interval = "" if low is None or high is None else f" ({low:.3f} to {high:.3f})"
        say(f"{name}: {'undefined' if figure['value'] is None else format(figure['value'], '.3f')}{interval}")
    if "sensitivity at the threshold" not in found:
        say(f"too few films choose a threshold at a sensitivity of {config.sensitivity}; give a lower one")
    if smoke:
        say(smoke)
