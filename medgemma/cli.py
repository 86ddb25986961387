"""The `medgemma` command: the demo, questions about pictures, a conversation about them, and checkpoints."""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medgemma import checkpoint_cli
from medsiglip.command import (
    Device,
    Dtype,
    Files,
    Model,
    Problems,
    Quiet,
    files_of,
    new_app,
    progress,
    run,
    whole_file,
)
from medsiglip.imaging import FileProblem, ImageError, Picture
from medsiglip.imaging.source import Source
from medsiglip.imaging.workers.pool import shared_pool

if TYPE_CHECKING:
    from medgemma.answers import Answer
    from medgemma.chat import Message
    from medgemma.model import MedGemma

app = new_app("MedGemma: questions about medical pictures. Not a medical device.")
MaxNewTokens = Annotated[int, typer.Option(min=1, help="An answer is cut here.")]


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for report.html and results.json.")],
    model: Model = "nano",
    encoder: Annotated[
        str, typer.Option(help="The encoder for zero-shot labels: 'nano', a folder, or a Hub id.")
    ] = "nano",
    device: Device = "auto",
    dtype: Dtype = "auto",
    quiet: Quiet = False,
) -> None:
    """Label and question real pictures that the installed packages carry; offline, in half a minute."""
    from medgemma.demo import run_demo

    report = run_demo(out, model, encoder, device, dtype, quiet)
    typer.echo(str(report))


@app.command()
def ask(
    files: Files,
    question: Annotated[list[str], typer.Option("--question", "-q", help="Repeatable; each is answered by itself.")],
    each: Annotated[bool, typer.Option("--each", help="Ask every FILE separately, not all as one prompt.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    out: Annotated[Path | None, typer.Option(help="File for the answers; stdout without it.")] = None,
    max_new_tokens: MaxNewTokens = 256,
    model: Model = "nano",
    device: Device = "auto",
    dtype: Dtype = "auto",
    quiet: Quiet = False,
) -> None:
    """Ask questions about pictures; all FILEs together are one prompt, or each is one with --each."""
    from medgemma.model import MedGemma

    problems = Problems()
    studies = _studies(files_of(files, problems), each, problems)
    gemma = MedGemma.from_pretrained(model, device=device, dtype=dtype)
    with whole_file(out) as file, progress(None, "answers", quiet) as advance:
        for pictures in studies:
            for answer in _answers(gemma, pictures, question, max_new_tokens, problems):
                file.write(_line(answer, as_json) + "\n")
                advance(1)
    problems.exit()


@app.command()
def chat(
    files: Annotated[list[str] | None, typer.Argument(metavar="[FILE...]", help="Pictures of the first turn.")] = None,
    max_new_tokens: MaxNewTokens = 256,
    model: Model = "nano",
    device: Device = "auto",
    dtype: Dtype = "auto",
    quiet: Quiet = False,
) -> None:
    """A conversation about pictures: one line a turn, the reply streams; an empty line or Ctrl-D ends it."""
    from medgemma.model import MedGemma

    problems = Problems()
    pictures = [p for study in _studies(files_of(files, problems), True, problems) for p in study] if files else []
    gemma = MedGemma.from_pretrained(model, device=device, dtype=dtype)
    messages: list[Message] = []
    for line in _turns(quiet):
        first = [{"type": "image"} for _ in pictures] if not messages else []
        asked: Message = {"role": "user", "content": [*first, {"type": "text", "text": line}]}
        try:
            reply = _streamed(gemma, [*messages, asked], pictures, max_new_tokens)
        except ValueError as error:
            problems.add(FileProblem("this turn", str(error)))
            continue
        messages += [asked, {"role": "assistant", "content": reply}]
    problems.exit()


for command in (checkpoint_cli.info, checkpoint_cli.convert, checkpoint_cli.merge, checkpoint_cli.plug):
    app.command()(command)


def _studies(files: Sequence[Source], each: bool, problems: Problems) -> Iterator[list[Picture]]:
    """The pictures of each prompt; with `each` one file is one study, else all together are. Read when needed."""
    together: list[Picture] = []
    for pictures in shared_pool().pictures(files):
        if isinstance(pictures, ImageError):
            problems.add(FileProblem(pictures.file, pictures.reason))
        elif each:
            yield pictures
        else:
            together += pictures
    if together:
        yield together


def _answers(
    gemma: "MedGemma",
    pictures: list[Picture],
    questions: Sequence[str],
    max_new_tokens: int,
    problems: Problems,
) -> "list[Answer]":
    """All questions as one batch; when one is refused, each by itself so that the others are answered."""
    try:
        return gemma.ask(pictures, questions, max_new_tokens=max_new_tokens)
    except ValueError as error:
        if len(questions) == 1:
            files = ", ".join(dict.fromkeys(picture.file for picture in pictures))
            problems.add(FileProblem(f"{files}, question {questions[0][:40]!r}", str(error)))
            return []
    return [a for q in questions for a in _answers(gemma, pictures, [q], max_new_tokens, problems)]


def _line(answer: "Answer", as_json: bool) -> str:
    if as_json:
        fields = {"answer" if k == "text" else k: v for k, v in asdict(answer).items()}
        return json.dumps({**fields, "seconds": round(answer.seconds, 3)}, ensure_ascii=False)
    return f"{', '.join(answer.files)}\t{answer.question}\t{answer.text}"


def _turns(quiet: bool) -> Iterator[str]:
    """Lines from the terminal or a pipe, up to an empty one."""
    while True:
        if not quiet:
            typer.echo("> ", nl=False, err=True)
        line = sys.stdin.readline().strip()
        if not line:
            return
        yield line


def _streamed(gemma: "MedGemma", messages: "Sequence[Message]", pictures: list[Picture], max_new_tokens: int) -> str:
    pieces = []
    for piece in gemma.stream(messages, pictures, max_new_tokens=max_new_tokens):
        typer.echo(piece, nl=False)
        sys.stdout.flush()
        pieces.append(piece)
    typer.echo()
    return "".join(pieces)


def main() -> None:
    """Entry point of the `medgemma` script."""
    run(app)
