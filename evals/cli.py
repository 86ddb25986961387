"""The command `medgemma-eval`: list tasks, run them, score again, compare, report."""

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from data_cards.table.options import TableOptions
from evals.accepting import judge
from evals.asking import ALL_KIT, chosen_tasks, of_table, run_one, what_cannot_answer
from evals.entailment.command import agreement, entailment
from evals.options import AskedOptions, ServerOptions
from evals.stress.command import metrics
from medgemma.commands.options import Adapter, Quantize
from medsiglip.command import (
    Device,
    Dtype,
    Model,
    Quiet,
    new_app,
    one_line,
    progress,
    run,
    say,
    spread_options,
    whole_file,
)

app = new_app(
    "Evaluations: run tasks on a model, resume, score with confidence intervals, compare, report. Not a medical device."
)

Dir = Annotated[Path, typer.Argument(metavar="DIR", help="The --out of earlier runs.")]


@app.command("list")
def list_command() -> None:
    """Print one line a task: name, what it asks, data cards."""
    from evals.tasks.catalogue import TASKS

    width = max(map(len, TASKS))
    for task in TASKS.values():
        typer.echo(f"{task.name:<{width}}  {task.summary} [{', '.join(task.cards)}]")


@app.command()
def show(name: Annotated[str, typer.Argument(metavar="TASK", help="A name from `medgemma-eval list`.")]) -> None:
    """Print a task's protocol: data, sides, wording, parsing, metrics, and the figures published for it."""
    from evals.report.show import lines_of
    from evals.tasks.catalogue import task_named

    for line in lines_of(task_named(name)):
        typer.echo(line)


@app.command("run")
@spread_options
def run_command(
    tasks: Annotated[
        list[str] | None,
        typer.Argument(metavar="TASK...", help=f"Names, see `list`; {ALL_KIT}: all whose data is there."),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Holds one folder a card name, or is that folder.")] = None,
    *,
    table: TableOptions,
    out: Annotated[Path, typer.Option(help="Folder for items, outputs and scores; a stopped run goes on there.")],
    model: Model = "nano",
    server: ServerOptions,
    asked: AskedOptions,
    role: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ROLE=PLAYER", help="Who plays patient, measurement, moderator, judge: rules, model, URL#NAME"
        ),
    ] = None,
    accepted: Annotated[
        Path | None, typer.Option(help="--out of `judge`: only a judge that it accepts may grade.")
    ] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder that keeps greedy answers over runs.")] = None,
    adapter: Adapter = None,
    quantize: Quantize = "",
    device: Device = "auto",
    dtype: Dtype = "auto",
    quiet: Quiet = False,
) -> None:
    """Run tasks and score them; items already answered in --out are not asked again.

    The data are sets with a card (TASK and --data), or a table of yours (--table), asked by what its rows hold.

    The server's key, if it wants one, is read from the environment variable MEDGEMMA_ENDPOINT_KEY.
    """
    from evals.clinic.casting import roles_of

    roles, options = roles_of(role or []), asked.chosen()
    _demand_uses(roles, accepted, server, cache)
    decoder = {"adapter": adapter, "quantize": quantize or None}
    if table.table is not None:
        data, chosen, options = table.table, *of_table(table, tasks or [], data, options)
    elif tasks and data is not None:
        chosen = chosen_tasks(tasks, data, what_cannot_answer(bool(server.endpoint), decoder))
    else:
        raise ValueError("give tasks and the folder of their data (TASK --data DIR), or a table of yours (--table T)")
    with ExitStack() as open_things:
        placed = {"device": device, "dtype": dtype}
        answering = server.answering(open_things, model, roles, placed, decoder, accepted)
        kept = None
        if cache:
            from evals.running.cache import AnswerCache

            kept = open_things.enter_context(AnswerCache(cache))
        failed = [run_one(task, options, data, out, answering, kept, server.concurrency, quiet) for task in chosen]
    if any(count is not None for count in failed):
        _score(out)
    if failed != [0] * len(chosen):
        raise typer.Exit(1)


@app.command()
def labels(
    data: Annotated[Path, typer.Option(help="Holds one folder a card name.")],
    model: Model = "nano",
    side: Annotated[str, typer.Option(help="held-out or final: what is scored.")] = "held-out",
    out: Annotated[Path | None, typer.Option(help="Markdown file; stdout without it.")] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    quiet: Quiet = False,
) -> None:
    """Zero-shot labels and probes on every labelled picture set of the kit, raw pixels and intervals beside them."""
    from evals.controls.label_tables import labelled_sets, markdown, measure
    from medsiglip import MedSigLIP

    if side not in ("held-out", "final"):
        raise ValueError(f"side {side!r}: choose held-out or final; the training side is learned from")
    encoder, rows, failed = MedSigLIP.from_pretrained(model, device=device, dtype=dtype), [], False
    with progress(len(labelled_sets()), "sets", quiet) as advance:
        for which in labelled_sets():
            try:
                rows.append(measure(encoder, data, which, side))  # type: ignore[arg-type]
            except (ValueError, OSError) as error:
                say(f"error: {one_line(error)}")
                failed = True
            advance(1)
    name = encoder.folder.name if Path(model).is_dir() else model
    with whole_file(out) as file:
        file.write(markdown(rows, f"{name} {encoder.fingerprint}", side))  # type: ignore[arg-type]
    if failed:
        raise typer.Exit(1)


@app.command()
@spread_options
def reliability(
    tasks: Annotated[
        list[str], typer.Argument(metavar="TASK...", help="Names of tasks whose answer is a letter or short.")
    ],
    data: Annotated[Path, typer.Option(help="Holds one folder a card name, or is that folder.")],
    out: Annotated[
        Path, typer.Option(help="Folder for answers, reliability.json and the page; a stopped run goes on.")
    ],
    model: Model = "nano",
    *,
    server: ServerOptions,
    side: Annotated[str, typer.Option(help="Part of the data; the task's first if empty.")] = "",
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many items a task, drawn by --seed.")] = None,
    seed: Annotated[int, typer.Option(help="Of the items, the orders and the other pictures.")] = 0,
    orders: Annotated[int, typer.Option(min=1, help="Other orders of the options, drawn an item.")] = 2,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer, in tokens.")] = None,
    adapter: Adapter = None,
    quantize: Quantize = "",
    device: Device = "auto",
    dtype: Dtype = "auto",
    quiet: Quiet = False,
) -> None:
    """Does it hold, does it look: each item also in other words and orders, and with other pictures or none.

    An answer is stable if it means the same in all wordings and orders, and it needs the picture if another patient's,
    a grey one or none changes it. `compare` prints the moves between the quadrants of two models.
    """
    from evals.reliability.running import ROUNDS, can_be_probed, lines_of, num_probes, probing_task, summarise
    from evals.results.tables import aligned
    from evals.running.options import RunOptions

    decoder = {"adapter": adapter, "quantize": quantize or None}
    options = RunOptions(side=side, limit=limit, seed=seed, max_new_tokens=max_new_tokens)
    unlimited = RunOptions(side=side, seed=seed, max_new_tokens=max_new_tokens)
    rows, failed = [], []
    with ExitStack() as open_things:
        answering = server.answering(open_things, model, {}, {"device": device, "dtype": dtype}, decoder)
        chosen = chosen_tasks(tasks, data, what_cannot_answer(bool(server.endpoint), decoder))
        if ALL_KIT in tasks:
            chosen = [task for task in chosen if can_be_probed(task)]
        for task in chosen:
            asking = probing_task(task, options, out, orders)
            for number in range(ROUNDS):
                before = num_probes(out / asking.name)
                ran = run_one(asking, unlimited, data, out, answering, None, server.concurrency, quiet)
                if ran is None or (number and num_probes(out / asking.name) == before):
                    break
            failed.append(ran)
            if ran is not None:
                rows += lines_of(task.name, summarise(task, out, seed))
    for line in aligned(rows):
        typer.echo(line)
    if failed != [0] * len(failed):
        raise typer.Exit(1)


app.command()(metrics)
app.command()(entailment)
app.command()(agreement)
app.command()(judge)


@app.command()
def score(folder: Dir) -> None:
    """Score the outputs in DIR again, without generating."""
    if _score(folder):
        raise typer.Exit(1)


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(metavar="DIR", help="The --out of one model's runs.")],
    second: Annotated[Path, typer.Argument(metavar="DIR", help="Another model's, on the same items.")],
    out: Annotated[Path | None, typer.Option(help="Also write everything to this file, as JSON.")] = None,
    common: Annotated[
        bool, typer.Option("--common", help="Compare the items both answered; count the others.")
    ] = False,
    page: Annotated[
        Path | None, typer.Option(help="Of two folders of `reliability`: write both and the items that moved as HTML.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the resampling.")] = 0,
) -> None:
    """Compare two models item by item: both values, second minus first, intervals and p values.

    Of two folders of `reliability`: the quadrants' shares of both and the items that moved between them.
    """
    from evals.reliability.comparing import compared_reliability
    from evals.results.compare import as_table, compare_dirs, remarks, to_json
    from evals.results.pairing import demand_alike

    alike = demand_alike(first, second)
    found: dict[str, Any] = {}
    if alike.reliability:
        lines, found["reliability"] = compared_reliability(first, second, seed, page)
        for line in lines:
            typer.echo(line)
    if alike.runs:
        comparison = compare_dirs(first, second, common, seed)
        for line in remarks(comparison):
            say(line)
        typer.echo(as_table(comparison))
        found |= to_json(comparison)
    if out is not None:
        with whole_file(out) as file:
            file.write(json.dumps(found, indent=1, allow_nan=False) + "\n")


@app.command("plan")
def plan_command(
    first: Annotated[Path, typer.Argument(metavar="DIR", help="The --out of a pilot run.")],
    second: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="Another model's, same items: then paired.")
    ] = None,
    *,
    difference: Annotated[float, typer.Option(help="What is to be found, in the metric's units, such as 0.05.")],
    power: Annotated[float, typer.Option(help="Probability of finding it.")] = 0.8,
    level: Annotated[float, typer.Option(help="Of the two-sided test.")] = 0.05,
    metric: Annotated[str, typer.Option(help="A mean over items; the task's main metric if empty.")] = "",
) -> None:
    """Say how many groups (patients) and items find a difference between two models, from a pilot of one or both."""
    from evals.results.planning import plan
    from evals.results.tables import aligned

    plans, refused = plan(first, second, difference, power, level, metric)
    head = ("task", "metric", "pilot", "design effect", "needed", "at most, by the pilot's size")
    rows = [
        (
            one.task,
            one.metric,
            f"{one.spread.n_items} items of {one.spread.n_groups} groups",
            f"{one.spread.design_effect:.2f}",
            f"{one.needed.items} items of {one.needed.groups} groups",
            f"{one.needed.groups_at_most} groups",
        )
        for one in plans
    ]
    say(f"to find a difference of {difference:g} with power {power:g}, two-sided at {level:g}; groups as in the pilot")
    if second is None:
        say("one pilot: the other model is taken to err independently; two pilots on the same items ask for fewer")
    for line in aligned([head, *rows]):
        typer.echo(line)
    for line in refused:
        say(f"not planned: {line}")


@app.command()
def report(
    folder: Dir,
    pictures: Annotated[bool, typer.Option("--pictures", help="Show the pictures of the worst items, small.")] = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print a Markdown table of the main metrics instead.")
    ] = False,
    into: Annotated[
        Path | None, typer.Option(help="With --markdown: put the table between its marks in this file.")
    ] = None,
) -> None:
    """Write DIR/report.html: figures beside the published ones, curves, subgroups, worst items, hashes."""
    from evals.report import render

    if into and not markdown:
        raise ValueError("--into goes with --markdown")
    if not markdown:
        typer.echo(render.write_html(folder, pictures))
    elif into:
        render.write_between(into, "kit table", render.markdown(folder))
    else:
        typer.echo(render.markdown(folder), nl=False)


def _demand_uses(roles: Mapping[str, str], accepted: Path | None, server: ServerOptions, cache: Path | None) -> None:
    """Refuse options that nothing of this run would use."""
    from evals.clinic.dialogue import JUDGES

    if accepted and not any(roles[judge] != "none" for judge in JUDGES):
        raise ValueError("--accepted is for a judge, and none plays; give --role judge=URL#NAME (or moderator=...)")
    if server.endpoint and cache:
        raise ValueError("--cache is for weights that can be told apart; a server's may change behind its name")


def _score(folder: Path) -> bool:
    """Score and print; return whether items failed or are unanswered, which is said."""
    from evals.results.scores import score_dir, shortfalls
    from evals.results.tables import aligned

    scores = score_dir(folder)
    rows = [
        (task, metric, *_cells(figure))
        for task, metrics in scores.items()
        for metric, figure in metrics.items()
        if "/" not in metric
    ]
    for line in aligned(rows):
        typer.echo(line)
    said = list(shortfalls(folder, scores))
    for line in said:
        say(line)
    return bool(said)


def _cells(figure: dict[str, Any]) -> tuple[str, str]:
    low, high = figure["ci95"]
    value = "undefined" if figure["value"] is None else f"{figure['value']:.3f}"
    interval = f" ({figure['note']})" if low is None else f" [{low:.3f}, {high:.3f}]"
    return value + interval, f"n={figure['n']} groups={figure['n_groups']}"


def main() -> None:
    """Run the command; a user's mistake becomes one line on stderr and exit status 1."""
    run(app)
