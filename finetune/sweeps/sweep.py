"""A sweep: runs of a recipe in processes of their own, chosen and stopped early by Optuna, resumed after a kill.

OUT/optuna.log is Optuna's storage, OUT/trials.jsonl has a line a finished trial, OUT/sweep.md the table, and
OUT/trials/N what the recipe wrote. A trial that a kill has cut goes on from its own checkpoint.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from finetune.configuration import Section, keep_config
from finetune.sweeps.space import Range, Space, choices
from medsiglip.command import say, whole_file

Values = Callable[[Path], Sequence[float]]
"""A trial's folder to the metric so far, one value an evaluation; what another estimate of a run's worth replaces."""
POLL_S = 1.0
RUN = "from finetune.cli import main; main()"


class Sweep(Section):
    """What decides a sweep's trials; kept in OUT/config.yaml, and another one is refused there."""

    recipe: str
    arguments: tuple[str, ...]
    """Of `medgemma-finetune run`, for every trial."""
    space: Space


def sweep(asked: Sweep, out: Path, values_of: Values | None = None, program: Sequence[str] = ()) -> None:
    """Run the trials that are left, one after the other.

    Args:
        asked: what is run and varied.
        out: the sweep's folder.
        values_of: the metric so far of a trial's folder; None reads the recipe's own evaluations.
        program: what runs a recipe, for tests; this package's command if empty.

    Raises:
        ValueError: the folder holds another sweep, Optuna is missing, or every trial has failed.
    """
    optuna = _optuna()
    keep_config(asked, out)
    study = optuna.create_study(
        study_name="sweep",
        storage=optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(out / "optuna.log"))),
        load_if_exists=True,
        direction="maximize" if asked.space.larger_is_better else "minimize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=asked.space.full_trials),
    )
    read = values_of or evaluations
    for trial in _cut(optuna, study):
        _finish(optuna, study, trial, asked, out, read, program)
    for place in asked.space.places:
        study.enqueue_trial(place, skip_if_exists=True)
    while len(finished := [t for t in study.trials if t.state.is_finished()]) < asked.space.num_trials:
        study.sampler = optuna.samplers.TPESampler(seed=asked.space.seed + len(finished))  # a resumed one draws alike
        trial = study.ask(_distributions(optuna, asked.space))
        _finish(optuna, study, trial, asked, out, read, program)
    say(table(rows(study, out)))
    if all(row["state"] == "failed" for row in rows(study, out)):
        raise ValueError(f"{out}: every trial has failed; the first: {rows(study, out)[0]['reason']}")


def evaluations(folder: Path) -> list[float]:
    """The metric at each evaluation of a run, over its stages in the order in which they were run.

    Lines of `log.jsonl` that hold a step and one number are evaluations; steps have more.
    """
    logs = sorted(folder.glob("stages/*/log.jsonl"), key=lambda path: path.stat().st_mtime)
    lines = [line for log in logs for line in log.read_text(encoding="utf-8").splitlines(True) if line.endswith("\n")]
    found = [json.loads(line) for line in lines]
    return [value for row in found if len(row) == 2 for key, value in row.items() if key != "step"]


def rows(study: Any, out: Path) -> list[dict[str, Any]]:
    """What trials.jsonl says of each finished trial."""
    return [
        {
            "trial": trial.number,
            "state": {"COMPLETE": "complete", "PRUNED": "stopped early"}.get(trial.state.name, "failed"),
            "settings": trial.params,
            "value": trial.value if trial.state.name == "COMPLETE" else trial.user_attrs.get("best"),
            "evaluations": len(trial.intermediate_values),
            "seconds": trial.user_attrs.get("seconds"),
            "folder": str(Path("trials") / str(trial.number)),
            "reason": trial.user_attrs.get("reason", ""),
        }
        for trial in study.trials
        if trial.state.is_finished()
    ]


def table(found: Sequence[dict[str, Any]]) -> str:
    """Markdown, in the order of the trials."""
    lines = ["| trial | settings | best value | evaluations | |", "|---|---|---|---|---|"]
    for row in found:
        settings = ", ".join(f"{key}={value}" for key, value in row["settings"].items())
        value = "" if row["value"] is None else f"{row['value']:.4f}"
        state = f"{row['state']}{row['reason'] and ': '}{row['reason']}".replace("|", "/")
        lines.append(f"| {row['trial']} | {settings} | {value} | {row['evaluations']} | {state} |")
    return "\n".join(lines)


def _finish(optuna: Any, study: Any, trial: Any, asked: Sweep, out: Path, read: Values, program: Sequence[str]) -> None:
    folder = out / "trials" / str(trial.number)
    started = time.monotonic()
    settings = [part for key, value in trial.params.items() for part in ("--set", f"{key}={value}")]
    command = [*(program or [sys.executable, "-c", RUN]), "run", asked.recipe, *asked.arguments]
    say(f"trial {trial.number} of {asked.space.num_trials}: {' '.join(settings)}")
    status = _watched([*command, *settings, "--out", str(folder)], folder, lambda: _is_hopeless(trial, read(folder)))
    values = list(read(folder))
    best = (max if asked.space.larger_is_better else min)(values, default=None)
    trial.set_user_attr("seconds", round(time.monotonic() - started, 1))
    trial.set_user_attr("best", best)
    states = optuna.trial.TrialState
    if status is None:
        study.tell(trial.number, state=states.PRUNED)
    elif status == 0 and best is not None:
        study.tell(trial.number, best)
    else:
        missing = "" if status else "the recipe evaluated nothing; give it a validation side"
        trial.set_user_attr("reason", missing or _last_line(folder / "run.log") or f"exit status {status}")
        study.tell(trial.number, state=states.FAIL)
    found = rows(study, out)
    for name, text in (("trials.jsonl", "".join(json.dumps(row) + "\n" for row in found)), ("sweep.md", table(found))):
        with whole_file(out / name) as file:
            file.write(text)
    say(f"trial {trial.number}: {found[-1]['state']}, {found[-1]['value']} {found[-1]['reason']}".rstrip())


def _watched(command: Sequence[str], folder: Path, is_hopeless: Callable[[], bool]) -> int | None:
    """Run a trial; its exit status, or None if it was stopped early."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "run.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        while True:
            try:
                return process.wait(timeout=POLL_S)
            except subprocess.TimeoutExpired:
                if is_hopeless():
                    return None
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()


def _is_hopeless(trial: Any, values: Sequence[float]) -> bool:
    """Tell Optuna what is new, and ask."""
    known = len(trial.study.trials[trial.number].intermediate_values)
    for place, value in list(enumerate(values))[known:]:
        trial.report(value, place)
    return bool(len(values) > known and trial.should_prune())


def _cut(optuna: Any, study: Any) -> list[Any]:
    """Trials that a kill has left running."""
    return [optuna.trial.Trial(study, trial._trial_id) for trial in study.trials if trial.state.name == "RUNNING"]


def _distributions(optuna: Any, space: Space) -> dict[str, Any]:
    kinds = optuna.distributions
    return {
        key: kinds.FloatDistribution(values.low, values.high, log=values.log)
        if isinstance(values, Range)
        else kinds.CategoricalDistribution(choices(values))
        for key, values in space.settings.items()
    }


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise ValueError("sweeps need Optuna; install it with `pip install 'open-medgemma[sweep]'`") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna
