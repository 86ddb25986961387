from pathlib import Path

import numpy as np
import pytest
import torch

from finetune.imitation.behaviour_cloning import BehaviourCloning, clone
from finetune.imitation.policy import load_policy
from finetune.training import state

BOUNDS = np.array([-1.0, -1.0]), np.array([1.0, 1.0])


def linear_pairs(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Observations and the actions of a policy that is linear before its tanh."""
    observations = np.random.default_rng(seed).normal(2, 3, (count, 3))
    return observations, np.tanh(observations @ np.array([[0.2, 0.0], [-0.1, 0.3], [0.0, -0.2]]))


def test_a_linear_policy_is_recovered(tmp_path: Path) -> None:
    settings = BehaviourCloning(updates=200, hidden_layers=0, learning_rate=0.1, checkpoint_every=100)
    policy = clone(linear_pairs(500, 0), BOUNDS, linear_pairs(100, 1), settings, tmp_path, seed=0)
    weights = (policy.network[-1].weight / policy.observation_std).detach().numpy()
    np.testing.assert_allclose(weights, [[0.2, -0.1, 0.0], [0.0, 0.3, -0.2]], atol=0.01)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["0000100", "0000200"]
    last = load_policy(tmp_path / "checkpoints" / "0000200" / "policy.safetensors")
    assert torch.equal(last.network[-1].weight, policy.network[-1].weight)


def test_an_interrupted_run_ends_with_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = BehaviourCloning(updates=30, hidden_units=8, dropout=0.2, checkpoint_every=10)
    given = linear_pairs(100, 0), BOUNDS, linear_pairs(20, 1), settings
    whole = clone(*given, tmp_path / "whole" / "run", seed=3)

    def cut(*arguments: object) -> None:
        save(*arguments)
        raise KeyboardInterrupt

    save = state.save_state
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("finetune.training.loop.save_state", cut)
        clone(*given, tmp_path / "cut" / "run", seed=3)
    resumed = clone(*given, tmp_path / "cut" / "run", seed=3)
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(ValueError, match="dropout was 0.2 and is 0.0"):
        clone(*given[:3], settings.model_copy(update={"dropout": 0.0}), tmp_path / "cut" / "run", seed=3)


def test_demonstrations_of_another_action_space_are_named(tmp_path: Path) -> None:
    observations, actions = linear_pairs(10, 0)
    with pytest.raises(ValueError, match=r"actions \(10, 1\); expected \(N, O\) and \(N, 2\)"):
        clone((observations, actions[:, :1]), BOUNDS, (observations, actions), BehaviourCloning(), tmp_path, seed=0)
