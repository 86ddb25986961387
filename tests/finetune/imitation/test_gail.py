import math
from typing import Any

import numpy as np
import pytest
import torch

from finetune.imitation.gail import GAIL, Discriminator, learn_gail
from finetune.imitation.interaction import Interaction
from finetune.imitation.td3 import TD3Settings, Transitions
from tests.finetune.imitation.toys import Point, demonstrations, expert


def linear(weight: list[float], bias: float, **settings: Any) -> Discriminator:
    """A discriminator whose log odds are linear in two numbers."""
    given = GAIL(discriminator_layers=0, **settings)
    one = Discriminator(torch.ones(4, 2), lambda observation, action: torch.cat([observation, action], -1), given, 0)
    with torch.no_grad():
        one.network[0].weight.copy_(torch.tensor([weight]))
        one.network[0].bias.fill_(bias)
    return one


def test_the_gradient_of_a_linear_discriminator_is_the_closed_form() -> None:
    one = linear([0.6, 0.0], 0.1, gradient_penalty=10.0)
    demonstrated, own = torch.tensor([[1.0, 0.0], [2.0, 1.0]]), torch.tensor([[-1.0, 0.5], [0.5, 0.5]])
    loss = one.loss(demonstrated, own, torch.tensor([[0.2], [0.7]]))
    loss.backward()

    def D(step: torch.Tensor) -> float:
        return 1 / (1 + math.exp(-(0.6 * float(step[0]) + 0.1)))

    expected = sum(-math.log(D(s)) / 2 for s in demonstrated) + sum(-math.log(1 - D(s)) / 2 for s in own)
    assert loss.item() == pytest.approx(expected + 10 * (0.6 - 1) ** 2, rel=1e-5)
    # d/dw of -log D is -(1 - D) x, of -log(1 - D) it is D x; the penalty's norm is |w|, so 2 * 10 * (0.6 - 1) along w
    gradient = sum(-(1 - D(s)) * s / 2 for s in demonstrated) + sum(D(s) * s / 2 for s in own)
    gradient = gradient + torch.tensor([2 * 10 * (0.6 - 1), 0.0])
    torch.testing.assert_close(one.network[0].weight.grad[0], gradient)


@pytest.mark.parametrize("form, expected", [("gail", math.log(1 + math.e)), ("airl", 1.0)])
def test_rewards_of_both_forms(form: Any, expected: float) -> None:
    one = linear([1.0, 0.0], 0.0, reward=form, discriminator_learning_rate=0.0)
    batch = Transitions(
        torch.ones(3, 1), torch.zeros(3, 1), torch.full((3,), math.nan), torch.ones(3), torch.ones(3, 1)
    )
    assert one.batch_rewards(batch).tolist() == pytest.approx([expected] * 3)  # log odds of 1


def test_the_agent_comes_nearer_to_the_expert_without_a_reward() -> None:
    settings = GAIL(
        reward="airl",
        discriminator_learning_rate=3e-3,
        gradient_penalty=1.0,
        td3=TD3Settings(hidden_units=32, batch_size=32, discount=0.5),
        interaction=Interaction(steps=500, random_steps=100),
    )
    points = np.random.default_rng(0).uniform(-1, 1, (100, 2)).astype(np.float32)
    act = learn_gail(Point(), demonstrations(5), settings, 0, lambda step, policy: None).act()
    error = np.abs(np.stack([act(one) - expert(one) for one in points])).mean()
    assert error < 0.45  # one that does nothing is off by 0.66
