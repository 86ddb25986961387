"""Before and after: a table's held-out rows asked of two models by `evals`, and the paired difference over groups."""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from data_cards.table import Split, Table
from evals.items import Item
from evals.results.compare import Comparison
from evals.running.options import RunOptions
from evals.tasks.tables import completion, table_kinds, task_of
from finetune.tables.before_after import Asked, Load, ask, compare_all, folder_name
from medsiglip.command import say


class Reply(NamedTuple):
    """An answer without a decoder behind it."""

    text: str
    thinking: str | None = None
    tokens: int = 0
    finish_reason: str = "stop"


@dataclass(frozen=True)
class CommonestAnswer:
    """Answers every question with what is right most often on the training side: what looking at nothing reaches."""

    by_prompt: Mapping[str, str]
    otherwise: str

    @classmethod
    def of(
        cls,
        items: Sequence[Item],
        learned: Callable[[Item], str] = completion,
        kind: Callable[[Item], str] = lambda item: item.prompt,
        asked: Sequence[Item] = (),
    ) -> "CommonestAnswer":
        """Of the training side's items, by kind of question.

        Args:
            items: Of the training side.
            learned: An item to its right reply.
            kind: An item to what shares a commonest answer; the question itself unless it holds more, such as a record.
            asked: What will be asked, where it is none of the training side's questions.
        """
        said: dict[str, Counter[str]] = defaultdict(Counter)
        for item in items:
            said[kind(item)][learned(item)] += 1
        together = sum(said.values(), Counter[str]())
        by_prompt = {item.prompt: _first(said[kind(item)]) for item in (*items, *asked) if kind(item) in said}
        return cls(by_prompt, _first(together))

    @property
    def fingerprint(self) -> str:
        """Of what it says."""
        return sha256(json.dumps([sorted(self.by_prompt.items()), self.otherwise]).encode()).hexdigest()[:16]

    @property
    def identity(self) -> str:
        """The same."""
        return self.fingerprint

    def ask_each(self, requests: Sequence[tuple[Any, str]], *, max_new_tokens: int) -> Iterator[Reply]:
        """Answer (pictures, prompt) requests in order."""
        for _, prompt in requests:
            yield Reply(self.by_prompt.get(prompt, self.otherwise))


def scored_side(table: Table) -> Split | None:
    """The side that a recipe's result is scored on; None if no row is kept from training."""
    return next((split for split in ("test", "validation") if table.on(split)), None)


def score_models(
    table: Table, models: Mapping[str, Load], out: Path, *, limit: int | None, command: str, quiet: bool
) -> dict[str, Comparison]:
    """Ask the held-out rows of every model and compare the last with each of the others.

    Args:
        table: with rows on a side that is kept from training; else nothing is scored, which is said.
        models: name to what loads it, the tuned model last; one is in memory at a time.
        out: gets a folder a model, as `medgemma-eval run` writes it, and gain.json.
        limit: rows of a kind at most.
        command: for the record.
        quiet: no progress bar.

    Returns:
        Name of each other model to the comparison: value, n, and second minus first with its interval over groups.
    """
    side = scored_side(table)
    if side is None:
        say(f"{table.source}: every row is on the side train, so nothing is scored; name a --split column")
        return {}
    asked = [
        Asked(task_of(table, kind), table.source, RunOptions(side=side, limit=limit)) for kind in table_kinds(table)
    ]
    for name, load in models.items():
        ask(asked, load(), name, out / folder_name(name), command, quiet)
    return compare_all(list(models), out, side)


def _first(counts: Counter[str]) -> str:
    return counts.most_common(1)[0][0] if counts else ""
