"""A sweep: runs of a recipe in processes of their own, chosen and stopped early by Optuna, resumed after a kill.

OUT/optuna.log is Optuna's storage, OUT/trials.jsonl has a line a finished trial, OUT/sweep.md the table, and
OUT/trials/N what the recipe wrote. A trial that a kill has cut goes on from its own checkpoint.
"""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from finetune.configuration import Section, keep_config
from finetune.sweeps.space import Range, Space, choices
from medsiglip.command import one_line, say, whole_file

Values = Callable[[Path], Sequence[float]]
"""A trial's folder to the metric so far, one value an evaluation; what another estimate of a run's worth replaces.

It may raise ValueError while nothing can be said yet; at a trial's end that is why it failed."""
POLL_S = 1.0
RUN = "from finetune.cli import main; main()"


class Sweep(Section):
    """What decides a sweep's trials; kept in OUT/config.yaml, and another one is refused there."""

    recipe: str
    arguments: tuple[str, ...]
    """Of `medgemma-finetune run`, for every trial."""
    space: Space


def sweep(asked: Sweep, out: Path, values_of: Values | None = None, program: Sequence[str] = (), jobs: int = 1) -> None:
    """Run the trials that are left.

    Args:
        asked: what is run and varied.
        out: the sweep's folder.
        values_of: the metric so far of a trial's folder; None reads the recipe's own evaluations.
        program: what runs a recipe, for tests; this package's command if empty.
        jobs: trials at once.

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
    for place in asked.space.places:
        study.enqueue_trial(place, skip_if_exists=True)
    running = _Running(optuna, study, asked, out, values_of or evaluations, program)
    if jobs == 1:
        running.work()
    else:
        running.work_side_by_side(jobs)
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


class _Running:
    """The trials that are left, run by one worker or several."""

    def __init__(self, optuna: Any, study: Any, asked: Sweep, out: Path, read: Values, program: Sequence[str]) -> None:
        self.optuna, self.study, self.asked, self.out, self.read, self.program = (
            optuna,
            study,
            asked,
            out,
            read,
            program,
        )
        self.cut = _cut(optuna, study)
        self.lock = threading.Lock()
        self.interrupted = threading.Event()

    def work(self) -> None:
        """Run one trial after the other until none is left."""
        while not self.interrupted.is_set() and (trial := self._next()) is not None:
            self._finish(trial)

    def work_side_by_side(self, jobs: int) -> None:
        """The same by several workers, each trial in a process of its own."""
        with ThreadPoolExecutor(jobs) as pool:
            try:
                for worker in [pool.submit(self.work) for _ in range(jobs)]:
                    worker.result()
            except BaseException:
                self.interrupted.set()
                raise

    def _next(self) -> Any:
        """A trial that a kill has cut, or a new one; None if there are enough."""
        with self.lock:
            if self.cut:
                return self.cut.pop(0)
            begun = [trial for trial in self.study.trials if trial.state.name != "WAITING"]
            if len(begun) >= self.asked.space.num_trials:
                return None
            seed = self.asked.space.seed + len(begun)  # a resumed sweep draws alike
            self.study.sampler = self.optuna.samplers.TPESampler(seed=seed)
            return self.study.ask(_distributions(self.optuna, self.asked.space))

    def _finish(self, trial: Any) -> None:
        folder = self.out / "trials" / str(trial.number)
        started = time.monotonic()
        settings = [part for key, value in trial.params.items() for part in ("--set", f"{key}={value}")]
        command = [*(self.program or [sys.executable, "-c", RUN]), "run", self.asked.recipe, *self.asked.arguments]
        say(f"trial {trial.number} of {self.asked.space.num_trials}: {' '.join(settings)}")
        status = _watched([*command, *settings, "--out", str(folder)], folder, lambda: self._is_over(trial, folder))
        if self.interrupted.is_set() or (status and self.interrupted.wait(POLL_S)):
            return  # it was interrupted, and goes on next time
        values, missing = self._values(folder)
        best = (max if self.asked.space.larger_is_better else min)(values, default=None)
        states = self.optuna.trial.TrialState
        with self.lock:
            trial.set_user_attr("seconds", round(time.monotonic() - started, 1))
            trial.set_user_attr("best", best)
            if status is None:
                self.study.tell(trial.number, state=states.PRUNED)
            elif status == 0 and best is not None:
                self.study.tell(trial.number, best)
            else:
                reason = "" if status else missing
                trial.set_user_attr("reason", reason or _last_line(folder / "run.log") or f"exit status {status}")
                self.study.tell(trial.number, state=states.FAIL)
            self._report(trial)

    def _report(self, trial: Any) -> None:
        found = rows(self.study, self.out)
        texts = {"trials.jsonl": "".join(json.dumps(row) + "\n" for row in found), "sweep.md": table(found)}
        for name, text in texts.items():
            with whole_file(self.out / name) as file:
                file.write(text)
        own = next(row for row in found if row["trial"] == trial.number)
        told = [str(own[name]) for name in ("value", "reason") if own[name] not in (None, "")]
        say(f"trial {trial.number}: {', '.join([own['state'], *told])}")

    def _values(self, folder: Path) -> tuple[list[float], str]:
        """The metric of a trial that has ended, and why there is none."""
        try:
            return list(self.read(folder)), "the recipe evaluated nothing; give it a validation side"
        except ValueError as fault:
            return [], one_line(fault)

    def _is_over(self, trial: Any, folder: Path) -> bool:
        if self.interrupted.is_set():
            return True
        with suppress(ValueError):
            return _is_hopeless(trial, self.read(folder))
        return False


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
