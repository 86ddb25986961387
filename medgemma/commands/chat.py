"""`medgemma chat`: a conversation about pictures, streamed."""

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from medgemma.commands.options import (
    Adapter,
    MaxNewTokens,
    Policy,
    Quantize,
    Resize,
    Seed,
    Slices,
    System,
    Temperature,
    ThinkingBudget,
    ThinkingFlag,
    TopK,
    TopP,
    WindowPreset,
    note_unless_measured,
    studies,
    thinking_of,
    volume_view,
)
from medsiglip.command import Device, Dtype, Model, Problems, Quiet, files_of
from medsiglip.imaging import FileProblem, Picture

if TYPE_CHECKING:
    from medgemma.asking import AnswerOptions
    from medgemma.model import MedGemma
    from medgemma.prompts.chat import Message
    from medgemma.prompts.content import Part


def chat(
    files: Annotated[list[str] | None, typer.Argument(metavar="[FILE...]", help="Pictures of the first turn.")] = None,
    max_new_tokens: MaxNewTokens = 256,
    system: System = "",
    thinking: ThinkingFlag = None,
    thinking_budget: ThinkingBudget = None,
    temperature: Temperature = 0.0,
    top_k: TopK = None,
    top_p: TopP = 1.0,
    seed: Seed = 0,
    policy: Policy = "voi",
    resize: Resize = "",
    window_preset: WindowPreset = "",
    slices: Slices = 85,
    model: Model = "nano",
    adapter: Adapter = None,
    quantize: Quantize = "",
    device: Device = "auto",
    dtype: Dtype = "auto",
    quiet: Quiet = False,
) -> None:
    """A conversation about pictures: one line a turn, the reply streams; an empty line or Ctrl-D ends it."""
    from medgemma.asking import AnswerOptions
    from medgemma.engine.request import Sampling
    from medgemma.model import MedGemma
    from medgemma.prompts.content import pictures_of, user_turn

    problems = Problems()
    options = AnswerOptions(
        Sampling(max_new_tokens, temperature, top_k, top_p, seed), thinking_of(thinking, thinking_budget)
    )
    view = volume_view(window_preset, slices)
    about = studies(files_of(files, problems), policy, view, problems, each=False, quiet=quiet) if files else ()
    parts: list[Part] = [part for study in about for part in study.parts]
    gemma = MedGemma.from_pretrained(
        model, device=device, dtype=dtype, policy=resize or None, quantize=quantize or None, adapter=adapter
    )
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
