"""Behaviour cloning for continuous actions: an MLP learns the demonstrated action on each observation.

N demonstrated steps, O numbers of an observation, A numbers of an action. For a policy of tokens it is supervised
tuning: `finetune.supervised`.
"""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from finetune.configuration import Section
from finetune.imitation.policy import Activation, Policy, Shape, save_policy
from finetune.training.best import Evaluation
from finetune.training.draws import Part, rows_of_step, seed_of
from finetune.training.loop import Loop, Turn, train
from finetune.training.schedule import Schedule


class BehaviourCloning(Section):
    """The hyper-parameters."""

    updates: int = 3_000
    batch_size: int = 256
    learning_rate: float = 1e-3
    learning_rate_shape: Literal["cosine", "linear", "constant"] = "cosine"
    weight_decay: float = 0.0
    hidden_units: int = 128
    hidden_layers: int = 2
    activation: Activation = "relu"
    dropout: float = 0.0
    standardize: bool = True
    """Observations by the mean and standard deviation of the demonstrations."""
    checkpoint_every: int = 1_000
    """Updates; and after the last."""


def clone(
    pairs: tuple[Any, Any],
    bounds: tuple[Any, Any],
    held_out: tuple[Any, Any],
    settings: BehaviourCloning,
    folder: Path,
    seed: int,
) -> Policy:
    """Learn a policy, or go on with an interrupted run, which ends with the same bits.

    FOLDER/log.jsonl gets the loss and the error on the held-out steps, FOLDER/checkpoints a policy each
    `checkpoint_every` updates, named by their number.

    Args:
        pairs: Demonstrated observations (N, O) and actions (N, A).
        bounds: Lowest and highest action, (A,) each.
        held_out: Observations and actions of other episodes.
        settings: The hyper-parameters.
        folder: Of the run.
        seed: Decides the first weights and the order of the steps.

    Raises:
        ValueError: Observations and actions do not fit each other or the bounds.
    """
    observations, actions = _checked(pairs, bounds)
    held_observations, held_actions = _checked(held_out, bounds)
    torch.manual_seed(seed_of(seed, "weights"))
    shape = Shape.model_validate(settings.model_dump(include=set(Shape.model_fields)))
    policy = Policy(observations.shape[1], *bounds, shape)
    if settings.standardize:
        policy.standardize(pairs[0])

    def draw(step: int) -> list[Part[list[int]]]:
        rows = rows_of_step(len(observations), settings.batch_size, seed, step)
        return [Part(rows, weight=len(rows))]

    def loss_of(rows: list[int], turn: Turn) -> torch.Tensor:
        errors: torch.Tensor = ((policy(observations[rows]) - actions[rows]) ** 2).mean(dim=1)
        return errors.sum() / turn.denominator

    def held_out_error(updates: int) -> float:
        save_policy(policy, folder / "checkpoints" / f"{updates:07}" / "policy.safetensors")
        return float(((policy(held_observations) - held_actions) ** 2).mean())

    schedule = Schedule(
        settings.learning_rate,
        settings.updates,
        weight_decay=settings.weight_decay,
        shape=settings.learning_rate_shape,
        betas=(0.9, 0.999),
    )
    evaluation = Evaluation(held_out_error, "held_out_action_error", settings.checkpoint_every, larger_is_better=False)
    loop = Loop(seed=seed, quiet=True)
    train(policy, draw, loss_of, schedule, folder, loop, settings=settings.model_dump(), evaluation=evaluation)
    return policy


def _checked(pairs: tuple[Any, Any], bounds: tuple[Any, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    observations, actions = (torch.as_tensor(np.asarray(part), dtype=torch.float32) for part in pairs)
    if observations.ndim != 2 or actions.shape != (len(observations), len(bounds[0])):
        raise ValueError(
            f"got observations {tuple(observations.shape)} and actions {tuple(actions.shape)}; expected (N, O) and "
            f"(N, {len(bounds[0])}), the numbers of an action of this environment"
        )
    return observations, actions
