"""`medgemma batch`: OpenAI batch files."""

from pathlib import Path
from typing import Annotated

import typer

from medgemma.commands.options import LoadOptions, VolumeOptions, note_unless_measured
from medsiglip.command import Problems, Quiet, progress, say, spread_options
from medsiglip.imaging import FileProblem


@spread_options
def batch(
    requests: Annotated[Path, typer.Argument(metavar="REQUESTS.jsonl", help="OpenAI batch lines.")],
    out: Annotated[Path, typer.Option(help="JSON lines of the replies; an interrupted run goes on.")],
    *,
    volumes: VolumeOptions,
    group: Annotated[int, typer.Option(min=1, help="Requests answered together, and then kept.")] = 16,
    loading: LoadOptions,
    quiet: Quiet = False,
) -> None:
    """Answer OpenAI batch lines (/v1/chat/completions); pictures are data URLs, nothing is fetched."""
    from medgemma.batch import Answerer, answer_batch

    if not requests.is_file():
        raise ValueError(f"{requests}: no such file; give a file of OpenAI batch lines")
    problems = Problems()
    view = volumes.view()
    gemma = loading.load()
    note_unless_measured(gemma, "conversations")
    dtype = str(gemma.model.dtype)
    answerer = Answerer(gemma.asking, gemma.engine.generate, gemma.name, gemma.identity, view, dtype)
    with progress(None, "requests", quiet) as advance:
        answer_batch(
            requests,
            out,
            answerer,
            on_problem=lambda problem: problems.add(FileProblem(problem.name, problem.reason)),
            on_warning=lambda warning: say(f"warning: {warning.name}: {warning.reason}"),
            on_progress=advance,
            on_stale=lambda aside: say(
                "note: the model's tokenizer, template, pixels or settings have changed since it answered; all "
                f"requests are answered anew, and the old answers are in {aside.name}"
            ),
            group=group,
        )
    problems.exit()
