"""`medsiglip gate` and `gate-fit`: is a picture of the kinds that a site knows?"""

import csv
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from medsiglip.command import (
    Files,
    Problems,
    Quiet,
    files_of,
    progress,
    refuse_input_as_out,
    say,
    say_notes,
    whole_file,
)
from medsiglip.commands.calibrate import Group, Site, Table
from medsiglip.commands.encoding import EncodeOptions
from medsiglip.imaging import Notes

if TYPE_CHECKING:
    from medsiglip.gate.gate import Kind, Verdict

COLUMNS = ("file", "frame", "decision", "kinds", "nearest", "modality", "body_part", "distance", "p", "policy")
MadeFor = Annotated[
    list[str] | None, typer.Option("--for", help="Kinds, modalities or body parts that may pass; all without.")
]
Level = Annotated[float, typer.Option(help="Chance with which a picture's kind is in its set.")]


def gate(
    files: Files,
    gate_file: Annotated[str, typer.Option("--gate", help="What gate-fit wrote; auto: what ships.")] = "auto",
    made_for: MadeFor = None,
    level: Level = 0.95,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a frame instead of CSV.")] = False,
    out: Annotated[Path | None, typer.Option(help="File; stdout without it.")] = None,
    *,
    encoding: EncodeOptions,
    quiet: Quiet = False,
) -> None:
    """Say of every frame which kinds it may be of, or that it is unlike all; and whether the site has shifted."""
    from medsiglip.embed import readable_pictures
    from medsiglip.gate.files import gate_for
    from medsiglip.gate.gate import check_level
    from medsiglip.gate.shift import shift, shift_in_words

    check_level(level)
    problems, notes, select = Problems(), Notes(), encoding.selection
    paths = files_of(files, problems)
    encoder = encoding.load()
    found = gate_for(gate_file, encoder.folder, encoder.identity, encoding.pixels(encoder))
    found.named(made_for or [])
    seen: list[np.ndarray] = []
    of_file: list[str] = []
    decisions: Counter[str] = Counter()
    with whole_file(out) as file, progress(None, "pictures", quiet) as advance:
        writer = csv.writer(file, lineterminator="\n")
        if not as_json:
            writer.writerow(COLUMNS)
        square, policy = encoder.preprocessing.square, encoding.policy_of(encoder)
        readable = readable_pictures(paths, problems.add, square=square, policy=policy, select=select)
        for pictures, vectors in encoder.stream_images(readable, encoding.batch_size):
            for picture, verdict in zip(pictures, found.judge(vectors, level, made_for or []), strict=True):
                notes.add(picture.file, picture.findings)
                row = _row(picture.file, picture.frame, verdict, f"{picture.policy}+{encoder.preprocessing.policy}")
                if as_json:
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
                else:
                    writer.writerow(";".join(cell) if isinstance(cell, list) else cell for cell in row.values())
                decisions[verdict.decision] += 1
                of_file.append(picture.file)
            seen.append(vectors)
            advance(len(pictures))
    for decision, count in decisions.most_common():
        say(f"note: {count} of {len(of_file)} {decision}")
    if seen:
        say(f"note: {shift_in_words(found, shift(found, np.concatenate(seen), of_file))}")
    for kind in found.cannot_exclude(level):
        say(f"note: too few calibration pictures to leave {kind} out of any set at level {level}")
    say_notes(notes)
    problems.exit()


def gate_fit(
    table: Table,
    out: Annotated[Path, typer.Option(help="File of the gate, such as gate.safetensors.")],
    target: Annotated[str, typer.Option(help="Column of the kind, such as 'chest X-ray'.")] = "kind",
    modality: Annotated[str, typer.Option(help="Column of the kind's modality.")] = "",
    body_part: Annotated[str, typer.Option(help="Column of the kind's body part.")] = "",
    group: Group = "",
    site: Site = "",
    *,
    encoding: EncodeOptions,
    quiet: Quiet = False,
) -> None:
    """Fit a gate on labelled pictures of a site: half of the patients place the kinds, half measure their spread."""
    from medsiglip.gate.files import write_gate
    from medsiglip.gate.fit import fit_gate
    from medsiglip.labels_csv import column, groups_of, read_labels_csv

    refuse_input_as_out(out, table)
    problems, notes = Problems(), Notes()
    rows = read_labels_csv(table, problems.add)
    columns = [column(rows, name, table) if name else [""] * len(rows) for name in (target, modality, body_part)]
    kinds = _kinds(columns, [row.place for row in rows])
    groups = dict(zip((str(row.file) for row in rows), groups_of(rows, group, table), strict=True))
    names = dict(zip(groups, columns[0], strict=True))
    encoder = encoding.load()
    vectors = encoding.vectors_of(encoder, [row.file for row in rows], problems, notes, quiet)
    if not vectors:
        raise ValueError(f"{table}: none of its pictures can be read")
    found = fit_gate(
        np.stack(list(vectors.values())),
        [names[file] for file in vectors],
        [groups[file] for file in vectors],
        kinds=kinds,
        encoder=encoder.identity,
        pixels=encoding.pixels(encoder),
        site=site,
    )
    write_gate(found, out)
    for kind in found.cannot_exclude(0.95):
        say(f"note: too few pictures to leave {kind} out of any set at level 0.95")
    if not group:
        say("note: no --group: every file counts as a patient of its own; name the patient's column where there is one")
    say_notes(notes)
    problems.exit()


def _kinds(columns: Sequence[Sequence[str]], places: Sequence[str]) -> "list[Kind]":
    from medsiglip.gate.gate import Kind

    found = {name: Kind(name, modality, part) for name, modality, part in zip(*columns, strict=True)}
    for place, row in zip(places, zip(*columns, strict=True), strict=True):
        if found[row[0]] != Kind(*row):
            raise ValueError(f"{place}: kind {row[0]!r} has another modality or body part than elsewhere; give it one")
    return [found[name] for name in sorted(found)]


def _row(file: str, frame: int, verdict: "Verdict", policy: str) -> dict[str, Any]:
    nearest = verdict.nearest
    cells = (file, frame, verdict.decision, list(verdict.kinds), nearest.name, nearest.modality, nearest.body_part)
    return dict(zip(COLUMNS, (*cells, round(verdict.distance, 4), round(verdict.p, 6), policy), strict=True))
