"""The best weights of a stage, by a metric of its task instead of its loss."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from finetune.training.ranks import ALONE
from finetune.training.state import restore, write_whole
from medsiglip.checkpoints.safetensors_files import opened

BEST = "best.safetensors"


@dataclass(frozen=True)
class Evaluation:
    """What decides which weights are the best."""

    metric: Callable[[int], float]
    """The number of steps made to the metric of the weights as they are; `finetune.live` has them answer a task."""
    name: str
    """In the log."""
    every_steps: int
    """And after the last step."""
    larger_is_better: bool = True

    def is_due(self, step: int, total_steps: int) -> bool:
        """Whether to evaluate after a step, counted from 0."""
        return (step + 1) % self.every_steps == 0 or step + 1 == total_steps

    def is_better(self, value: float, best: float | None) -> bool:
        """Whether a value beats the best so far; the earlier of two equal ones stays."""
        return best is None or (value > best if self.larger_is_better else value < best)


def save_best(folder: Path, named: dict[str, nn.Parameter], steps: int, name: str, value: float) -> None:
    """Write what is trained as FOLDER/best.safetensors, whole or not at all."""
    facts = {"steps": str(steps), "metric": name, "value": repr(value)}
    write_whole(folder / BEST, {key: p.detach() for key, p in named.items()}, facts, ALONE)


def load_best(folder: Path, modules: nn.Module) -> dict[str, str]:
    """Give the modules the best weights of their stage; returns their `steps`, `metric` and `value`.

    Raises:
        ValueError: there are none.
    """
    path = folder / BEST
    if not path.is_file():
        raise ValueError(f"{path}: no best weights there; run the stage with an Evaluation")
    with opened([path], "pt") as files:
        for name, parameter in modules.named_parameters():
            if parameter.requires_grad:
                restore(parameter, files[path].get_tensor(name))
        return dict(files[path].metadata())
