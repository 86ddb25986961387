"""What the user of a run decides; what is left open is the task's."""

from dataclasses import dataclass
from typing import Literal

from evals.generation import Generation
from evals.tasks.task import Task

PROBED = "-reliability"
"""Ends the name of a folder of `medgemma-eval reliability`: DIR/<task>-reliability holds items, probes and answers."""

RELIABILITY = "reliability.json"
"""What that command writes into DIR."""

Condition = Literal["real", "shuffled"]
"""shuffled: the same questions, each with the picture of another group: what is left needs no looking."""


@dataclass(frozen=True)
class RunOptions:
    """What decides the items and the answers of a run."""

    side: str = ""
    """One of the task's sides; empty for its first."""
    limit: int | None = None
    """At most so many items; the order is seeded, so they are a fair sample."""
    seed: int = 0
    """Of the order and draw of items, and of drawn answers."""
    condition: Condition = "real"
    num_fewshot: int | None = None
    """Worked examples before each question; None for the task's number."""
    max_new_tokens: int | None = None
    """Longest answer; None for the task's."""
    thinking_tokens: int = 0
    """Longest trace of thoughts; 0 for no thinking."""
    n_samples: int = 1
    temperature: float = 0.0
    vote_orders: int = 0
    """Orders of its options that each item is asked in; 0 for the given one alone."""

    def generation(self, task: Task) -> Generation:
        """Return the settings for one task.

        Raises:
            ValueError: They contradict each other, or several answers are drawn where a vote has no meaning.
        """
        if self.n_samples > 1 and task.answers in ("text", "dialogue") and task.parse is None:
            raise ValueError(f"task {task.name}: its answers cannot be voted on; run it with one sample")
        return Generation(
            max_new_tokens=self.max_new_tokens or task.max_new_tokens,
            system=task.system,
            thinking=self.thinking_tokens > 0,
            thinking_tokens=self.thinking_tokens,
            n_samples=self.n_samples,
            temperature=self.temperature,
            seed=self.seed,
            vote_orders=self.vote_orders,
        )

    def fewshot(self, task: Task) -> int:
        """Return the number of worked examples.

        Raises:
            ValueError: Some are wanted, and the task has none.
        """
        if self.num_fewshot and not task.fewshot_from:
            raise ValueError(f"task {task.name}: has no worked examples; run it without --fewshot")
        return task.num_fewshot if self.num_fewshot is None else self.num_fewshot
