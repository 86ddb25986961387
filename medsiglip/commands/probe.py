"""`medsiglip probe`: a classifier on embeddings, scored on patients that it has not seen."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from medsiglip.command import Problems, Quiet, progress, say, whole_file
from medsiglip.commands.calibrate import Group, Subgroup

if TYPE_CHECKING:
    from medsiglip.labels_csv import LabelRow
    from medsiglip.probing.matching import EmbeddedFiles
    from medsiglip.probing.study import Fold, Labelled


def probe(
    embeddings: Annotated[Path, typer.Argument(metavar="F.parquet", help="What medsiglip embed wrote.")],
    table: Annotated[Path, typer.Argument(metavar="LABELS.csv", help="A row a picture: file, labels, group, ...")],
    out: Annotated[Path, typer.Option(help="Folder for metrics.json, report.html and the probe.")],
    target: Annotated[list[str], typer.Option(help="Column of the class; repeated: a column a label, of 1 and 0.")],
    group: Group = "",
    split: Annotated[str, typer.Option(help="Column of train and test; without it five folds over groups.")] = "",
    head: Annotated[str, typer.Option(help="linear (logistic regression) or mlp (one hidden layer).")] = "linear",
    subgroup: Subgroup = None,
    beside: Annotated[
        list[Path] | None, typer.Option(help="Another encoder's embeddings of the same files; repeatable.")
    ] = None,
    curve: Annotated[bool, typer.Option("--curve/--no-curve", help="The learning curve over training sizes.")] = True,
    seed: Annotated[int, typer.Option(help="Of folds and draws.")] = 0,
    quiet: Quiet = False,
) -> None:
    """Fit a probe on embeddings and score it on patients that it has not seen; `classify --probe OUT` uses it."""
    from medsiglip.probing.head import HEADS, fit_head, write_head
    from medsiglip.probing.matching import read_embeddings
    from medsiglip.probing.study import folds_by_side, grouped_study_folds, held_out, learning_curve

    if head not in HEADS:
        raise ValueError(f"head {head!r} is unknown; choose one of {', '.join(HEADS)}")
    problems = Problems()
    embedded = read_embeddings(embeddings)
    rows, data = read_labelled(embedded, table, target, group, problems)
    if split:
        folds = folds_by_side(data, [row.cells.get(split, "") for row in rows])
    else:
        folds = grouped_study_folds(data, seed)
    others = {_name(path): read_embeddings(path) for path in beside or []}
    seen = {name: data.with_vectors(_same_rows(other, rows)) for name, other in others.items()}
    with progress(len(folds) * (1 + len(others)) + curve + 1, "fits", quiet) as advance:
        probabilities = held_out(data, folds, head, seed)
        advance(len(folds))
        of_others = {}
        for name, other in seen.items():
            of_others[name] = held_out(other, folds, head, seed)
            advance(len(folds))
        points = learning_curve(data, folds[0], head, seed) if curve else []
        advance(int(curve))
        fitted = data.rows(folds[0].fitted) if split else data
        final = fit_head(
            fitted.vectors, fitted.truth, fitted.groups, data.labels, exclusive=data.exclusive, kind=head,
            encoder=embedded.encoder, pixels=embedded.pixels, seed=seed,
        )  # fmt: skip
        advance(1)
    subgroups = {name: _subgroup(rows, name, table) for name in subgroup or []}
    facts, page = _scored(data, folds, probabilities, of_others, points, subgroups, head, split, embedded)
    write_head(final, out)
    for name, text in (("metrics.json", json.dumps(facts, indent=1, ensure_ascii=False) + "\n"), ("report.html", page)):
        with whole_file(out / name) as file:
            file.write(text)
    say(_summary(facts))
    if not group:
        say("note: no --group: every file counts as a patient of its own; name the patient's column where there is one")
    problems.exit()


def read_labelled(
    embedded: "EmbeddedFiles", table: Path, target: Sequence[str], group: str, problems: Problems
) -> "tuple[list[LabelRow], Labelled]":
    """The rows of the table that have vectors and a label, and what they say.

    Raises:
        ValueError: a column is missing, a label has one class, or nothing is left.
    """
    from medsiglip.labels_csv import exclusive_truth, groups_of, independent_truth, read_rows, says_nothing
    from medsiglip.probing.matching import match
    from medsiglip.probing.study import Labelled

    rows = read_rows(table)
    for name in [*target, *([group] if group else [])]:
        if name not in rows[0].cells:
            raise ValueError(f"{table}: has no column {name!r}; its columns are {', '.join(rows[0].cells)}")
    found = match(rows, embedded, problems.add)
    said = [(row, place) for row, place in found if not all(says_nothing(row.cells[name]) for name in target)]
    if len(said) < len(found):
        say(f"note: {len(found) - len(said)} rows without a label (empty or -1) are left out")
    if not said:
        raise ValueError(f"{table}: no row has both a label and a vector in {embedded.path}")
    kept, places = [row for row, _ in said], np.array([place for _, place in said])
    if len(target) == 1:
        labels = sorted({row.cells[target[0]] for row in kept})
        truth = exclusive_truth(kept, target[0], labels, table)
    else:
        truth = independent_truth(kept, target, table)
    return kept, Labelled(
        truth.labels,
        len(target) == 1,
        embedded.vectors[places],
        truth.values,
        tuple(groups_of(kept, group, table)),
        tuple(row.place for row in kept),
        tuple(embedded.sha256[place] for place in places.tolist()),
    )


def _same_rows(other: "EmbeddedFiles", rows: "Sequence[LabelRow]") -> np.ndarray:
    """The vectors of these very rows.

    Raises:
        ValueError: the other file lacks one.
    """
    from medsiglip.probing.matching import match

    lacking: list[Any] = []
    found = match(rows, other, lacking.append)
    if lacking:
        raise ValueError(f"{lacking[0]}; two encoders are compared on the same rows only")
    return other.vectors[[place for _, place in found]]


def _scored(
    data: "Labelled",
    folds: "Sequence[Fold]",
    probabilities: np.ndarray,
    of_others: dict[str, np.ndarray],
    points: list[dict[str, Any]],
    subgroups: dict[str, list[str]],
    head: str,
    split: str,
    embedded: "EmbeddedFiles",
) -> tuple[dict[str, Any], str]:
    """What metrics.json says, and the page."""
    from medsiglip.performance.figures import as_json, estimate_json, performance
    from medsiglip.performance.page import estimate_text, render
    from medsiglip.probing.study import commonest_share, mean_auroc, mean_auroc_difference

    places = np.sort(np.concatenate([fold.scored for fold in folds]))
    scored, said = data.rows(places), probabilities[places]
    by_value = {name: [values[place] for place in places.tolist()] for name, values in subgroups.items()}
    measured = performance(data.labels, said, scored.truth, scored.groups, exclusive=data.exclusive, subgroups=by_value)
    mean = mean_auroc(scored, said)
    others = {
        name: {"mean_auroc": mean_auroc(scored, table[places]), "ours minus this": mean_auroc_difference(
            scored, said, table[places]
        )}
        for name, table in of_others.items()
    }  # fmt: skip
    scheme = f"column {split}" if split else f"{len(folds)} folds over groups"
    facts: dict[str, Any] = {
        "head": head,
        "split": scheme,
        "rows": len(scored.truth),
        "groups": len(set(scored.groups)),
        "encoder": embedded.encoder,
        "pixels": embedded.pixels,
        "mean_auroc": estimate_json(mean),
        "commonest_label": round(commonest_share(scored), 6) if data.exclusive else None,
        **as_json(measured),
        "learning_curve": points,
        "beside": {
            name: {what: estimate_json(estimate) for what, estimate in figures.items()}
            for name, figures in others.items()
        },
    }
    shown = {
        "head": head,
        "scored on": scheme,
        "encoder": embedded.encoder,
        "rows, groups": f"{facts['rows']}, {facts['groups']}",
        "mean AUROC": estimate_text(mean),
        **({"share of the commonest label": f"{facts['commonest_label']:.3f}"} if data.exclusive else {}),
        **{f"{name}: mean AUROC, and ours minus it": "; ".join(map(estimate_text, figures.values()))
           for name, figures in others.items()},
        **({"mean AUROC by training rows": ", ".join(f"{p['rows']}: {p['mean_auroc']:.3f}" for p in points)}
           if points else {}),
    }  # fmt: skip
    return facts, render("Probe", shown, {"held out": measured}, {"held out": said}, scored.truth, data.labels)


def _subgroup(rows: "Sequence[LabelRow]", name: str, table: Path) -> list[str]:
    from medsiglip.labels_csv import column

    if name not in rows[0].cells:
        column(rows, name, table)
    return [row.cells[name] for row in rows]


def _name(path: Path) -> str:
    return path.stem


def _summary(facts: dict[str, Any]) -> str:
    mean = facts["mean_auroc"]
    low, high = mean["ci95"]
    interval = f" ({low:.3f} to {high:.3f})" if low is not None else ""
    value = "undefined" if mean["value"] is None else f"{mean['value']:.3f}{interval}"
    return f"mean AUROC {value}, {facts['rows']} rows of {facts['groups']} groups, {facts['split']}"
