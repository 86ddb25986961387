import math
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from experience import EpisodeDataset
from experience.recorder import Provenance
from finetune.imitation.demonstrated import new_learner, transitions_of
from finetune.imitation.interaction import Interaction, OwnReward, interact, without_reward
from finetune.imitation.rollouts import record, roll_out
from finetune.imitation.td3 import TD3Settings
from finetune.selection.demonstrations import read_demonstrations
from tests.finetune.imitation.toys import LIMIT, Point, demonstrations, expert

SETTINGS = TD3Settings(hidden_units=16, batch_size=16)


class Watching(OwnReward):
    """What was told."""

    def __init__(self) -> None:
        self.begun, self.rewards = 0, list[float]()
        self.batches = 0

    def begin_episode(self) -> None:
        self.begun += 1

    def step_reward(self, observation: Any, action: Any, reward: float) -> float:
        self.rewards.append(reward)
        return 1.0

    def batch_rewards(self, batch: Any) -> torch.Tensor:
        self.batches += 1
        assert batch.reward.tolist() == [1.0] * 16
        return batch.reward


def test_steps_updates_episodes_and_checkpoints_are_as_many_as_said() -> None:
    told, steps = Watching(), list[int]()
    interaction = Interaction(steps=50, random_steps=10, updates_per_step=0.5, checkpoint_every=20)
    interact(without_reward(Point()), new_learner(Point(), SETTINGS, None, 0), told, interaction, 0, steps.append)
    assert steps == [20, 40, 50]
    assert told.batches == 20
    assert told.begun == 1 + 50 // LIMIT
    assert len(told.rewards) == 50 and all(math.isnan(one) for one in told.rewards)  # none is seen


def test_the_same_seed_gives_the_same_policy_and_another_does_not() -> None:
    def learned(seed: int) -> torch.Tensor:
        one = new_learner(Point(), SETTINGS, None, 0)
        interact(Point(), one, OwnReward(), Interaction(steps=60, random_steps=20), seed, lambda step: None)
        return one.policy.network[0].weight.detach()

    assert torch.equal(learned(1), learned(1))
    assert not torch.equal(learned(1), learned(2))


def test_transitions_of_demonstrations_are_thinned_and_know_their_next() -> None:
    (episode,) = demonstrations(1)
    found = transitions_of([episode], Point(), 3, seed=0)
    start = next(i for i in range(3) if np.array_equal(found["observation"][0], episode.steps[i].observation))
    places = range(start, LIMIT, 3)
    np.testing.assert_array_equal(found["observation"], [episode.steps[i].observation for i in places])
    np.testing.assert_array_equal(found["next_observation"], [episode.steps[i + 1].observation for i in places])
    assert found["discount"].tolist() == [1.0] * len(places)  # cut off, not ended
    assert "reward" not in found


def test_demonstrations_of_another_environment_are_named() -> None:
    class Wider(Point):
        action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)

    with pytest.raises(ValueError, match=r"an action of shape \(1,\), the environment of \(2,\)"):
        transitions_of(demonstrations(1), Wider(), 1, seed=0)
    with pytest.raises(ValueError, match="0 demonstrations hold no transition"):
        transitions_of([], Point(), 1, seed=0)


def test_recorded_episodes_have_their_seeds_and_the_returns_that_are_said(tmp_path: Path) -> None:
    who = Provenance(agent_id="expert", environment_config={"id": "point"})
    record(expert, Point(), range(3, 6), tmp_path, who)
    held = roll_out(expert, Point(), range(3, 6))
    dataset = EpisodeDataset(tmp_path)
    assert [one.metadata["seed"] for one in dataset] == [3, 4, 5]
    assert [one.total_reward for one in dataset] == pytest.approx(held.returns)
    read = read_demonstrations(tmp_path)
    np.testing.assert_array_equal(read.observations, held.steps.observations)
    np.testing.assert_array_equal(read.actions, held.steps.actions)
    assert held.steps.groups == ("3", "4", "5")
