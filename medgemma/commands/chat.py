"""`medgemma chat`: a conversation about pictures, streamed."""

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from medgemma.commands.options import (
    DrawOptions,
    LoadOptions,
    MaxNewTokens,
    Policy,
    System,
    ThinkingOptions,
    VolumeOptions,
    note_unless_measured,
    studies,
)
from medsiglip.command import Problems, Quiet, files_of, spread_options
from medsiglip.imaging import FileProblem, Picture

if TYPE_CHECKING:
    from medgemma.asking import AnswerOptions
    from medgemma.model import MedGemma
    from medgemma.prompts.chat import Message
    from medgemma.prompts.content import Part


@spread_options
def chat(
    files: Annotated[list[str] | None, typer.Argument(metavar="[FILE...]", help="Pictures of the first turn.")] = None,
    max_new_tokens: MaxNewTokens = 256,
    system: System = "",
    *,
    thinking: ThinkingOptions,
    draws: DrawOptions,
    policy: Policy = "voi",
    volumes: VolumeOptions,
    loading: LoadOptions,
    quiet: Quiet = False,
) -> None:
    """A conversation about pictures: one line a turn, the reply streams; an empty line or Ctrl-D ends it."""
    from medgemma.asking import AnswerOptions
    from medgemma.prompts.content import pictures_of, user_turn

    problems = Problems()
    options = AnswerOptions(draws.sampling(max_new_tokens), thinking.chosen())
    about = (
        studies(files_of(files, problems), policy, volumes.view(), problems, each=False, quiet=quiet) if files else ()
    )
    parts: list[Part] = [part for study in about for part in study.parts]
    gemma = loading.load()
    note_unless_measured(gemma, "conversations")
    beginning: list[Message] = [{"role": "system", "content": system}] if system else []
    messages = list(beginning)
    for line in _turns(quiet):
        first = parts if messages == beginning else []
        asked = user_turn([*first, line]).message
        try:
            reply = _streamed(gemma, [*messages, asked], pictures_of(parts), max_new_tokens, options)
        except ValueError as error:
            problems.add(FileProblem("this turn", str(error)))
            continue
        messages += [asked, {"role": "assistant", "content": reply}]
    problems.exit()


def _turns(quiet: bool) -> Iterator[str]:
    """Lines from the terminal or a pipe, up to an empty one."""
    while True:
        if not quiet:
            typer.echo("> ", nl=False, err=True)
        line = sys.stdin.readline().strip()
        if not line:
            return
        yield line


def _streamed(
    gemma: "MedGemma",
    messages: "Sequence[Message]",
    pictures: list[Picture],
    max_new_tokens: int,
    options: "AnswerOptions",
) -> str:
    pieces = []
    for piece in gemma.stream(messages, pictures, max_new_tokens=max_new_tokens, options=options):
        typer.echo(piece, nl=False)
        sys.stdout.flush()
        pieces.append(piece)
    typer.echo()
    return "".join(pieces)
