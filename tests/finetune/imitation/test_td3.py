import numpy as np
import torch

from finetune.imitation.policy import Policy
from finetune.imitation.td3 import TD3, Critics, TD3Settings, Transitions


def learner(**settings: float) -> TD3:
    torch.manual_seed(0)
    given = TD3Settings(hidden_units=16, batch_size=4, **settings)
    return TD3(Policy(3, [-2.0], [2.0], given.shape), given, seed=0)


def batch(count: int = 4) -> Transitions:
    torch.manual_seed(1)
    discount = torch.tensor([1.0, 0.0] * (count // 2))
    return Transitions(
        torch.randn(count, 3), torch.randn(count, 1), torch.randn(count), discount, torch.randn(count, 3)
    )


def test_two_critics_side_by_side_are_two_networks() -> None:
    critics = Critics(4, TD3Settings(hidden_units=8).shape)
    inputs = torch.randn(5, 4)
    for number in (0, 1):
        values = inputs
        for place, (weight, bias) in enumerate(zip(critics.weights, critics.biases, strict=True)):
            values = (values if place == 0 else torch.relu(values)) @ weight[number] + bias[number]
        torch.testing.assert_close(critics(inputs)[number], values[:, 0])


def test_the_target_is_the_smaller_value_and_none_after_the_end() -> None:
    one, given = learner(target_noise=0.0, discount=0.5), batch()
    action = one.target_policy(given.next_observation)
    values = one.target_critics(torch.cat([given.next_observation, action], -1))
    expected = given.reward + 0.5 * given.discount * torch.minimum(values[0], values[1])
    torch.testing.assert_close(one.target_values(given), expected)
    assert one.target_values(given)[1] == given.reward[1]


def test_the_policy_learns_every_second_time_and_the_slow_copies_follow() -> None:
    one, given = learner(target_rate=0.25), batch()
    before, slow = [p.detach().clone() for p in one.policy.parameters()], one.target_policy.network[0].weight.clone()
    one.update(given)
    assert all(torch.equal(a, b) for a, b in zip(before, one.policy.parameters(), strict=True))
    one.update(given)
    assert not torch.equal(before[0], one.policy.network[0].weight)
    expected = 0.75 * slow + 0.25 * one.policy.network[0].weight
    torch.testing.assert_close(one.target_policy.network[0].weight, expected)


def test_the_policy_goes_to_the_best_action_of_a_known_reward() -> None:
    one = learner(discount=0.0, actor_learning_rate=3e-3, critic_learning_rate=3e-3)
    generator = np.random.default_rng(0)
    for _ in range(400):
        observation, action = generator.normal(size=(64, 3)), generator.uniform(-2, 2, (64, 1))
        reward = -((action[:, 0] - np.tanh(observation[:, 0])) ** 2)
        given = (observation, action, reward, np.ones(64), observation)
        one.update(Transitions(*(torch.tensor(part, dtype=torch.float32) for part in given)))
    seen = torch.randn(200, 3)
    with torch.no_grad():
        assert (one.policy(seen)[:, 0] - torch.tanh(seen[:, 0])).abs().mean() < 0.15
