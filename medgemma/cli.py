"""The `medgemma` command: the demo, questions, conversations and reports about pictures, batches, and checkpoints."""

from pathlib import Path
from typing import Annotated

import typer

from medgemma.commands import checkpoint as checkpoint_cli
from medgemma.commands.ask import ask
from medgemma.commands.batch import batch
from medgemma.commands.chat import chat
from medgemma.commands.film import compare, locate, report
from medsiglip.command import Device, Dtype, Model, Quiet, new_app, run

app = new_app("MedGemma: questions about medical pictures. Not a medical device.")


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
    from medgemma.commands.demo import run_demo

    report = run_demo(out, model, encoder, device, dtype, quiet)
    typer.echo(str(report))


for command in (
    ask,
    batch,
    chat,
    report,
    locate,
    compare,
    checkpoint_cli.info,
    checkpoint_cli.convert,
    checkpoint_cli.merge,
    checkpoint_cli.plug,
):
    app.command()(command)


def main() -> None:
    """Entry point of the `medgemma` script."""
    run(app)
