"""A point on a line that pushes itself to where it should be, and an expert for it."""

from typing import Any

import gymnasium
import numpy as np

from experience.episode import Episode, Step

LIMIT = 20


class Point(gymnasium.Env[Any, Any]):  # type: ignore[misc]
    """Sees place and goal, acts by a push of -1 to 1, and is rewarded for being near; an episode has 20 steps."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.state = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        self.steps = 0
        return self.state.copy(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.state[0] += 0.5 * float(action[0])
        self.steps += 1
        return self.state.copy(), -abs(float(self.state[0] - self.state[1])), False, self.steps == LIMIT, {}


def expert(observation: Any) -> Any:
    """Push to the goal."""
    return np.clip(2 * (observation[1:] - observation[:1]), -0.9, 0.9).astype(np.float32)


def demonstrations(count: int) -> list[Episode]:
    """Episodes of the expert, without rewards."""
    return [_demonstration(seed) for seed in range(count)]


def _demonstration(seed: int) -> Episode:
    env, steps = Point(), list[Step]()
    observation, _ = env.reset(seed=seed)
    for number in range(LIMIT):
        action = expert(observation)
        steps.append(Step(observation, action, is_first=number == 0))
        observation, *_ = env.step(action)
    return Episode((*steps, Step(observation, is_last=True)), f"demonstration-{seed}", {"seed": seed})
