"""Options that the commands that ask a model share."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evals.asking import Answering

if TYPE_CHECKING:
    from evals.running.options import RunOptions


@dataclass(frozen=True)
class ServerOptions:
    """The server that answers instead of weights here, if one does."""

    endpoint: Annotated[str, typer.Option(help="URL of an OpenAI-compatible server that answers instead.")] = ""
    endpoint_model: Annotated[str, typer.Option(help="The model's name there; needless if it has only one.")] = ""
    concurrency: Annotated[int, typer.Option(min=1, help="Requests to the server at a time.")] = 8
    retries: Annotated[int, typer.Option(min=0, help="Further attempts after a request that failed.")] = 5
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds the server has for one answer.")] = 300.0

    def answering(
        self,
        open_things: ExitStack,
        model: str,
        roles: Mapping[str, str],
        placed: Mapping[str, Any],
        decoder: Mapping[str, Any],
        accepted: Path | None = None,
    ) -> Answering:
        """What answers: the server, which `open_things` closes, or weights here.

        Raises:
            ValueError: Options for weights here are given beside a server.
        """
        if not self.endpoint:
            return Answering(model, roles, placed, decoder, accepted=accepted)
        if any(decoder.values()):
            raise ValueError("--adapter and --quantize are for weights here; start the server with them")
        from medgemma.endpoint import Endpoint

        server = Endpoint(self.endpoint, self.endpoint_model or None, timeout_s=self.timeout, retries=self.retries)
        return Answering(server.fingerprint, roles, {}, {}, open_things.enter_context(server), accepted)


@dataclass(frozen=True)
class AskedOptions:
    """Which items are asked, and how."""

    side: Annotated[str, typer.Option(help="Part of the data; the task's first if empty; see `show TASK`.")] = ""
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many items a task, drawn by --seed.")] = None
    seed: Annotated[int, typer.Option(help="Of the order and draw of items, and of drawn answers.")] = 0
    fewshot: Annotated[int | None, typer.Option(min=0, help="Worked examples; the task's number if left out.")] = None
    shuffle_pictures: Annotated[
        bool, typer.Option("--shuffle-pictures", help="Put every question to another group's picture.")
    ] = False
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Longest answer, in tokens; the task's if left out.")
    ] = None
    thinking_tokens: Annotated[int, typer.Option(min=0, help="Let the model think, so many tokens at most.")] = 0
    samples: Annotated[int, typer.Option(min=1, help="Answers drawn an item; the majority counts.")] = 1
    temperature: Annotated[float, typer.Option(min=0, help="Of the draws; 0 is greedy.")] = 0.0
    vote_orders: Annotated[
        int, typer.Option(min=0, help="Ask in so many drawn orders of the options; the majority counts.")
    ] = 0

    def chosen(self) -> "RunOptions":
        """As the runner takes them."""
        from evals.running.options import RunOptions

        return RunOptions(
            side=self.side,
            limit=self.limit,
            seed=self.seed,
            condition="shuffled" if self.shuffle_pictures else "real",
            num_fewshot=self.fewshot,
            max_new_tokens=self.max_new_tokens,
            thinking_tokens=self.thinking_tokens,
            n_samples=self.samples,
            temperature=self.temperature,
            vote_orders=self.vote_orders,
        )
