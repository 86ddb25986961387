"""The `medgemma-finetune` command: list and run recipes."""

import ast
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from data_cards.table.options import TableOptions
from medsiglip.command import Quiet, new_app, run, say, spread_options

app = new_app("Recipes that train or tune the encoder and the decoder. Not a medical device.")
FOLDER = Path(__file__).parent / "recipes"


@app.command("list")
def list_recipes() -> None:
    """The recipes and what each is for."""
    for path in recipes().values():
        typer.echo((ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0])


@app.command("run")
@spread_options
def run_recipe(
    recipe: Annotated[str, typer.Argument(help="A name that `list` prints.")],
    data: Annotated[
        Path | None, typer.Option(help="Folder with one folder a data card; of a recipe for tables, one such folder.")
    ] = None,
    *,
    table: TableOptions,
    out: Annotated[Path, typer.Option(help="Checkpoints, log and resolved configuration; an interrupted run goes on.")],
    config: Annotated[Path | None, typer.Option(help="YAML over the recipe's own.")] = None,
    override: Annotated[list[str] | None, typer.Option("--set", help="section.key=value, repeatable.")] = None,
    quiet: Quiet = False,
) -> None:
    """Run a recipe, or go on with an interrupted run.

    The data are sets with a card (--data), or a table of yours (--table) for all recipes but those for sets alone.
    """
    from finetune.configuration import load_config

    module, defaults = _recipe(recipe)
    resolved = load_config(module.Config, [defaults, *([config] if config else [])], override or [])
    if data is not None and table.table is None and hasattr(module, "run"):
        module.run(resolved, data, out, quiet)
    elif hasattr(module, "run_table"):
        module.run_table(resolved, _table(table, data), out, quiet)
    else:
        raise ValueError(f"recipe {recipe} learns from a folder of data, no table; give --data DIR")


@app.command("sweep", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def sweep_recipe(
    context: typer.Context,
    recipe: Annotated[str, typer.Argument(help="A name that `list` prints.")],
    space: Annotated[str, typer.Option(help="YAML of what is varied, or report_learning_rates.")],
    out: Annotated[Path, typer.Option(help="Trials, their table, Optuna's storage; a killed sweep goes on.")],
    jobs: Annotated[int, typer.Option(min=1, help="Trials at once, each in a process of its own.")] = 1,
    proxy: Annotated[str, typer.Option(help="Judge by demonstrations instead: token_nll, ...; see `choose`.")] = "",
    demonstrations: Annotated[Path | None, typer.Option(help="For --proxy: a data set of episodes.")] = None,
    held_out: Annotated[
        float | None, typer.Option(help="For --proxy: share of the groups that no trial learns; none: as the recipe.")
    ] = None,
) -> None:
    """Run a recipe with one setting after another, and stop those that fall behind.

    All other options are those of `run`, for every trial: --table, --data, --set and the rest.
    """
    from finetune.configuration import load_config
    from finetune.sweeps.space import choices, read_space
    from finetune.sweeps.sweep import Sweep, sweep

    module, defaults = _recipe(recipe)
    found = read_space(space)
    for key, values in found.settings.items():  # a setting that the recipe has not would fail every trial
        for value in choices(values if isinstance(values, list) else [values.low, values.high]):
            load_config(module.Config, [defaults], [f"{key}={value}"])
    if not proxy:
        if demonstrations is not None or held_out is not None:
            raise ValueError("--demonstrations and --held-out belong to --proxy; add it, or leave them out")
        sweep(Sweep(recipe=recipe, arguments=tuple(context.args), space=found), out, jobs=jobs)
        return
    from finetune.choosing.sweeping import demand_judgeable, proxy_sweep

    demand_judgeable(recipe, module.Config, proxy, held_out)
    if demonstrations is None:
        raise ValueError(f"--proxy {proxy} needs --demonstrations: a data set of episodes")
    asked, values_of = proxy_sweep(recipe, tuple(context.args), found, proxy, demonstrations, held_out)
    sweep(asked, out, values_of, jobs=jobs)


@app.command("choose")
@spread_options
def choose_run(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="The --out of runs, or the trials of a sweep.")],
    proxy: Annotated[
        list[str],
        typer.Option(help="action_error, token_nll, state_distance, support or imitation_return; repeatable."),
    ],
    out: Annotated[Path, typer.Option(help="chosen.json, scores.jsonl, ranking.md, choice.html.")],
    data: Annotated[
        Path | None, typer.Option(help="Demonstrations: a data set of episodes; no reward is read.")
    ] = None,
    *,
    table: TableOptions,
    held_out: Annotated[
        float | None, typer.Option(help="Share of the groups that no run has learned from; 1: none has seen any.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of that division.")] = 0,
    embed: Annotated[str, typer.Option(help="Conversations to states: a decoder, or encoder:NAME.")] = "nano",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    quiet: Quiet = False,
) -> None:
    """Choose among runs and their checkpoints by demonstrations, without a reward.

    Of episodes (--data), --group names the metadata field of those that are not independent. They are divided as the
    first run says that it has divided them, else a quarter of the groups is held out. A table (--table) is for
    token_nll.
    """
    from finetune.choosing.choose import choose, say_choice, table_of
    from finetune.choosing.judging import Judging, proxies_named
    from finetune.choosing.runs import read_runs

    names, found = proxies_named(proxy), read_runs(runs)
    if data is None and table.table is None:
        raise ValueError("nothing judges; give demonstrations (--data EPISODES), or a table of yours (--table T)")
    by = data if data is not None and table.table is None else _table(table, data)
    asked = Judging(by, 0.25 if held_out is None else held_out, seed, table.group or None, embed, device)
    choice = choose(found, names, asked if held_out is not None else asked.divided_as(found[0]), out, quiet)
    typer.echo(table_of(choice, names))
    say_choice(choice, out)
    if choice.left_out:
        raise typer.Exit(1)


@app.command("estimate")
def estimate_run(
    model: Annotated[
        str, typer.Argument(help="A Hub id such as google/medgemma-4b-it (no files needed), or a folder.")
    ],
    method: Annotated[str, typer.Option(help="lora, dora, qlora or full.")] = "lora",
    parts: Annotated[
        str, typer.Option(help="What is trained, with commas: language, tower, projector, head.")
    ] = "language",
    rank: Annotated[int, typer.Option(help="Of low-rank updates.")] = 16,
    tokens: Annotated[int, typer.Option(min=1, help="Of an example, its pictures and answer included.")] = 1024,
    pictures: Annotated[int, typer.Option(min=0, help="Of an example.")] = 1,
    answer_tokens: Annotated[int, typer.Option(min=1, help="Of an example: what is learned.")] = 32,
    examples: Annotated[int, typer.Option(min=1, help="At once; more of a step come one after the other.")] = 1,
    examples_per_step: Annotated[int, typer.Option(min=1, help="Of an update.")] = 16,
    device: Annotated[str, typer.Option(help="cuda (bfloat16) or cpu (float32).")] = "cuda",
    checkpoint_activations: Annotated[bool, typer.Option(help="Compute activations again: less memory.")] = False,
    tflops: Annotated[
        float,
        typer.Option(help="The device's own figure, dense, in TFLOP/s: A100 312, H100 989, L4 121, T4 65 (float16)."),
    ] = 312.0,
    utilisation: Annotated[float, typer.Option(help="The share of it that training reaches.")] = 0.3,
) -> None:
    """Memory and time of tuning a model, before anything is fetched: tensors are counted, nothing is computed."""
    from finetune.estimate.estimate import Work, estimate, parts_of, report

    section = parts_of(method, parts, rank)
    work = Work(tokens, pictures, answer_tokens, examples, examples_per_step)
    found = estimate(model, section, work, where=device, checkpointed=checkpoint_activations)
    typer.echo(report(model, section, work, found, device, tflops, utilisation))


@app.command("best-of")
@spread_options
def best_of(
    model: Annotated[str, typer.Argument(help="'nano', a local folder, or a Hub id.")],
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="All together are one prompt.")],
    question: Annotated[str, typer.Option("--question", "-q")],
    reward: Annotated[
        str, typer.Option(help="agreement, word-overlap, metric:NAME, entailment:NAME, or your own as module:function.")
    ],
    n: Annotated[int, typer.Option("-n", min=2, help="Answers that are sampled.")] = 8,
    temperature: Annotated[float, typer.Option(min=0, help="Of the sampling.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of the sampling.")] = 0,
    column: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="What the reward takes by name: answer=yes.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="An answer is cut here.")] = 64,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object with all answers.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    quiet: Quiet = False,
) -> None:
    """Sample N answers to a question, grade them, and print the best: what `bond_answers` distils."""
    import json

    from finetune.rewards.best_of import best_of_answers
    from finetune.rewards.named import reward_named
    from medgemma import MedGemma
    from medgemma.asking import AnswerOptions
    from medgemma.commands.options import studies
    from medgemma.engine import Sampling
    from medsiglip.command import Problems, files_of

    columns = dict(_assignment(text) for text in column or [])
    function, options = reward_named(reward), AnswerOptions(Sampling(temperature=temperature, seed=seed, num_samples=n))
    problems = Problems()
    about = list(studies(files_of(files, problems), "voi", options.view, problems, each=False, quiet=quiet))
    if about and about[0].parts:
        gemma = MedGemma.from_pretrained(model, device=device)
        found = best_of_answers(gemma, about[0].parts, question, function, options, max_new_tokens, columns)
        if as_json:
            said = [{"answer": a.text, "reward": r} for a, r in zip(found.answers, found.rewards, strict=True)]
            best = {"answer": found.answers[found.best].text, "reward": found.rewards[found.best]}
            typer.echo(json.dumps({"question": question, **best, "kl_at_most": found.kl_bound, "answers": said}))
        else:
            typer.echo(found.answers[found.best].text)
            earned = f"{found.rewards[found.best]:.3g}, the mean of {n} is {sum(found.rewards) / n:.3g}"
            say(f"it earns {earned}; KL to one sample at most {found.kl_bound:.3f} nats (a bound)")
    problems.exit()


@app.command("measure")
def measure_pair(
    data: Annotated[Path, typer.Option(help="Folder with one folder a data card.")],
    out: Annotated[Path, typer.Option(help="Answers, scores and figures; an interrupted measurement goes on.")],
    pair: Annotated[str, typer.Argument(help="`nano`, or the --out of a run of the recipe nano.")] = "nano",
    quiet: Quiet = False,
) -> None:
    """Measure all figures of both cards again and say which differ; status 1 if one does by more than an item."""
    from finetune.recipes.nano.nano import measure_again

    if not measure_again(pair, data, out, quiet):
        raise typer.Exit(1)


@app.command("calibrate")
def calibrate_nano(
    data: Annotated[Path, typer.Option(help="Folder with one folder a data card.")],
    out: Annotated[Path, typer.Option(help="Folder that gets calibration.NAME.yaml, a file a label set, and gate/.")],
    model: Annotated[str, typer.Option(help="nano, or an encoder that its recipe made.")] = "nano",
) -> None:
    """A temperature for nano's label sets, and a gate of its kinds: by the held-out side, scored on the final one."""
    from finetune.recipes.nano.calibrate import write_calibrations
    from finetune.recipes.nano.gate import write_nano_gate
    from medsiglip.encoder import MedSigLIP

    encoder = MedSigLIP.from_pretrained(model, device="cpu", dtype="float32")
    for path in [*write_calibrations(encoder, data, out), write_nano_gate(encoder, data, out)]:
        typer.echo(str(path))


def _assignment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise ValueError(f"--column {text}: expected NAME=VALUE, such as answer=yes")
    return name, value


def recipes() -> dict[str, Path]:
    """Every recipe's name and file: a NAME.py that has a NAME.yaml beside it, in `recipes/` or a folder of it."""
    found = sorted(path.with_suffix(".py") for path in FOLDER.rglob("*.yaml"))
    return {path.stem: path for path in found if path.is_file()}


def _recipe(name: str) -> tuple[Any, Path]:
    """The module of a recipe and its YAML."""
    if name not in recipes():
        raise ValueError(f"recipe {name!r} is unknown; choose one of {', '.join(recipes())}")
    path = recipes()[name]
    dotted = ".".join(path.relative_to(FOLDER).with_suffix("").parts)
    return import_module(f"finetune.recipes.{dotted}"), path.with_suffix(".yaml")


def _table(options: TableOptions, data: Path | None) -> Any:
    """The user's table, or the set with a card in `data`; what was understood of it is said before anything runs."""
    from data_cards.table import read_card

    if (options.table is None) == (data is None):
        raise ValueError("give a table of yours (--table T), or the folder of a set with a card (--data DIR)")
    table = options.read() if data is None else read_card(data.name, data, options.columns)
    for line in (*table.described(), *table.findings):
        say(line)
    return table


def main() -> None:
    """Entry point of the `medgemma-finetune` script."""
    run(app)
