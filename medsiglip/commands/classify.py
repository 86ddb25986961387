"""`medsiglip classify`: labels for every frame, zero-shot or by a probe, as CSV or JSON lines."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from medsiglip.command import Files, Problems, Quiet, files_of, progress, say, say_notes, whole_file
from medsiglip.commands.encoding import EncodeOptions
from medsiglip.imaging import Notes

if TYPE_CHECKING:
    import numpy as np

    from medsiglip.calibration.calibration import Calibration
    from medsiglip.prompts import LabelSet
    from medsiglip.zero_shot import ZeroShotClassifier, ZeroShotResult

COLUMNS = ("file", "frame", "label", "probability", "score", "policy", "convention", "calibration", "decision", "gate")
Labels = Annotated[list[str] | None, typer.Option(help="Labels, separated by semicolons or given again.")]
Task = Annotated[str, typer.Option(help="A named label set instead of --labels.")]
PromptFile = Annotated[
    Path | None, typer.Option("--prompts", help="A YAML file of labels and prompts; with --task, prompts of its own.")
]


def classify(
    files: Files,
    labels: Labels = None,
    task: Task = "",
    prompts: PromptFile = None,
    independent: Annotated[bool, typer.Option("--independent", help="Labels do not exclude each other.")] = False,
    probe: Annotated[Path | None, typer.Option(help="Folder that medsiglip probe wrote, instead of labels.")] = None,
    calibration: Annotated[
        str, typer.Option(help="What medsiglip calibrate wrote; auto: what ships with the model; none: nothing.")
    ] = "auto",
    site: Annotated[str, typer.Option(help="Whose pictures these are; a calibration of another site is said.")] = "",
    gate: Annotated[
        str, typer.Option(help="What gate-fit wrote, or auto: pictures of other kinds get no probability.")
    ] = "",
    gate_level: Annotated[float, typer.Option(help="Chance with which the gate keeps a picture's kind.")] = 0.95,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a frame instead of CSV.")] = False,
    out: Annotated[Path | None, typer.Option(help="File; stdout without it.")] = None,
    *,
    encoding: EncodeOptions,
    quiet: Quiet = False,
) -> None:
    """Labels for every frame: file,frame,label,probability,score,... (score is the cosine; of a probe the logit)."""
    from medsiglip.class_vectors import default_folder
    from medsiglip.embed import readable_pictures
    from medsiglip.gate.files import gate_for
    from medsiglip.gate.gate import check_level
    from medsiglip.probing.head import read_head
    from medsiglip.zero_shot import ZeroShotClassifier

    head = read_head(probe) if probe else None
    if head and (labels or task or prompts or independent or calibration != "auto"):
        raise ValueError("--probe has its own labels and probabilities; give it without labels, prompts or calibration")
    asked = None if head else asked_labels(labels, task, prompts, independent)
    problems, notes, select = Problems(), Notes(), encoding.selection
    paths = files_of(files, problems)
    encoder = encoding.load()
    calibrated, made_for = None, asked.made_for if asked else ()
    if head:
        head.check(encoder.identity, encoding.pixels(encoder))
    if asked:
        classifier = ZeroShotClassifier(encoder, asked, cache=default_folder())
        calibrated = find_calibration(calibration, encoder.folder, classifier, encoding.pixels(encoder), site)
    known = gate_for(gate, encoder.folder, encoder.identity, encoding.pixels(encoder)) if gate else None
    if known:
        known.named(made_for)
        check_level(gate_level)
    with whole_file(out) as file, progress(None, "pictures", quiet) as advance:
        write = _json_writer(file) if as_json else _csv_writer(file)
        square, policy = encoder.preprocessing.square, encoding.policy_of(encoder)
        readable = readable_pictures(paths, problems.add, square=square, policy=policy, select=select)
        for pictures, vectors in encoder.stream_images(readable, encoding.batch_size):
            result = (head or classifier).classify_vectors(vectors)
            probabilities = calibrated.probabilities(result) if calibrated else result.probabilities
            decisions = calibrated.decisions(result) if calibrated else None
            verdicts = known.judge(vectors, gate_level, made_for) if known else None
            for i, picture in enumerate(pictures):
                notes.add(picture.file, picture.findings)
                said = {
                    "file": picture.file,
                    "frame": picture.frame,
                    "policy": f"{picture.policy}+{encoder.preprocessing.policy}",
                    "convention": f"{result.convention} of a probe" if head else result.convention,
                    "calibration": name_of(calibrated),
                    "gate": verdicts[i].decision if verdicts else "",
                }
                write(said, _rows(result, probabilities, decisions, i, not verdicts or verdicts[i].accepted))
            advance(len(pictures))
    say_notes(notes)
    problems.exit()


def asked_labels(labels: list[str] | None, task: str, prompts: Path | None, independent: bool) -> "LabelSet":
    """The label set that --labels, --task and --prompts ask for.

    Raises:
        ValueError: none or two of them are given, or they do not go together.
    """
    from medsiglip.prompts import LabelSet, label_set, read_label_set

    named = ";".join(labels or [])
    if bool(named) == bool(task or prompts):
        raise ValueError('give either --labels "a;b", or --task NAME, or --prompts FILE')
    if independent and not named:
        raise ValueError("--independent goes with --labels; a task says itself whether its labels exclude each other")
    if not named:
        own = read_label_set(prompts) if prompts else None
        return label_set(task).with_prompts_of(own) if task and own else own or label_set(task)
    if not independent and named.strip(" ;") and ";" not in named.strip(" ;"):
        raise ValueError(
            f"--labels {named!r}: one label, so its probability is 1 whatever the picture shows; "
            "separate labels by semicolons, or add --independent"
        )
    return LabelSet.of_labels(named.split(";"), independent=independent)


def find_calibration(
    asked: str, folder: Path, classifier: "ZeroShotClassifier", pixels: str, site: str
) -> "Calibration | None":
    """The calibration that was asked for, or the one that ships for this encoder and these labels; None without.

    Raises:
        ValueError: the one that was asked for is of other labels, another encoder or other pixels.
    """
    from medsiglip.calibration.calibration import read_calibration
    from medsiglip.calibration.shipped import shipped_calibration

    if asked in ("auto", "none"):
        return shipped_calibration(folder, classifier, pixels) if asked == "auto" else None
    calibration = read_calibration(Path(asked))
    calibration.check(classifier, pixels)
    if site and site != calibration.site:
        say(
            f"note: {asked} was calibrated at {calibration.site or 'a site that is not named'}, these pictures are of "
            f"{site}; its probabilities and thresholds may not hold there: calibrate on {site}'s own"
        )
    return calibration


def name_of(calibration: "Calibration | None") -> str:
    """Such as "temperature at kit"; empty without."""
    if calibration is None:
        return ""
    return f"{calibration.map.method} at {calibration.site}" if calibration.site else calibration.map.method


def _rows(
    result: "ZeroShotResult", probabilities: "np.ndarray", decisions: list[list[str]] | None, picture: int, passed: bool
) -> Iterator[dict[str, Any]]:
    """A row a label; of a picture that the gate holds back with its cosine alone."""
    for j, label in enumerate(result.labels):
        probability, score = (round(float(table[picture, j]), 6) for table in (probabilities, result.scores))
        decision = decisions[picture][j] if decisions and passed else ""
        yield {"label": label, "probability": probability if passed else None, "score": score, "decision": decision}


def _csv_writer(file: IO[str]) -> Any:
    writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
    writer.writeheader()

    def write(said: dict[str, Any], rows: Iterator[dict[str, Any]]) -> None:
        for row in rows:
            numbers = {name: f"{value:.6f}" if isinstance(value, float) else value for name, value in row.items()}
            writer.writerow({**said, **numbers})

    return write


def _json_writer(file: IO[str]) -> Any:
    def write(said: dict[str, Any], rows: Iterator[dict[str, Any]]) -> None:
        file.write(json.dumps({**said, "labels": list(rows)}, ensure_ascii=False) + "\n")

    return write
