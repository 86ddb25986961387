"""`medsiglip check`: a user's table looked over by decoding its pictures."""

from typing import Annotated

import typer

from data_cards.table.options import TableOptions
from medsiglip.command import Quiet, progress, say_notes


def check(
    *,
    table: TableOptions,
    near_duplicates: Annotated[
        bool, typer.Option(help="Also compare the pictures with each other; the time grows with their number squared.")
    ] = True,
    quiet: Quiet = False,
) -> None:
    """Look a table of yours over by decoding its pictures: unreadable ones, and those that are there twice.

    A picture of equal bytes, or a near-duplicate (turned, mirrored, resized, re-encoded), on two sides spoils a figure.
    """
    from data_cards.table.check import check_table
    from medsiglip.tables.check import METHOD, decode_pictures, near_duplicates_of

    read = table.read(labelled=False)
    for line in read.described():
        typer.echo(line)
    with progress(sum(len(row.files) for row in read.rows), "pictures", quiet) as advance:
        decoded = decode_pictures(read, advance)
    faults = [*check_table(read), *decoded.faults]
    notes = list(read.findings)
    if near_duplicates:
        from medsiglip.tables.near_duplicates import find_near_duplicates

        group_of = {file: row.group for row in read.rows for file in row.files}
        with progress(len(decoded.files), "pictures compared", quiet) as advance:
            pairs = find_near_duplicates(
                decoded.maps, [group_of[file] for file in decoded.files], advance, decoded.small
            )
        twice = near_duplicates_of(read, decoded.files, pairs)
        faults += twice.faults
        notes.append(
            f"near-duplicates ({METHOD}): {len(twice.across_sides)} pairs on two sides, {len(twice.across_groups)} in "
            f"two groups, {twice.within_groups} within a group"
        )
    for line in notes:
        typer.echo(f"note: {line}")
    for line in faults:
        typer.echo(f"fault: {line}")
    say_notes(decoded.notes)
    typer.echo(f"{len(decoded.files)} pictures decoded ({decoded.num_frames} frames), {len(faults)} faults")
    if faults:
        raise typer.Exit(1)
