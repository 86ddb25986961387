"""What the commands that ask a model share: tasks are chosen, a model or server answers, items are asked."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from data_cards.table.options import TableOptions
from medsiglip.command import one_line, progress, say

if TYPE_CHECKING:
    from evals.running.options import RunOptions
    from evals.tasks.task import Task

ALL_KIT = "all-kit"
"""Stands for every task whose data is there."""


class Answering:
    """What answers: a server, or models that are loaded when the first task wants them.

    With `accepted`, judge.json or its folder, a judge that it does not accept is refused.
    """

    def __init__(
        self,
        model: str,
        roles: Mapping[str, str],
        placed: Mapping[str, Any],
        decoder: Mapping[str, Any],
        server: Any = None,
        accepted: Path | None = None,
    ) -> None:
        self.model = model
        self.accepted = accepted
        self.is_server = server is not None
        self._roles, self._placed, self._decoder = roles, placed, decoder
        self._loaded: dict[str, Any] = {"text": server} if server else {}

    def for_task(self, task: "Task", options: "RunOptions") -> Any:
        """Return the model for a task, with those who play the other roles if it is a dialogue."""
        from evals.clinic.casting import local_players, server_players
        from evals.judging.acceptance import demand_accepted

        kind = "label" if task.answers == "label" else "text"
        if kind not in self._loaded:
            self._loaded[kind] = load_model(kind, self.model, self._placed, self._decoder)
        model = self._loaded[kind]
        if not task.dialogue:
            return model
        cast = server_players if self.is_server else local_players
        players = cast(model, self._roles, options.generation(task))
        judge = players.judge_for(task.dialogue.roles)
        if self.accepted is None or not judge:
            return players
        return replace(players, accepted=demand_accepted(self.accepted, judge))


class CannotAnswer(NamedTuple):
    """Kinds of task that what answers is not made for."""

    kinds: tuple[str, ...]
    reason: str


def what_cannot_answer(is_server: bool, decoder: Mapping[str, Any]) -> CannotAnswer:
    """Say which tasks a server, or a decoder with options of its own, is not asked."""
    if is_server:
        return CannotAnswer(("label", "choices"), "reads the weights, which --endpoint does not show")
    if any(decoder.values()):
        return CannotAnswer(("label",), "is for the encoder, which --adapter and --quantize do not change")
    return CannotAnswer((), "")


def of_table(
    asked: TableOptions, names: Sequence[str], data: Path | None, options: "RunOptions"
) -> tuple[list["Task"], "RunOptions"]:
    """Return the tasks of a table, and the options with its side; say what was understood before anything runs."""
    from evals.tasks.tables import default_side, table_kinds, task_name, task_of

    if data is not None:
        raise ValueError(f"got --data {data} and --table {asked.table}; give one of them")
    table = asked.read()
    for line in (*table.described(), *table.findings):
        say(line)
    kinds = {task_name(kind): kind for kind in table_kinds(table)}
    unknown = [name for name in names if name not in kinds]
    if unknown:
        raise ValueError(f"{table.source}: got task {unknown[0]!r}; its rows are asked by {', '.join(kinds)}")
    side = options.side or default_side(table)
    say(f"asked: {', '.join(names or kinds)}; rows: {side}" + ("" if options.side else " (--side names another)"))
    return [task_of(table, kinds[name]) for name in dict.fromkeys(names or kinds)], replace(options, side=side)


def chosen_tasks(names: Sequence[str], data: Path, cannot: CannotAnswer) -> list["Task"]:
    """Return the tasks of the names, each once; say which ones `all-kit` leaves out."""
    from evals.tasks.catalogue import TASKS, task_named

    if ALL_KIT not in names:
        chosen = [task_named(name) for name in dict.fromkeys(names)]
        for task in chosen:
            if task.answers in cannot.kinds:
                raise ValueError(f"task {task.name}: {cannot.reason}; run it without")
        return chosen
    tasks = [task for task in TASKS.values() if task.cards]
    fitting = [task for task in tasks if task.answers not in cannot.kinds]
    absent = {task.name: [card for card in task.cards if not _is_there(card, data)] for task in fitting}
    missing = ", ".join(f"{name} ({', '.join(cards)})" for name, cards in absent.items() if cards)
    if missing:
        say(f"not run, their data is not in {data}: {missing}")
    if len(fitting) < len(tasks):
        say(f"not run, {len(tasks) - len(fitting)} tasks; each {cannot.reason}")
    return [task for task in fitting if not absent[task.name]]


def _is_there(card: str, data: Path) -> bool:
    from data_cards.readers.tables import find_set

    try:
        return find_set(data, card).is_dir()
    except ValueError:
        return False


def run_one(
    task: "Task",
    options: "RunOptions",
    data: Path,
    out: Path,
    answering: Answering,
    cache: Any,
    concurrency: int,
    quiet: bool,
) -> int | None:
    """Run one task; return the number of items that failed, None if it could not be run; say which and why."""
    from evals.running.runner import run_task
    from medgemma.endpoint import EndpointRefused

    command = " ".join(["medgemma-eval", *sys.argv[1:]])
    try:
        model = answering.for_task(task, options)
        with progress(None, f"items of {task.name}", quiet) as advance:
            ran = run_task(
                task,
                options,
                data,
                out,
                model,
                answering.model,
                command,
                advance,
                expect=advance.expect,
                cache=cache,
                concurrency=concurrency if answering.is_server else 1,
            )
    except EndpointRefused:
        raise
    except (ValueError, OSError) as fault:
        say(f"error: {task.name}: {one_line(fault)}")
        return None
    for table in ran.data_differs_from_card:
        say(f"warning: {table} is not the copy its card describes; figures on it do not compare with others")
    if ran.shown_as_examples:
        asked = ", ".join(ran.shown_as_examples[:3])
        say(f"warning: {task.name}: {len(ran.shown_as_examples)} item(s) are in the worked examples too: {asked}")
    if ran.set_aside:
        say(
            f"note: {task.name}: the model's tokenizer, template, pixels or settings have changed since it answered; "
            f"all items were asked anew, and the old answers are in {ran.set_aside.name}"
        )
    for output in ran.failed:
        say(f"error: {task.name}: {output.item_id}: {output.error}")
    return len(ran.failed)


def load_model(kind: str, model: str, placed: Mapping[str, Any], decoder: Mapping[str, Any]) -> Any:
    """Load the decoder for text and choices, the encoder's classifier for labels."""
    if kind == "text":
        from medgemma import MedGemma

        return MedGemma.from_pretrained(model, **placed, **decoder)
    from medsiglip import MedSigLIP

    return MedSigLIP.from_pretrained(model, **placed)
