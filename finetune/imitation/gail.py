"""An adversarial method: a discriminator tells demonstrated steps from the agent's, and its output is the reward.

GAIL (Ho & Ermon, arXiv:1606.03476) with an off-policy learner and a gradient penalty, as in Discriminator-Actor-Critic
(Kostrikov et al., arXiv:1809.02925), without its absorbing states.

B steps, O numbers of an observation, A numbers of an action.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from experience.episode import Episode
from finetune.configuration import Section
from finetune.imitation.demonstrated import new_learner, transitions_of
from finetune.imitation.interaction import Interaction, interact, without_reward
from finetune.imitation.policy import Policy, Shape, mlp
from finetune.imitation.td3 import TD3Settings, Transitions
from finetune.training.draws import seed_of

if TYPE_CHECKING:
    import gymnasium


class GAIL(Section):
    """The hyper-parameters."""

    reward: Literal["gail", "airl"] = "gail"
    """gail: -log(1 - D), never negative. airl: log D - log(1 - D) (Fu et al., arXiv:1710.11248)."""
    discriminator_units: int = 64
    discriminator_layers: int = 2
    discriminator_learning_rate: float = 3e-4
    gradient_penalty: float = 10.0
    """On how far the gradient's norm between demonstrated and own steps is from 1."""
    discriminator_every: int = 1
    """Updates of TD3 for one of the discriminator."""
    subsampling: int = 1
    """Every so-manieth step of a demonstration is used."""
    standardize: bool = True
    """Observations by the mean and standard deviation of the demonstrations."""
    td3: TD3Settings = TD3Settings()
    interaction: Interaction = Interaction()


class Discriminator:
    """A network over observation and action, (B, O + A), to the log of the odds that it was demonstrated, (B,)."""

    def __init__(self, demonstrated: torch.Tensor, inputs_of: Callable[..., torch.Tensor], settings: GAIL, seed: int):
        """Take the demonstrated steps, (M, O + A), as `inputs_of` makes them of observations and actions."""
        self.demonstrated, self.inputs_of, self.settings = demonstrated, inputs_of, settings
        self.generator = torch.Generator().manual_seed(seed)
        shape = Shape(hidden_units=settings.discriminator_units, hidden_layers=settings.discriminator_layers)
        self.network = mlp(demonstrated.shape[1], 1, shape)
        self.optimizer = torch.optim.Adam(self.network.parameters(), settings.discriminator_learning_rate, foreach=True)
        self.num_batches = 0

    def begin_episode(self) -> None:
        """Nothing to do."""

    def step_reward(self, observation: Any, action: Any, reward: float) -> float:
        """Nothing is kept: the reward of a step is what the discriminator says of it when it is drawn."""
        return 0.0

    def batch_rewards(self, batch: Transitions) -> torch.Tensor:
        """Learn from the agent's steps and as many demonstrated ones, and return the rewards, (B,)."""
        own = self.inputs_of(batch.observation, batch.action)
        if self.num_batches % self.settings.discriminator_every == 0:
            rows = torch.randint(len(self.demonstrated), (len(own),), generator=self.generator)
            loss = self.loss(self.demonstrated[rows], own, torch.rand((len(own), 1), generator=self.generator))
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
        self.num_batches += 1
        with torch.no_grad():
            log_odds = self.network(own).squeeze(-1)
        return log_odds if self.settings.reward == "airl" else nn.functional.softplus(log_odds)

    def loss(self, demonstrated: torch.Tensor, own: torch.Tensor, between: torch.Tensor) -> torch.Tensor:
        """Return -log D on demonstrated steps, -log(1 - D) on own ones, and the gradient penalty.

        Args:
            demonstrated: (B, O + A).
            own: (B, O + A).
            between: Where between the two the gradient is looked at, (B, 1) from 0 (own) to 1.
        """
        softplus = nn.functional.softplus
        told_apart: torch.Tensor = softplus(-self.network(demonstrated)).mean() + softplus(self.network(own)).mean()
        if not self.settings.gradient_penalty:
            return told_apart
        mixed = (between * demonstrated + (1 - between) * own).requires_grad_()
        (gradient,) = torch.autograd.grad(self.network(mixed).sum(), mixed, create_graph=True)
        penalty: torch.Tensor = (gradient.norm(dim=1) - 1).square().mean()
        return told_apart + self.settings.gradient_penalty * penalty


def learn_gail(
    env: gymnasium.Env[Any, Any],
    demonstrations: Sequence[Episode],
    settings: GAIL,
    seed: int,
    on_checkpoint: Callable[[int, Policy], None],
) -> Policy:
    """Learn a policy from demonstrations in an environment, whose reward is hidden.

    Args:
        env: Of observations and actions that are vectors.
        demonstrations: Episodes of the expert.
        settings: The hyper-parameters.
        seed: Decides everything that is drawn.
        on_checkpoint: Called with the number of steps made and the policy as it is.

    Raises:
        ValueError: There is no demonstration, or they are of another environment.
    """
    steps = transitions_of(demonstrations, env, settings.subsampling, seed)
    learner = new_learner(env, settings.td3, steps["observation"] if settings.standardize else None, seed)
    demonstrated = learner.inputs(torch.from_numpy(steps["observation"]), torch.from_numpy(steps["action"]))
    rewarder = Discriminator(demonstrated, learner.inputs, settings, seed_of(seed, "discriminator"))
    policy = learner.policy
    interact(without_reward(env), learner, rewarder, settings.interaction, seed, lambda n: on_checkpoint(n, policy))
    return policy
