"""Mean squared action error: how far a policy's actions are from the expert's in held-out states. Smaller is better.

Of actions that are one of several it is the share that differs. The proxy of behaviour cloning; it sees no state but
the expert's.

Source: Hussenot et al., Hyperparameter Selection for Imitation Learning, arXiv:2105.12034 (2021).
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from finetune.selection.demonstrations import Demonstrations
from finetune.selection.scores import Score

Act = Callable[[NDArray[np.float32]], NDArray[np.float32] | NDArray[np.int64]]
"""A policy: (N, d) states to its (N, a) or (N,) actions; of a random one the mode or the mean."""


def action_error(act: Act, held_out: Demonstrations) -> Score:
    """Score a policy by (1 / N) sum ||act(s) - a||^2 over held-out pairs.

    Args:
        act: The policy.
        held_out: Of demonstrations that it has not learned from.

    Raises:
        ValueError: Its actions are of another space.
    """
    said = np.asarray(act(held_out.observations))
    if said.shape != held_out.actions.shape:
        raise ValueError(
            f"the policy's actions have the shape {said.shape[1:]}, the demonstrations' {held_out.actions.shape[1:]}: "
            "they are of another action space"
        )
    if held_out.is_discrete:
        errors = (said != held_out.actions).astype(np.float64)
    else:
        errors = np.square(said.astype(np.float64) - held_out.actions).sum(axis=1)
    return Score(held_out.sums(errors), held_out.num_steps(), held_out.groups, larger_is_better=False)
