"""One training loop for every recipe: parts of a step on every rank, one update, a log, and an exact resume."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from finetune.training.best import Evaluation, save_best
from finetune.training.draws import Draw, Drawn, Part, drawn_ahead, named_places, seed_streams
from finetune.training.logs import Tracker, open_log
from finetune.training.ranks import ALONE, Parallel, Ranks, Spread
from finetune.training.schedule import Schedule, optimizer_of
from finetune.training.state import Kept, Training, load_state, save_state
from medsiglip.command import progress

Precision = Literal["float32", "bfloat16"]

DRAWING_PROCESSES = 4
"""Beside a GPU, which would wait for one."""


@dataclass(frozen=True)
class Loop:
    """How a stage runs; nothing here but the seed changes what comes out."""

    seed: int = 0
    ranks: Ranks = ALONE
    """From `join_ranks`."""
    parallel: Parallel = "ddp"
    save_every_s: float = 120.0
    """Seconds between checkpoints; a last one is written at the end."""
    log_every_steps: int = 20
    trackers: tuple[Tracker, ...] = ()
    """Beside log.jsonl."""
    draw_ahead: bool = True
    """For a GPU, draw in processes of their own while it computes. False where a draw looks at the weights."""
    quiet: bool = False
    """No progress bar."""


@dataclass(frozen=True)
class Turn:
    """What a part's loss may know of its step."""

    step: int
    denominator: float
    """The weights of all parts of the step, over all ranks: completion tokens."""
    logged: dict[str, float] = field(default_factory=dict)

    def log(self, name: str, value: float) -> None:
        """Add to a value of the step's log; values are summed over parts and ranks, so divide by `denominator`."""
        self.logged[name] = self.logged.get(name, 0.0) + value


def train(
    modules: nn.Module,
    draw: Draw[Drawn],
    loss_of: Callable[[Drawn, Turn], torch.Tensor],
    schedule: Schedule,
    folder: Path,
    loop: Loop = Loop(),
    *,
    settings: Mapping[str, Any] | None = None,
    evaluation: Evaluation | None = None,
    kept: Kept | None = None,
) -> None:
    """Run or go on with one stage, on the device where `modules` are.

    An update's loss is the sum of `loss_of` over the step's parts on all ranks. Where that divides a part's sum by
    `Turn.denominator`, it is the same for parts of any size and any number of ranks.

    `draw(step)` must depend on nothing but the step, and `loss_of` on nothing but that, the step and the weights. The
    global generators of torch, NumPy and Python are seeded before each, by seed, stage, step and part, so dropout and
    augmentation may draw from them. Then, on one machine, a run that was interrupted ends with the same bits as one
    that was not.

    Args:
        modules: what is trained; parameters that need no gradient are left alone and not saved here.
        draw: a step to this rank's parts of it, on the CPU (`Loop.ranks.share` deals them out).
        loss_of: one part, and its step, to its share of the loss, a scalar.
        schedule: learning rates and length.
        folder: of the stage; holds state.safetensors, log.jsonl and best.safetensors. Its name also seeds.
        loop: how it runs.
        settings: what else decides the result; a checkpoint of other settings is refused.
        evaluation: keeps the best weights by a metric of the task.
        kept: what an algorithm keeps over steps beside the weights.

    Raises:
        FloatingPointError: the loss or the gradient is not finite; the rows are named, the last checkpoint is kept.
        Exception: what `draw` raises; the steps made are kept in a checkpoint first.
        ValueError: the checkpoint there is of another configuration, a rank has drawn nothing, or a tracker is missing.
    """
    _Stage(modules, draw, loss_of, schedule, folder, loop, settings or {}, evaluation, kept).run()


def autocast(device_type: str, precision: Precision) -> torch.autocast:
    """The context in which a forward pass runs in `precision`; weights stay as they are."""
    return torch.autocast(device_type, dtype=torch.bfloat16, enabled=precision == "bfloat16")


class _Stage:
    def __init__(
        self,
        modules: nn.Module,
        draw: Draw[Any],
        loss_of: Callable[[Any, Turn], torch.Tensor],
        schedule: Schedule,
        folder: Path,
        loop: Loop,
        settings: Mapping[str, Any],
        evaluation: Evaluation | None,
        kept: Kept | None,
    ) -> None:
        self.modules, self.draw, self.schedule, self.folder, self.loop = modules, draw, schedule, folder, loop
        self.evaluation = evaluation
        self.spread = Spread(modules, loss_of, loop.ranks, loop.parallel)
        if evaluation and self.spread.is_sharded:
            raise ValueError("no process holds all weights under fully_shard, to evaluate them; use ddp, or no metric")
        named = {name: p for name, p in modules.named_parameters() if p.requires_grad}
        if not named:
            raise ValueError("no parameter is trained; unfreeze some")
        self.training = Training(named, optimizer_of(named, schedule), kept, loop.ranks)
        self.settings = {"seed": loop.seed, **asdict(schedule), **settings}
        self.best: float | None = None

    def run(self) -> None:
        """All steps that are left."""
        self.folder.mkdir(parents=True, exist_ok=True)
        start, self.best = load_state(self.folder, self.training, self.settings)
        self.saved_steps, self.saved_at = start, time.monotonic()
        steps, first = range(start, self.schedule.total_steps), self.loop.ranks.rank == 0
        with ExitStack() as open_things:
            self.write = None
            if first and steps:
                self.write = open_log(self.folder, self.loop.trackers, start, self.settings, open_things)
            advance = open_things.enter_context(
                progress(len(steps), f"steps of {self.folder.name}", self.loop.quiet or not first)
            )
            drawn = drawn_ahead(self._drawn, steps, self._processes())
            for step in steps:
                parts = self._next(drawn, step)
                loss = self._step(step, parts)
                self._evaluate(step)
                self._save(step)
                advance(1)
                advance.show(f"loss {loss:.4g}")
        self.modules.eval()

    def _next(self, drawn: Iterator[Sequence[Part[Any]]], step: int) -> Sequence[Part[Any]]:
        """The parts of a step; where they cannot be drawn (a sampler is lost), the steps made are kept first."""
        try:
            return next(drawn)
        except Exception:
            if step > self.saved_steps and not self.spread.is_sharded:  # shards are put together by all ranks
                save_state(self.folder, self.training, step, self.settings, self.best)
            raise

    def _drawn(self, step: int) -> Sequence[Part[Any]]:
        seed_streams(self.loop.seed, self.folder.name, "draw", step)  # alike on all ranks
        return self.draw(step)

    def _processes(self) -> int:
        on_gpu = any(parameter.device.type == "cuda" for parameter in self.training.named.values())
        return DRAWING_PROCESSES if on_gpu and self.loop.draw_ahead else 0

    def _step(self, step: int, parts: Sequence[Part[Any]]) -> float:
        """One update; returns the loss over all parts and ranks."""
        shares = self.spread.gathered((sum(part.weight for part in parts), len(parts)))
        if not all(count for _, count in shares):
            raise ValueError(f"step {step}: rank {[n for _, n in shares].index(0)} has drawn nothing; draw more parts")
        turn = Turn(step, sum(weight for weight, _ in shares))
        if not turn.denominator > 0:
            raise ValueError(f"step {step}: nothing to learn in its {sum(n for _, n in shares)} parts; draw others")
        most = max(count for _, count in shares)
        idle = [Part(parts[0].drawn, 0.0, parts[0].places)] * (most - len(parts))  # the other ranks wait for this one
        losses = self._gradients(turn, [*parts, *idle])
        return self._update(turn, [*parts, *idle], losses)

    def _gradients(self, turn: Turn, parts: Sequence[Part[Any]]) -> list[torch.Tensor]:
        self.modules.train()
        self.training.optimizer.zero_grad(set_to_none=True)
        losses = []
        for number, part in enumerate(parts):
            seed_streams(self.loop.seed, self.folder.name, turn.step, number, self.loop.ranks.rank)
            with self.spread.exchange(last=number == len(parts) - 1):
                loss = self.spread.loss(part.drawn, turn)
                loss = loss if part.weight else loss * 0
                self.spread.backward(loss)
            losses.append(loss.detach())
        return losses

    def _update(self, turn: Turn, parts: Sequence[Part[Any]], losses: Sequence[torch.Tensor]) -> float:
        values = torch.stack([loss.float() for loss in losses]).tolist()
        bad = [
            place
            for part, value in zip(parts, values, strict=True)
            if not math.isfinite(value)
            for place in part.places
        ]
        found = self.spread.gathered((sum(values), bad, turn.logged))
        loss = float(sum(value for value, _, _ in found))
        if not math.isfinite(loss):
            raise FloatingPointError(self._fault("loss", loss, turn.step, [place for _, b, _ in found for place in b]))
        norm = self._clip()
        if not math.isfinite(norm):
            places = self.spread.gathered([place for part in parts for place in part.places])
            raise FloatingPointError(self._fault("gradient", norm, turn.step, [p for own in places for p in own]))
        for group in self.training.optimizer.param_groups:
            group["lr"] = self.schedule.learning_rate(turn.step)
        self.training.optimizer.step()
        if turn.step % self.loop.log_every_steps == 0 or turn.step + 1 == self.schedule.total_steps:
            names = sorted({name for _, _, logged in found for name in logged})
            more = {name: sum(logged.get(name, 0.0) for _, _, logged in found) for name in names}
            self._log(turn, loss, norm, more)
        return loss

    def _clip(self) -> float:
        """The gradient's norm before it was clipped; what no part has reached gets zeros, as on other ranks."""
        for parameter in self.training.named.values():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        norm: Any = nn.utils.clip_grad_norm_(self.training.named.values(), self.schedule.clip_norm)
        return float(norm.full_tensor() if self.spread.is_sharded else norm)

    def _log(self, turn: Turn, loss: float, norm: float, more: Mapping[str, float]) -> None:
        if self.write is not None:
            values = {
                "loss": round(loss, 5),
                "learning_rate": round(self.schedule.learning_rate(turn.step), 8),
                "gradient_norm": round(norm, 5),
                "denominator": turn.denominator,
                **{name: round(value, 5) for name, value in more.items()},
            }
            self.write(turn.step, values)

    def _fault(self, what: str, value: float, step: int, places: Sequence[str]) -> str:
        rows = named_places(places, most=8)
        kept = f"the checkpoint before step {self.saved_steps} is kept" if self.saved_steps else "no checkpoint yet"
        return (
            f"the {what} is {value} at step {step}{rows and f', in the batch of {rows}'}; {kept}; "
            "look at those rows, or start another run with a lower learning rate"
        )

    def _evaluate(self, step: int) -> None:
        evaluation = self.evaluation
        if evaluation is None or not evaluation.is_due(step, self.schedule.total_steps):
            return
        self.modules.eval()
        value = 0.0
        if self.loop.ranks.rank == 0:
            with torch.no_grad():
                value = float(evaluation.metric(step + 1))
            if self.write is not None:
                self.write(step, {evaluation.name: value})
            if evaluation.is_better(value, self.best):
                save_best(self.folder, self.training.named, step + 1, evaluation.name, value)
        value = self.spread.gathered(value)[0]
        if evaluation.is_better(value, self.best):
            self.best = value
        self.saved_at = -math.inf  # what was measured is not measured again

    def _save(self, step: int) -> None:
        due = step + 1 == self.schedule.total_steps or time.monotonic() - self.saved_at > self.loop.save_every_s
        if self.spread.gathered(due)[0]:  # rank 0's clock
            save_state(self.folder, self.training, step + 1, self.settings, self.best)
            self.saved_steps, self.saved_at = step + 1, time.monotonic()
