"""The command `medgemma-eval`: list tasks, run them, score again, compare."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medsiglip.command import Device, Dtype, Model, Quiet, new_app, progress, run, say, whole_file

if TYPE_CHECKING:
    from evals.runner import RunOptions
    from evals.tasks.task import Task

app = new_app(
    "Evaluations: run tasks on a model, resume, score with confidence intervals, compare. Not a medical device."
)

Out = Annotated[Path, typer.Option(help="Folder for items, outputs and scores; a stopped run goes on there.")]


@app.command("list")
def list_command() -> None:
    """Print one line a task: name, data cards, what it asks."""
    from evals.tasks.catalogue import TASKS

    for task in TASKS.values():
        typer.echo(f"{task.name:<26} {task.summary} [{', '.join(task.cards)}]")


@app.command("run")
def run_command(
    tasks: Annotated[list[str], typer.Argument(metavar="TASK...", help="Names; see `medgemma-eval list`.")],
    data: Annotated[Path, typer.Option(help="Holds one folder a card name, or is that folder.")],
    out: Out,
    model: Model = "nano",
    side: Annotated[
        str, typer.Option(help="Part of the data: held-out, train, test, ...; the task's first if empty.")
    ] = "",
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many items a task.")] = None,
    seed: Annotated[int, typer.Option(help="Of the order and draw of items.")] = 0,
    shuffle_pictures: Annotated[
        bool, typer.Option("--shuffle-pictures", help="Put every question to another group's picture.")
    ] = False,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 32,
    role: Annotated[
        list[str] | None,
        typer.Option(metavar="ROLE=PLAYER", help="Who plays patient, measurement, moderator: rules, model, URL#NAME."),
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    quiet: Quiet = False,
) -> None:
    """Run tasks and score them; items already answered in --out are not asked again."""
    from evals.clinic.casting import roles_of
    from evals.runner import RunOptions
    from evals.tasks.catalogue import task_named

    chosen = [task_named(name) for name in tasks]
    options = RunOptions(side, limit, seed, "shuffled" if shuffle_pictures else "real", max_new_tokens)
    roles = roles_of(role or [])
    models: dict[str, Any] = {}
    failed = sum(_run(task, options, data, out, model, models, roles, device, dtype, quiet) for task in chosen)
    _score(out)
    if failed:
        say(f"{failed} item(s) failed and were not scored; the others were")
        raise typer.Exit(1)


@app.command()
def score(folder: Annotated[Path, typer.Argument(metavar="DIR", help="The --out of earlier runs.")]) -> None:
    """Score the outputs in DIR again, without generating."""
    _score(folder)


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(metavar="DIR", help="The --out of one model's runs.")],
    second: Annotated[Path, typer.Argument(metavar="DIR", help="Another model's, on the same items.")],
    out: Annotated[Path | None, typer.Option(help="Also write everything to this file, as JSON.")] = None,
    common: Annotated[
        bool, typer.Option("--common", help="Compare the items both answered; count the others.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the resampling.")] = 0,
) -> None:
    """Compare two models item by item: both values, second minus first, intervals and p values."""
    from evals.compare import as_table, compare_dirs, remarks, to_json

    comparison = compare_dirs(first, second, common, seed)
    for line in remarks(comparison):
        say(line)
    typer.echo(as_table(comparison))
    if out is not None:
        with whole_file(out) as file:
            file.write(json.dumps(to_json(comparison), indent=1, allow_nan=False) + "\n")


def main() -> None:
    """Run the command; a user's mistake becomes one line on stderr and exit status 1."""
    run(app)


def _run(
    task: "Task",
    options: "RunOptions",
    data: Path,
    out: Path,
    model_name: str,
    models: dict[str, Any],
    roles: dict[str, str],
    device: str,
    dtype: str,
    quiet: bool,
) -> int:
    """Run one task; return the number of items that failed."""
    from evals.clinic.casting import local_players
    from evals.runner import run_task

    kind = "label" if task.answers == "label" else "text"
    if kind not in models:
        models[kind] = _load(kind, model_name, device, dtype)
    model = models[kind] if not task.dialogue else local_players(models[kind], roles, options.max_new_tokens)
    with progress(None, "items", quiet) as advance:
        ran = run_task(task, options, data, out, model, model_name, " ".join(sys.argv), advance)
    for table in ran.data_differs_from_card:
        say(f"warning: {table} is not the copy its card describes; figures on it do not compare with others")
    for output in ran.failed:
        say(f"error: {task.name}: {output.item_id}: {output.error}")
    return len(ran.failed)


def _load(answers: str, model: str, device: str, dtype: str) -> Any:
    if answers == "text":
        from medgemma import MedGemma

        return MedGemma.from_pretrained(model, device=device, dtype=dtype)
    from medsiglip import MedSigLIP

    return MedSigLIP.from_pretrained(model, device=device, dtype=dtype)


def _score(folder: Path) -> None:
    from evals.scores import score_dir

    for task, metrics in score_dir(folder).items():
        for metric, figure in metrics.items():
            typer.echo(_line(task, metric, figure))


def _line(task: str, metric: str, figure: dict[str, Any]) -> str:
    low, high = figure["ci95"]
    value = "undefined" if figure["value"] is None else f"{figure['value']:.3f}"
    interval = f" ({figure['note']})" if low is None else f" [{low:.3f}, {high:.3f}]"
    return f"{task:<26} {metric:<44} {value}{interval}  n={figure['n']} groups={figure['n_groups']}"
