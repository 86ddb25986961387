"""A learned value: what a policy will still earn from each of its tokens on, and the advantages that follow from it.

    V(s_t) = w · h(s_t) + b        h: the last hidden state before token t
    δ_t = r_t + V(s_{t+1}) - V(s_t),  nothing behind the last token;  A_t = Σ_k λ^k δ_{t+k};  V(s_t) learns A_t + V(s_t)

The network is the start's: a copy of it, trained whole, as in the paper of entailment RL; or the reference as it is,
over whose states w and b alone are learned, and no second model is held.

Source: Sutton & Barto (2018), 13.5; Schulman et al., generalised advantage estimation, arXiv:1506.02438, eq. 16, γ = 1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import nn

from finetune.adapters import part_of
from finetune.collate import Batch
from finetune.on_policy import Frozen, Network, Rollout, Round, copy_of

CLIP_NORM = 1.0


@dataclass(frozen=True)
class _Lesson:
    """What the value learns of a step, once the step is sure to be made."""

    step: int
    batches: Sequence[Batch]
    """Their weights are what it is to say."""
    ranks: int
    """That all learn it."""


class Critic:
    """V, its optimizer's moments included; an algorithm's `kept`, so that a run resumes with it.

    It begins as the mean of what the tokens of the first step still earn: from 0 it would take some dozen steps to come
    there, in which every sample looks bad.

    Args:
        network: its last hidden states are looked at; a `Network` of its own is trained with the head.
        width: of these states.
        learning_rate: of AdamW.
        trace: λ, 0..1; 1 looks at what was earned alone, below it the value speaks for what comes later.
    """

    def __init__(self, network: Network | Frozen, width: int, learning_rate: float = 1e-4, trace: float = 0.95) -> None:
        if not 0 <= trace <= 1:
            raise ValueError(f"critic: trace {trace}; expected 0 to 1")
        self.network, self.trace = network, trace
        self.weight, self.bias = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(()))
        self.trained = {"weight": self.weight, "bias": self.bias}
        if isinstance(network, Network):
            self.trained |= {n: p for n, p in network.model.named_parameters() if p.requires_grad}
        self.optimizer = torch.optim.AdamW(self.trained.values(), lr=learning_rate, weight_decay=0.0)
        self.lesson: _Lesson | None = None

    def values(self, batch: Batch) -> torch.Tensor:
        """(K,) float, V before each learned token."""
        states = self.network.states(batch)
        weight, bias = (p.to(states.device) for p in (self.weight, self.bias))
        return states.to(weight.dtype) @ weight + bias

    def advantages(
        self, round: Round, rollouts: Sequence[Rollout], rewards: Sequence[Sequence[float]]
    ) -> list[list[float]]:
        """A of each token; what V is to learn from them is kept until `learn`.

        Args:
            round: of the step.
            rollouts: of the policy, none empty.
            rewards: of each token.
        """
        if not self.weight.any() and not self.bias:
            self.bias.data.fill_(_mean_return(rewards))
        said = round.per_token(rollouts, self._said)
        found = [advantages(earned, values, self.trace) for earned, values in zip(rewards, said, strict=True)]
        targets = [
            [a + v for a, v in zip(gains, values, strict=True)] for gains, values in zip(found, said, strict=True)
        ]
        examples = [rollout.example(target) for rollout, target in zip(rollouts, targets, strict=True)]
        parts = round.tools.layout.parts(examples)
        self.lesson = _Lesson(round.number, [part.drawn for part in parts], round.tools.ranks.world)
        return found

    def learn(self, step: int) -> float | None:
        """Learn what the step has shown, once; every rank learns all of it, and so the same.

        Not as soon as it is known: a step whose draw fails later is drawn again, and must find the value as it was.

        Returns:
            the mean squared error of the values before it, this rank's share; None where the step has been learned.
        """
        if self.lesson is None or self.lesson.step != step:
            return None
        lesson, self.lesson = self.lesson, None
        tokens = sum(len(batch.targets) for batch in lesson.batches)
        self.optimizer.zero_grad(set_to_none=True)
        error = 0.0
        with torch.enable_grad():
            for batch in lesson.batches:
                said = self.values(batch)
                assert batch.weights is not None
                loss = (said - batch.weights.to(said)).square().sum() / tokens
                torch.autograd.backward(loss)
                error += float(loss.detach())
        nn.utils.clip_grad_norm_(self.trained.values(), CLIP_NORM)
        self.optimizer.step()
        return error / lesson.ranks

    def tensors(self) -> dict[str, torch.Tensor]:
        """See `finetune.training.Kept`."""
        found = {f"critic.{name}": parameter.detach() for name, parameter in self.trained.items()}
        for name, parameter in self.trained.items():
            found |= {f"critic_{key}.{name}": value for key, value in self.optimizer.state[parameter].items()}
        return found

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """See `finetune.training.Kept`."""
        for name, parameter in self.trained.items():
            parameter.data.copy_(tensors[f"critic.{name}"])
            moments = {key.partition(".")[0]: value for key, value in tensors.items() if key.partition(".")[2] == name}
            state = {key.removeprefix("critic_"): value for key, value in moments.items() if key != "critic"}
            if state:
                self.optimizer.state[parameter] = {
                    key: value if key == "step" else value.to(parameter.device) for key, value in state.items()
                }

    def _said(self, batch: Batch) -> torch.Tensor:
        with torch.no_grad():
            return self.values(batch).cpu()


def critic_of(policy: Network, reference: Frozen | None, learning_rate: float = 1e-4, trace: float = 0.95) -> Critic:
    """A critic of a policy as it is at the start.

    Args:
        policy: its states have the width.
        reference: under whose states the head alone is learned; None: a copy of the policy, its decoder layers trained
            whole in float32.
        learning_rate: of AdamW.
        trace: λ.

    Raises:
        ValueError: the policy's weights are quantised, and a copy of them cannot be trained.
    """
    width = policy.head().shape[1]
    if reference is not None:
        return Critic(reference, width, learning_rate, trace)
    own = copy_of(policy, "critic").network
    own.model.eval()
    for name, parameter in own.model.named_parameters():
        if part_of(name) == "language" and ".lora_" not in name:
            if not parameter.is_floating_point():
                raise ValueError("critic: a copy of quantised weights cannot be trained; choose critic: head")
            parameter.data = parameter.data.float()
            parameter.requires_grad_(True)
    return Critic(own, width, learning_rate, trace)


def advantages(rewards: Sequence[float], values: Sequence[float], trace: float) -> list[float]:
    """A of each token of a completion; behind its last one nothing more is earned, whether it ended or was cut."""
    found: list[float] = []
    later = after = 0.0
    for reward, value in zip(reversed(rewards), reversed(values), strict=True):
        later = reward + after - value + trace * later
        after = value
        found.append(later)
    return found[::-1]


def _mean_return(rewards: Sequence[Sequence[float]]) -> float:
    """Of what is still earned from a token on, over all tokens."""
    return fmean(gain for of_tokens in rewards for gain in advantages(of_tokens, [0.0] * len(of_tokens), 1.0))
