"""`medsiglip calibrate`: a site's labelled pictures to probabilities that mean what they say."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from medsiglip.command import Problems, Quiet, refuse_input_as_out, say, say_notes, whole_file
from medsiglip.commands.classify import Labels, PromptFile, Task, asked_labels
from medsiglip.commands.encoding import EncodeOptions
from medsiglip.imaging import Notes

if TYPE_CHECKING:
    from medsiglip.calibration.calibration import Calibration
    from medsiglip.encoder import MedSigLIP
    from medsiglip.labels_csv import LabelRow, Truth
    from medsiglip.performance.figures import Performance
    from medsiglip.prompts import LabelSet
    from medsiglip.zero_shot import ZeroShotResult

Table = Annotated[Path, typer.Argument(metavar="LABELS.csv", help="A row a picture: file, labels, group, ...")]
Group = Annotated[str, typer.Option(help="Column of the patient or case; without it every file counts alone.")]
Site = Annotated[str, typer.Option(help="Whose pictures these are; kept, and compared when used.")]
Subgroup = Annotated[list[str] | None, typer.Option(help="Column to give figures by, such as sex; repeatable.")]


@dataclass(frozen=True)
class LabelledSplit:
    """A labelled split and what the encoder says of it, row by row."""

    label_set: "LabelSet"
    labels: tuple[str, ...]
    result: "ZeroShotResult"
    truth: np.ndarray
    """(N, C) of `labels`."""
    groups: list[str]
    subgroups: dict[str, list[str]]

    @property
    def columns(self) -> list[int]:
        """Of the result: where `labels` are."""
        return [self.result.labels.index(label) for label in self.labels]


def calibrate(
    table: Table,
    out: Annotated[Path, typer.Option(help="YAML file: the calibration.")],
    task: Task = "",
    prompts: PromptFile = None,
    labels: Labels = None,
    independent: Annotated[bool, typer.Option("--independent", help="Labels do not exclude each other.")] = False,
    target: Annotated[str, typer.Option(help="Column of the label, where labels exclude each other.")] = "label",
    group: Group = "",
    site: Site = "",
    method: Annotated[str, typer.Option(help="temperature, platt or isotonic.")] = "temperature",
    sensitivity: Annotated[float, typer.Option(help="Wanted of the thresholds of independent labels.")] = 0.95,
    level: Annotated[float, typer.Option(help="Of the conformal sets of exclusive labels.")] = 0.9,
    subgroup: Subgroup = None,
    page: Annotated[Path | None, typer.Option(help="HTML page of figures and curves.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The figures on stdout.")] = False,
    *,
    encoding: EncodeOptions,
    quiet: Quiet = False,
) -> None:
    """Calibrate a label set on labelled pictures: probabilities, thresholds at a sensitivity, sets at a level.

    Figures are of pictures whose group the fit had not seen (five folds).
    """
    from medsiglip.calibration.calibration import calibrate as fit
    from medsiglip.calibration.calibration import few_positives, write_calibration
    from medsiglip.calibration.fitting import METHODS

    if method not in METHODS:
        raise ValueError(f"method {method!r} is unknown; choose one of {', '.join(METHODS)}")
    refuse_input_as_out(out, table)
    label_set = asked_labels(labels, task, prompts, independent)
    problems, notes = Problems(), Notes()
    rows = _rows(table, problems)
    encoder = encoding.load()
    split = read_split(rows, table, label_set, target, group, subgroup or [], encoder, encoding, problems, notes, quiet)
    calibration = fit(
        label_set,
        split.labels,
        split.result.logits[:, split.columns],
        split.truth,
        split.groups,
        method=method,
        encoder=encoder.identity,
        pixels=encoding.pixels(encoder),
        site=site,
        level=level,
        sensitivity=sensitivity,
    )
    probabilities, measured = _measure(calibration, split)
    calibration = replace(calibration, figures=_figures(measured))
    write_calibration(calibration, out)
    if page:
        with whole_file(page) as file:
            file.write(_page(calibration, split, probabilities, measured))
    if as_json:
        typer.echo(json.dumps(calibration.figures, ensure_ascii=False))
    for line in [*few_positives(calibration), *_without_column(split)]:
        say(f"note: {line}")
    if not group:
        say("note: no --group: every file counts as a patient of its own; name the patient's column where there is one")
    say_notes(notes)
    problems.exit()


def read_split(
    rows: "Sequence[LabelRow]",
    table: Path,
    label_set: "LabelSet",
    target: str,
    group: str,
    subgroups: Sequence[str],
    encoder: "MedSigLIP",
    encoding: EncodeOptions,
    problems: Problems,
    notes: Notes,
    quiet: bool,
) -> LabelledSplit:
    """Check the table, embed its files, classify them; rows whose picture cannot be read are reported and left out."""
    from medsiglip.class_vectors import default_folder
    from medsiglip.labels_csv import column, groups_of
    from medsiglip.zero_shot import ZeroShotClassifier

    _truth(rows, label_set, target, table)
    groups_of(rows, group, table)
    for name in subgroups:
        if name not in rows[0].cells:
            column(rows, name, table)
    classifier = ZeroShotClassifier(encoder, label_set, cache=default_folder())
    vectors = encoding.vectors_of(encoder, [row.file for row in rows], problems, notes, quiet)
    kept = [row for row in rows if str(row.file) in vectors]
    if not kept:
        raise ValueError(f"{table}: none of its pictures can be read")
    truth = _truth(kept, label_set, target, table)
    result = classifier.classify_vectors(np.stack([vectors[str(row.file)] for row in kept]))
    by_value = {name: [row.cells[name] for row in kept] for name in subgroups}
    return LabelledSplit(label_set, truth.labels, result, truth.values, groups_of(kept, group, table), by_value)


def _rows(table: Path, problems: Problems) -> "list[LabelRow]":
    from medsiglip.labels_csv import read_labels_csv

    return read_labels_csv(table, problems.add)


def _truth(rows: "Sequence[LabelRow]", label_set: "LabelSet", target: str, table: Path) -> "Truth":
    from medsiglip.labels_csv import exclusive_truth, independent_truth

    if label_set.exclusive:
        return exclusive_truth(rows, target, label_set.labels, table)
    return independent_truth(rows, label_set.labels, table)


def _measure(
    calibration: "Calibration", split: LabelledSplit
) -> "tuple[dict[str, np.ndarray], dict[str, Performance]]":
    from medsiglip.calibration.calibration import held_out_probabilities
    from medsiglip.performance.figures import performance

    exclusive = split.label_set.exclusive
    logits = split.result.logits[:, split.columns]
    after = held_out_probabilities(calibration.map.method, logits, split.truth, split.groups, exclusive=exclusive)
    probabilities = {"before": split.result.probabilities[:, split.columns].astype(np.float64), "after": after}
    return probabilities, {
        name: performance(
            split.labels, table, split.truth, split.groups, exclusive=exclusive, subgroups=split.subgroups
        )
        for name, table in probabilities.items()
    }


def _figures(measured: "dict[str, Performance]") -> dict[str, Any]:
    from medsiglip.performance.figures import as_json

    return {name: as_json(found) for name, found in measured.items()}


def _page(
    calibration: "Calibration",
    split: LabelledSplit,
    probabilities: dict[str, np.ndarray],
    measured: "dict[str, Performance]",
) -> str:
    from medsiglip.performance.page import render

    facts = {
        "label set": calibration.label_set or "; ".join(calibration.labels),
        "convention": calibration.convention,
        "method": calibration.map.method,
        "site": calibration.site or "not said",
        "encoder": calibration.encoder,
        "pixels": calibration.pixels,
        "pictures, groups": f"{calibration.n}, {calibration.n_groups}",
        "after": "by maps that had not seen the picture's group, in five folds",
    }
    return render(f"Calibration of {facts['label set']}", facts, measured, probabilities, split.truth, split.labels)


def _without_column(split: LabelledSplit) -> list[str]:
    without = [label for label in split.result.labels if label not in split.labels]
    return [f"not calibrated, for want of a column: {'; '.join(without)}"] if without else []
