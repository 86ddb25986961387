from pathlib import Path

import numpy as np
import pytest
import torch

from finetune.imitation.policy import Policy, Shape, load_policy, save_policy


def a_policy(activation: str = "relu") -> Policy:
    torch.manual_seed(0)
    return Policy(3, [-2.0, 0.0], [2.0, 10.0], Shape(hidden_units=8, activation=activation)).eval()


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_the_numpy_policy_is_the_torch_policy_and_follows_its_weights(activation: str) -> None:
    policy, observation = a_policy(activation), np.array([0.3, -1.0, 2.0])
    policy.standardize(np.random.default_rng(0).normal(3, 2, (50, 3)))
    act = policy.act()
    for _ in range(2):
        expected = policy(torch.tensor(observation, dtype=torch.float32)[None]).detach().numpy()[0]
        np.testing.assert_allclose(act(observation), expected, rtol=1e-5)
        with torch.no_grad():
            policy.network[0].weight.mul_(-1)


def test_actions_reach_their_bounds_and_go_no_further() -> None:
    policy = a_policy()
    with torch.no_grad():
        policy.network[-1].weight.zero_()
        policy.network[-1].bias.copy_(torch.tensor([50.0, 0.0]))
    assert policy(torch.zeros(1, 3)).tolist() == [[2.0, 5.0]]  # tanh(0) is the middle


def test_a_constant_number_of_an_observation_is_not_divided_by_nothing() -> None:
    policy = a_policy()
    policy.standardize(np.array([[1.0, 5.0, 0.0], [3.0, 5.0, 0.0]]))
    assert policy.observation_mean.tolist() == [2.0, 5.0, 0.0]
    assert policy.observation_std.tolist() == [1.0, 1.0, 1.0]


def test_a_policy_comes_back_from_its_file(tmp_path: Path) -> None:
    policy = a_policy("tanh")
    policy.standardize(np.random.default_rng(0).normal(3, 2, (50, 3)))
    save_policy(policy, tmp_path / "a" / "policy.safetensors")
    again = load_policy(tmp_path / "a" / "policy.safetensors")
    observations = torch.randn(5, 3)
    assert again.shape == policy.shape
    assert torch.equal(again(observations), policy(observations))
    with pytest.raises(ValueError, match="no such policy"):
        load_policy(tmp_path / "b.safetensors")
