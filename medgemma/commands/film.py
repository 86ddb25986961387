"""`medgemma report`, `locate` and `compare`: a study's findings, a structure's box, two studies of one patient."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medgemma.commands.checking import CheckOptions, write_check
from medgemma.commands.gate import GateOptions
from medgemma.commands.options import (
    AsJson,
    LoadOptions,
    MaxNewTokens,
    Policy,
    Study,
    ThinkingOptions,
    VolumeOptions,
    note_unless_measured,
    studies,
)
from medsiglip.command import Problems, Quiet, files_of, say, spread_options, whole_file
from medsiglip.imaging import Picture

if TYPE_CHECKING:
    import PIL.Image

    from medgemma.answers import Answer, LocatedBox
    from medgemma.asking import AnswerOptions
    from medgemma.model import MedGemma

File = Annotated[str, typer.Argument(metavar="FILE", help="A picture, or a folder or file of one study.")]
Out = Annotated[Path | None, typer.Option(help="File for the answer; stdout without it.")]
_LEAST_DRAWING_PX = 512
_BOX_COLOUR = (242, 201, 76)


@spread_options
def report(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A picture, or a folder or file of one study.")] = "",
    indication: Annotated[str, typer.Option(help="Why the study was made: 'Cough for three weeks.'")] = "",
    as_json: AsJson = False,
    out: Out = None,
    max_new_tokens: MaxNewTokens = 512,
    *,
    thinking: ThinkingOptions,
    policy: Policy = "voi",
    volumes: VolumeOptions,
    gating: GateOptions,
    checking: CheckOptions,
    loading: LoadOptions,
    quiet: Quiet = False,
) -> None:
    """The findings of a study, as a radiologist's report has them. A draft by a model, not a report.

    With --check each sentence of it, or of --draft, is marked: supported, contradicted, or not mentioned.
    """
    from medgemma.asking import AnswerOptions
    from medgemma.prompts.film_prompts import findings_question

    checking.demand_whole(file)
    options = AnswerOptions(thinking=thinking.chosen(), view=volumes.view())
    problems = Problems()
    kept = list(gating.keep(_studies([file], policy, options, quiet), problems)) if file else []
    if file and not kept:
        problems.exit()
    study = kept[0] if kept else None
    if checking.draft:
        draft = checking.draft_text()
        write_check(draft, checking.source_text(study), checking, {"draft": str(checking.draft)}, as_json, out)
        return
    assert study is not None  # demand_whole
    gemma = loading.load()
    note_unless_measured(gemma, "reports")
    answer = _answer(gemma, study, findings_question(indication), max_new_tokens, options)
    if checking.check:
        write_check(answer.text, checking.source_text(study), checking, _fields(answer), as_json, out)
    else:
        _write_answer(answer, as_json, out)
    _note_if_cut(answer)


@spread_options
def compare(
    prior: Annotated[str, typer.Argument(metavar="PRIOR", help="The earlier study.")],
    current: Annotated[str, typer.Argument(metavar="CURRENT", help="The later study.")],
    question: Annotated[str, typer.Option("--question", "-q", help="Instead of the general question.")] = "",
    as_json: AsJson = False,
    out: Out = None,
    max_new_tokens: MaxNewTokens = 600,
    *,
    thinking: ThinkingOptions,
    policy: Policy = "voi",
    volumes: VolumeOptions,
    loading: LoadOptions,
    quiet: Quiet = False,
) -> None:
    """What has changed between two studies of one patient."""
    from medgemma.asking import AnswerOptions
    from medgemma.prompts.content import comparison_parts
    from medgemma.prompts.film_prompts import COMPARISON

    options = AnswerOptions(thinking=thinking.chosen(), view=volumes.view())
    earlier, later = _studies([prior, current], policy, options, quiet)
    both = Study((*earlier.files, *later.files), comparison_parts(earlier.parts, later.parts))
    gemma = loading.load()
    note_unless_measured(gemma, "comparisons")
    answer = _answer(gemma, both, question or COMPARISON, max_new_tokens, options)
    _write_answer(answer, as_json, out)
    _note_if_cut(answer)


@spread_options
def locate(
    file: File,
    structure: Annotated[str, typer.Option("--question", "-q", help="The structure: 'right clavicle'.")],
    out: Annotated[Path, typer.Option(help="PNG file: the picture with the box.")],
    reasoning: Annotated[
        bool, typer.Option("--reasoning", help="Let the model reason aloud first; its boxes may then not parse.")
    ] = False,
    max_new_tokens: MaxNewTokens = 1000,
    *,
    thinking: ThinkingOptions,
    policy: Policy = "voi",
    loading: LoadOptions,
    quiet: Quiet = False,
) -> None:
    """The box of a structure, drawn on the picture and printed as JSON: pixels of the picture, the patient's side."""
    from medgemma.answers import locate_boxes, parse_boxes
    from medgemma.asking import AnswerOptions
    from medgemma.prompts.film_prompts import box_schema, localisation_question
    from medsiglip.imaging.drawing import save_png

    if out.suffix.lower() != ".png" or out.is_dir():
        raise ValueError(f"--out {out}: give the name of a PNG file, such as box.png")
    think = thinking.chosen()
    [study] = _studies([file], policy, AnswerOptions(), quiet)
    picture = _one_picture(study)
    gemma = loading.load()
    note_unless_measured(gemma, "places")
    form = None if reasoning else gemma.asking.grammars.json_schema(box_schema(structure), compact=True)
    question = localisation_question(structure, reasoning=reasoning)
    asked = [(study.parts, question)]
    [answer] = gemma.ask_parts(asked, max_new_tokens, 1, AnswerOptions(thinking=think, form=form))
    parsed = parse_boxes(answer.text, None if reasoning else "per_mille", answer.finish_reason)
    boxes, reason = locate_boxes(parsed, picture, answer.resize)
    save_png(drawn(picture, structure, boxes, reason), out)
    typer.echo(json.dumps(_located(answer, structure, boxes, reason), ensure_ascii=False))
    if reason:
        say(f"note: {reason}")


def drawn(picture: Picture, structure: str, boxes: "Sequence[LocatedBox]", reason: str | None) -> "PIL.Image.Image":
    """The picture with its boxes, enlarged by a whole number where it is small, above what they are."""
    from PIL import ImageDraw

    from medsiglip.imaging.drawing import BRIGHT, WARNING, Line, captioned, enlarged

    times = max(1, round(_LEAST_DRAWING_PX / max(picture.pixels.shape[:2])))
    image = enlarged(picture.pixels, times)
    draw = ImageDraw.Draw(image)
    for box in boxes:
        y0, x0, y1, x1 = (round(edge * times) for edge in box.pixels)
        draw.rectangle(
            (x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline=_BOX_COLOUR, width=max(2, image.width // 200)
        )
    lines = [Line(structure, BRIGHT), *(Line(_box_text(box)) for box in boxes)]
    return captioned(image, max(image.size), [*lines, *([Line(reason, WARNING)] if reason else [])])


def _box_text(box: "LocatedBox") -> str:
    y0, x0, y1, x1 = (round(edge) for edge in box.pixels)
    side = f", {box.side} (by {box.side_from})" if box.side else ""
    return f"rows {y0} to {y1}, columns {x0} to {x1}{side}"


def _located(answer: "Answer", structure: str, boxes: "Sequence[LocatedBox]", reason: str | None) -> dict[str, Any]:
    return {
        **_fields(answer),
        "structure": structure,
        "boxes": [
            {
                "label": box.label,
                "y0_x0_y1_x1_px": [round(edge, 1) for edge in box.pixels],
                "side": box.side,
                "side_from": box.side_from,
            }
            for box in boxes
        ],
        "reason": reason,
    }


def _studies(files: Sequence[str], policy: str, options: "AnswerOptions", quiet: bool) -> list[Study]:
    """One study for each argument; nothing is asked unless all could be read whole."""
    problems = Problems()
    found = []
    for file in files:
        sources = files_of([file], problems)
        found += list(studies(sources, policy, options.view, problems, each=False, quiet=quiet))
    if problems.found:
        say("nothing was asked; the answer would be about a part of what was given")
        raise typer.Exit(1)
    if len(found) != len(files):
        raise ValueError(f"{', '.join(files)}: no picture; give a picture or a folder of one study")
    return found


def _one_picture(study: Study) -> Picture:
    pictures = [part for part in study.parts if isinstance(part, Picture)]
    if len(pictures) != 1:
        raise ValueError(
            f"{', '.join(study.files)}: {len(pictures)} pictures; a box is of one, so give a single picture"
        )
    return pictures[0]


def _answer(gemma: "MedGemma", study: Study, question: str, max_new_tokens: int, options: "AnswerOptions") -> "Answer":
    try:
        [answer] = gemma.ask_parts([(study.parts, question)], max_new_tokens, 1, options)
    except ValueError as error:
        raise ValueError(f"{', '.join(study.files)}: {error}") from error
    return answer


def _write_answer(answer: "Answer", as_json: bool, out: Path | None) -> None:
    with whole_file(out) as file:
        file.write((json.dumps(_fields(answer), ensure_ascii=False) if as_json else answer.text) + "\n")


def _note_if_cut(answer: "Answer") -> None:
    if answer.finish_reason == "length":
        say(f"note: the answer was cut after {answer.tokens} tokens; raise --max-new-tokens")


def _fields(answer: "Answer") -> dict[str, Any]:
    fields = {"answer" if k == "text" else k: v for k, v in asdict(answer).items()}
    return {**fields, "seconds": round(answer.seconds, 3)}
