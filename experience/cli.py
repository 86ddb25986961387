"""The command `medgemma-episodes`: take episodes in, look at them, check them, annotate them, hand them on."""

import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Episodes in the RLDS form: import, export, show, stats, check, annotate, migrate, recover, replay-info.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="A data set of episodes.")]
Out = Annotated[Path, typer.Option("--out", help="Folder to write; episodes that lie there already are kept.")]


@app.command("import")
def import_command(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="Folder of a TFDS, Minari or LeRobot data set.")],
    out: Out,
    split: Annotated[str, typer.Option(help="Only this split.")] = "",
) -> None:
    """Take in episodes of TFDS/RLDS (TFRecord, array_record), Minari (HDF5, Arrow) or LeRobot (v3); no TensorFlow."""
    from experience.formats.sources import read_source
    from experience.storage.commit import commit

    found = read_source(source, split)
    count = commit(out, found.episodes, split=found.split_of)
    for line in found.notes:
        typer.echo(f"note: {line}", err=True)
    typer.echo(f"{out}: {count} episodes from {source}")


@app.command("export")
def export_command(
    folder: Folder,
    form: Annotated[str, typer.Option("--format", help="tfds, tfds-array-record or hub.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write; must not be there.")],
    name: Annotated[str, typer.Option(help="Of the data set, where the form asks for one.")] = "episodes",
    valid_only: Annotated[bool, typer.Option(help="Leave out episodes marked invalid.")] = False,
    split_by: Annotated[str, typer.Option(help="Metadata field to divide by: train, held-out, final.")] = "",
    licence: Annotated[str, typer.Option(help="For the card of a Hub folder.")] = "",
    description: Annotated[str, typer.Option(help="For the card of a Hub folder.")] = "",
) -> None:
    """Write a TFDS/RLDS folder, or a folder ready to share on the Hub, with its card and Croissant."""
    from experience.dataset import EpisodeDataset
    from experience.formats.targets import Wanted, export

    wanted = Wanted(name, valid_only, split_by, licence, description)
    for line in export(EpisodeDataset(folder), form, out, wanted):
        typer.echo(line)


@app.command()
def show(
    folder: Folder,
    episode: Annotated[str, typer.Argument(metavar="EPISODE", help="Its id, or its number from 0.")] = "0",
    html: Annotated[Path | None, typer.Option(help="Write one HTML page, pictures inside, instead.")] = None,
) -> None:
    """Print an episode step by step: what was seen, done and rewarded."""
    from experience.dataset import EpisodeDataset
    from experience.show import page_of, text_of

    dataset = EpisodeDataset(folder)
    key = dataset.id_of(episode)
    if html is None:
        typer.echo(text_of(dataset, key), nl=False)
    else:
        html.write_text(page_of(dataset, key), encoding="utf-8")
        typer.echo(html)


@app.command()
def stats(
    folder: Folder,
    ids: Annotated[bool, typer.Option(help="Print a line an episode: id, steps, split, valid or invalid.")] = False,
) -> None:
    """Print counts, columns, lengths, and the mean and deviation of rewards and numbers."""
    from experience.dataset import EpisodeDataset
    from experience.stats import stats_lines

    dataset = EpisodeDataset(folder)
    if ids:
        for one in dataset.entries:
            typer.echo(f"{one.episode_id}\t{one.num_steps}\t{one.split}\t{'invalid' if one.invalid else 'valid'}")
    else:
        for line in stats_lines(dataset):
            typer.echo(line)


@app.command()
def check(folder: Folder) -> None:
    """Read every episode against its SHA-256; one line for each thing wrong, and exit status 1 if there is any."""
    from experience.dataset import EpisodeDataset

    dataset = EpisodeDataset(folder)
    wrong = list(dataset.check())
    for line in wrong:
        typer.echo(line)
    if wrong:
        raise typer.Exit(1)
    invalid = sum(map(bool, dataset.entries.values("invalid")))
    typer.echo(f"{folder}: {len(dataset)} episodes are what was written ({invalid} of them invalid)")


@app.command()
def annotate(
    folder: Folder,
    name: Annotated[str, typer.Option(help="Of the annotation: a new column.")],
    author: Annotated[str, typer.Option(help="Who says so.")],
    value: Annotated[str, typer.Option(help="A text, or JSON: 3, true, null, [1, 2].")] = "",
    episode: Annotated[str, typer.Option(help="Its id, or its number from 0.")] = "",
    step: Annotated[int | None, typer.Option(help="Number of the step; without it the whole episode.")] = None,
    file: Annotated[Path | None, typer.Option(help="JSON lines instead: episode_id, step, value.")] = None,
) -> None:
    """Add values of an annotation to episodes or steps, with their author and the time."""
    from experience.annotations import annotate as add
    from experience.annotations import values_in
    from experience.dataset import EpisodeDataset

    if (file is None) == (episode == ""):
        raise ValueError("got --episode and --file, or neither; expected one of them")
    dataset = EpisodeDataset(folder)
    values = values_in(file) if file else [(dataset.id_of(episode), step, _json_or_text(value))]
    add(dataset, name, author, values)
    typer.echo(f"{folder}: {len(values)} values of {name} by {author}")


@app.command()
def migrate(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="episodes.jsonl of an earlier version.")],
    out: Out,
) -> None:
    """Turn episodes written as JSON lines into a data set."""
    from experience.formats.jsonl import read_jsonl
    from experience.storage.commit import commit

    typer.echo(f"{out}: {commit(out, read_jsonl(source))} episodes from {source}")


@app.command()
def recover(folder: Folder) -> None:
    """Take in what recorders that died have left; a cut episode keeps its steps and is marked invalid."""
    from experience.storage.commit import journals
    from experience.storage.commit import recover as take_in

    count = take_in(folder)
    for path in journals(folder):
        typer.echo(f"note: {path}: its recorder is still at work", err=True)
    typer.echo(f"{folder}: {count} episodes taken in")


@app.command("replay-info")
def replay_info(
    url: Annotated[str, typer.Argument(metavar="URL", help="Where a replay serves: WatchServer(replay.info).url")],
    every: Annotated[float, typer.Option(help="Print again after so many seconds, until Ctrl-C; 0: once.")] = 0.0,
) -> None:
    """Print what the tables of a running replay are at, and why calls wait."""
    import time

    from experience.replay.watch import lines_of

    while True:
        for line in lines_of(url):
            typer.echo(line)
        if not every:
            return
        time.sleep(every)
        typer.echo()


def main() -> None:
    """Run the command; a user's mistake becomes one line on stderr and exit status 1."""
    try:
        app()
    except (ValueError, OSError) as fault:
        typer.echo(f"error: {' '.join(str(fault).split())}", err=True)
        sys.exit(1)


def _json_or_text(value: str) -> object:
    import json

    try:
        return json.loads(value)
    except ValueError:
        return value
