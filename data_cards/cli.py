"""The command `medgemma-data`: list the data cards, show one, check a copy against its card, print Croissant."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from data_cards.options import spread_options
from data_cards.table.options import TableOptions

app = typer.Typer(
    help="Data sets: what they are, their licences, how to get them, and whether a copy is the card's.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="A card's name; see `medgemma-data list`.")]


@app.command("list")
def list_command(
    task: Annotated[str, typer.Option(help="Only sets for this task, for example classification.")] = "",
    access: Annotated[str, typer.Option(help="Only sets with this access: open, request, credentialed, private.")] = "",
    reader: Annotated[str, typer.Option(help="Only sets whose reader is verified, unverified or none.")] = "",
) -> None:
    """Print one line a card: name, items, access, reader, title, licence.

    A reader is unverified where it was written from a description and never met a real file.
    """
    from data_cards.schema import list_cards, load_card

    cards = [load_card(name) for name in list_cards()]
    _demand("--task", task, {name for card in cards for name in card.tasks})
    _demand("--access", access, {card.access for card in cards})
    _demand("--reader", reader, {card.reader_state for card in cards})
    for card in cards:
        if task in ("", *card.tasks) and access in ("", card.access) and reader in ("", card.reader_state):
            items = "?" if card.items is None else str(card.items)
            state = {"none": "no reader"}.get(card.reader_state, card.reader_state)
            licence = card.licence.splitlines()[0]
            typer.echo(f"{card.name:<26} {items:>7} items  {card.access:<12}  {state:<10}  {card.title} ({licence})")


@app.command()
def show(name: Name) -> None:
    """Print one card as YAML."""
    import yaml

    from data_cards.schema import load_card

    card = load_card(name)
    fields = card.model_dump(mode="json", exclude_defaults=True)
    typer.echo(yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, width=100), nl=False)
    if card.reader_state == "unverified":
        typer.echo("# The reader is unverified: it was written from a description and never met a real file.")


@app.command()
@spread_options
def check(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A card's name; see `medgemma-data list`.")] = "",
    path: Annotated[
        Path | None, typer.Argument(metavar="PATH", help="The set's folder, or the folder it lies in.")
    ] = None,
    *,
    options: TableOptions,
) -> None:
    """Compare a copy with its card (NAME PATH), or look your own table over (--table); exit status 1 for any fault."""
    if options.table:
        if name:
            raise ValueError(f"got {name!r} and --table; give a card's name and its folder, or --table")
        _check_table(options)
    elif name and path:
        _check_copy(name, path)
    else:
        raise ValueError("give a card's name and the folder of the set, or --table T for a table of yours")


def _check_table(options: TableOptions) -> None:
    from data_cards.table.check import check_table

    table = options.read()
    for line in table.described():
        typer.echo(line)
    for line in table.findings:
        typer.echo(f"note: {line}")
    faults = check_table(table)
    for line in faults:
        typer.echo(f"fault: {line}")
    if faults:
        raise typer.Exit(1)
    typer.echo("no faults; pictures were not decoded: `medsiglip check --table` does that")


def _check_copy(name: str, path: Path) -> None:
    from data_cards.check import check_copy
    from data_cards.readers.tables import find_set
    from data_cards.schema import load_card

    card = load_card(name)
    folder = find_set(path, name)
    differences = check_copy(card, folder)
    for line in differences:
        typer.echo(line)
    if differences:
        raise typer.Exit(1)
    typer.echo(f"{folder}: is the copy that the card {name} describes (licence: {card.licence.splitlines()[0]})")


@app.command("overlap")
@spread_options
def overlap_command(
    trained: Annotated[Path, typer.Argument(metavar="TABLE", help="What is to be trained on.")],
    data: Annotated[Path, typer.Option(help="Holds one folder a card name: the sets that are evaluated on.")],
    *,
    options: TableOptions,
    card: Annotated[list[str] | None, typer.Option(help="Only this set; again for several.")] = None,
    with_train: Annotated[bool, typer.Option("--with-train", help="Also the sets' own training sides.")] = False,
    exclude: Annotated[Path | None, typer.Option(help="Write the table without what is shared, and exit 0.")] = None,
) -> None:
    """Say which rows of a table evaluation sets have too, by their texts and pictures; exit status 1 if any.

    Found are copies in other case, order or words, re-encoded, resized, cropped, brightened, windowed or mirrored.
    """
    from dataclasses import replace

    from data_cards.check import at_most
    from data_cards.overlap.check import demand_writable, overlap, write_without

    if options.table is not None:
        raise ValueError(f"got {trained} and --table {options.table}; give one")
    table = replace(options, table=trained).read(labelled=False)
    if exclude is not None:
        demand_writable(table, exclude)
    for line in (*table.described(), *table.findings):
        typer.echo(f"note: {line}", err=True)
    found = overlap(table, data, card or (), with_train)
    for line in found.not_compared:
        typer.echo(f"note: not compared: {line}", err=True)
    for line in at_most(iter([f"shared: {one.place}: {one.what}" for one in found.shared])):
        typer.echo(line)
    typer.echo(
        f"{len(found.places)} of {found.num_rows} rows are shared with {found.num_evaluation_rows} evaluation rows of "
        f"{', '.join(found.cards)}"
    )
    if exclude is not None:
        typer.echo(f"{exclude}: {write_without(table, found.places, exclude)} rows")
    elif found.shared:
        raise typer.Exit(1)


@app.command("croissant")
def croissant_command(name: Name) -> None:
    """Print one card as Croissant JSON-LD; redirect it to croissant.json in the set's own folder."""
    import json

    from data_cards.croissant import croissant
    from data_cards.schema import load_card

    typer.echo(json.dumps(croissant(load_card(name)), indent=1, ensure_ascii=False))


def main() -> None:
    """Run the command; a user's mistake becomes one line on stderr and exit status 1."""
    try:
        app()
    except (ValueError, OSError) as fault:
        typer.echo(f"error: {' '.join(str(fault).split())}", err=True)
        sys.exit(1)


def _demand(option: str, value: str, known: set[str]) -> None:
    if value and value not in known:
        raise ValueError(f"{option}: got {value!r}; expected one of {', '.join(sorted(known))}")
