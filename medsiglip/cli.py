"""The `medsiglip` command: classify and embed pictures."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from medsiglip.command import (
    Files,
    Model,
    Problems,
    Quiet,
    Select,
    files_of,
    new_app,
    progress,
    run,
    say,
    say_notes,
    spread_options,
)
from medsiglip.commands.calibrate import calibrate
from medsiglip.commands.check import check
from medsiglip.commands.classify import classify
from medsiglip.commands.encoding import EncodeOptions, Resize
from medsiglip.commands.gate import gate, gate_fit
from medsiglip.commands.probe import probe
from medsiglip.imaging import Notes, Volume

app = new_app("MedSigLIP: medical pictures to zero-shot labels and embeddings. Not a medical device.")
app.command()(spread_options(classify))
app.command()(spread_options(calibrate))
app.command()(spread_options(gate))
app.command("gate-fit")(spread_options(gate_fit))
app.command()(probe)
app.command()(spread_options(check))
Item = TypeVar("Item")


@app.command()
@spread_options
def embed(
    files: Files,
    out: Annotated[Path, typer.Option(help="Parquet file; an interrupted run goes on.")],
    volumes: Annotated[
        bool, typer.Option("--volumes", help="A series or volume is one row: its slices' mean.")
    ] = False,
    slices: Annotated[bool, typer.Option("--slices", help="With --volumes: a row for each slice too.")] = False,
    *,
    encoding: EncodeOptions,
    quiet: Quiet = False,
) -> None:
    """One unit vector a frame, or with --volumes a series: file, frame, sha256, embedding, model, policy, findings.

    --model may be any picture encoder of transformers.
    """
    from medsiglip.embed import embed_files
    from medsiglip.pooling import embed_volumes

    if slices and not volumes:
        raise ValueError("--slices goes with --volumes; without it every slice is a row already")
    problems, notes = Problems(), Notes()
    select = encoding.any_selection if volumes else encoding.selection
    paths = files_of(files, problems)
    encoder = encoding.load_any()
    policy = encoding.policy_of(encoder)

    def note_stale(aside: Path) -> None:
        say(
            "note: the model's pixels or other files have changed since it embedded what was there; all files are "
            f"embedded anew, and the old rows are in {aside.name}"
        )

    with progress(None, "pictures", quiet) as advance:
        if volumes:
            embed_volumes(
                encoder, paths, out, on_problem=problems.add, slices=slices, policy=policy,
                batch_size=encoding.batch_size, select=select, on_progress=advance, notes=notes, on_stale=note_stale,
            )  # fmt: skip
        else:
            embed_files(
                encoder, paths, out, on_problem=problems.add, batch_size=encoding.batch_size, policy=policy,
                select=select, on_progress=advance, notes=notes, on_stale=note_stale,
            )  # fmt: skip
    say_notes(notes)
    problems.exit()


@app.command()
def look(
    files: Files,
    out: Annotated[Path, typer.Option(help="PNG file.")],
    policy: Annotated[str, typer.Option(help="Pixels: voi, voi:2, full-range, percentile, ct-report, ...")] = "voi",
    resize: Resize = "",
    size_px: Annotated[
        int | None, typer.Option(min=1, max=2048, help="Side of the square instead of the model's own.")
    ] = None,
    slices: Annotated[int, typer.Option(min=1, help="Slices shown of a volume.")] = 16,
    select: Select = None,
    model: Model = "nano",
    quiet: Quiet = False,
) -> None:
    """What the model sees: each picture beside the file's own window, a volume as a contact sheet.

    Text that is burned into the pixels is shown as it is.
    """
    from medsiglip.checkpoints.folders import read_json, resolve_model
    from medsiglip.imaging.drawing import save_png
    from medsiglip.imaging.look import Pair, View, draw, opened
    from medsiglip.imaging.volumes.select import parse_selection
    from medsiglip.preprocess import Preprocessing

    if out.suffix.lower() != ".png" or out.is_dir():
        raise ValueError(f"--out {out}: give the name of a PNG file, such as look.png")
    folder = resolve_model(model)
    preprocessing = Preprocessing.from_folder(folder, resize or None)
    name = folder.name if Path(model).is_dir() else model
    model_type = str(read_json(folder / "config.json").get("model_type", ""))
    view = View(name, size_px or preprocessing.size_px, preprocessing.policy, model_type)
    problems, notes, selection = Problems(), Notes(), parse_selection(select or [])

    def noted(items: Iterable[Pair | Volume]) -> Iterator[Pair | Volume]:
        for item in items:
            about = item.given if isinstance(item, Pair) else item
            notes.add(about.file, about.findings)
            yield item

    with progress(None, "pictures and volumes", quiet) as advance:
        items = counted(noted(opened(files, policy, on_problem=problems.add, select=dict(selection))), advance)
        sheet = draw(items, view, policy=policy, num_slices=slices, on_problem=problems.add)
    if sheet is not None:
        save_png(sheet, out)
    say_notes(notes)
    problems.exit()


@app.command()
def tasks() -> None:
    """The names that `classify --task` knows, with their labels."""
    from medsiglip.prompts import label_set, task_names

    for name in task_names():
        typer.echo(f"{name} ({label_set(name).convention}): {'; '.join(label_set(name).labels)}")


def counted(items: Iterable[Item], advance: Callable[[int], object]) -> Iterator[Item]:
    """The same items; `advance` is told of each."""
    for item in items:
        advance(1)
        yield item


def main() -> None:
    """Entry point of the `medsiglip` script."""
    run(app)
