"""`medgemma batch`: OpenAI batch files."""

from pathlib import Path
from typing import Annotated

import typer

from medgemma.commands.options import Adapter, Quantize, Resize, Slices, WindowPreset, note_unless_measured, volume_view
from medsiglip.command import Device, Dtype, Model, Problems, Quiet, progress, say
from medsiglip.imaging import FileProblem


def batch(
    requests: Annotated[Path, typer.Argument(metavar="REQUESTS.jsonl", help="OpenAI batch lines.")],
    out: Annotated[Path, typer.Option(help="JSON lines of the replies; an interrupted run goes on.")],
    resize: Resize = "",
    window_preset: WindowPreset = "",
    slices: Slices = 85,
    group: Annotated[int, typer.Option(min=1, help="Requests answered together, and then kept.")] = 16,
    model: Model = "nano",
    adapter: Adapter = None,
    quantize: Quantize = "",
    device: Device = "auto",
    dtype: Dtype = "auto",
    quiet: Quiet = False,
) -> None:
    """Answer OpenAI batch lines (/v1/chat/completions); pictures are data URLs, nothing is fetched."""
    from medgemma.batch import Answerer, answer_batch
    from medgemma.model import MedGemma

    if not requests.is_file():
        raise ValueError(f"{requests}: no such file; give a file of OpenAI batch lines")
    problems = Problems()
    view = volume_view(window_preset, slices)
    gemma = MedGemma.from_pretrained(
        model, device=device, dtype=dtype, policy=resize or None, quantize=quantize or None, adapter=adapter
    )
    note_unless_measured(gemma, "conversations")
    identity = f"{gemma.fingerprint} {gemma.model.dtype} {gemma.preprocessing} {view}"
    answerer = Answerer(gemma.asking, gemma.engine.generate, gemma.name, identity, view)
    with progress(None, "requests", quiet) as advance:
        answer_batch(
            requests,
            out,
            answerer,
            on_problem=lambda problem: problems.add(FileProblem(problem.name, problem.reason)),
            on_warning=lambda warning: say(f"warning: {warning.name}: {warning.reason}"),
            on_progress=advance,
            group=group,
        )
    problems.exit()
