"""The command `medgemma-data`: list the data cards, show one, check a copy against its card."""

import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Data sets: what they are, their licences, how to get them, and whether a copy is the card's.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="A card's name; see `medgemma-data list`.")]


@app.command("list")
def list_command() -> None:
    """Print one line a card: name, items, licence, title."""
    from data_cards.schema import list_cards, load_card

    for name in list_cards():
        card = load_card(name)
        items = sum(split.items for split in card.splits.values())
        typer.echo(f"{name:<22} {items:>6} items  {card.title} ({card.licence.splitlines()[0]})")


@app.command()
def show(name: Name) -> None:
    """Print one card as YAML."""
    import yaml

    from data_cards.schema import load_card

    fields = load_card(name).model_dump(mode="json")
    typer.echo(yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, width=100), nl=False)


@app.command()
def check(
    name: Name,
    path: Annotated[Path, typer.Argument(metavar="PATH", help="The set's folder, or the folder it lies in.")],
) -> None:
    """Compare a copy with its card; one line for each difference, and exit status 1 if there is any."""
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


def main() -> None:
    """Run the command; a user's mistake becomes one line on stderr and exit status 1."""
    try:
        app()
    except (ValueError, OSError) as fault:
        typer.echo(f"error: {' '.join(str(fault).split())}", err=True)
        sys.exit(1)
