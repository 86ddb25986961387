"""The learned value on a chain of three steps that may end early: exact returns, zero-mean advantages, the gradient.

The policy is a table by prefix in float64. It is uniform, so 27 equally likely scripts are all there is.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import nn

from finetune.algorithms import critic as critics
from finetune.algorithms.critic import Critic, advantages
from finetune.algorithms.entailment import EntailmentRL, token_rewards
from finetune.collate import Batch
from finetune.on_policy import Network, Rollout, Round
from finetune.on_policy.rounds import per_token
from finetune.packing import Layout
from finetune.training import ALONE, Turn

END, STEPS, ALPHA = 2, 3, 0.4
PREFIXES = [p for count in range(STEPS) for p in itertools.product(range(END), repeat=count)]
PLACE = {prefix: place for place, prefix in enumerate(PREFIXES)}
LAYOUT = Layout(pad_id=0, image_id=None, max_tokens=8)
Tokens = tuple[int, ...]


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Table:
    """A network whose states are rows of a table by prefix."""

    soft_cap, device = None, torch.device("cpu")

    def __init__(self, table: torch.Tensor) -> None:
        self.model = nn.ParameterDict({"table": nn.Parameter(table)})

    @property
    def table(self) -> torch.Tensor:
        return self.model["table"]

    def states(self, batch: Batch) -> torch.Tensor:
        prefixes = [e.completion_ids[:n] for e in batch.examples for n in range(len(e.completion_ids))]
        return self.table[[PLACE[prefix] for prefix in prefixes]]

    def head(self) -> torch.Tensor:
        return torch.eye(END + 1, dtype=torch.float64)


POLICY = Table(torch.zeros(len(PREFIXES), END + 1, dtype=torch.float64))
REFERENCE = torch.randn(len(PREFIXES), END + 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
SCRIPTS = list(itertools.product(range(END + 1), repeat=STEPS))


def said(script: Tokens) -> Tokens:
    return script[: script.index(END) + 1] if END in script else script


def earned(y: Tokens) -> float:
    return -1.5 * y.count(0) + 0.7 * y.count(1) - 0.4 * len(y) ** 2


def rewards_of(y: Tokens) -> list[float]:
    theirs = torch.log_softmax(REFERENCE, 1)
    ratios = [-math.log(3) - float(theirs[PLACE[y[:n]], token]) for n, token in enumerate(y)]
    return token_rewards(earned(y) if y[-1] == END else -3.0, ratios, ALPHA)


class Played:
    """A round whose samples are given."""

    is_exact = True
    tools = SimpleNamespace(layout=LAYOUT, ranks=ALONE)

    def __init__(self, scripts: list[Tokens], number: int = 0) -> None:
        self.number = number
        ys = [said(script) for script in scripts]
        zeros = [(0.0,) * len(y) for y in ys]
        pairs = enumerate(zip(ys, zeros, strict=True))
        self.samples = [Rollout((1,), y, (), f"row {n}", n, y[-1] == END, z, z, "v0") for n, (y, z) in pairs]

    def sample(self, num_samples: int) -> list[Rollout]:
        return self.samples

    def learnable(self, rollouts: list[Rollout]) -> list[Rollout]:
        return rollouts

    def grade(self, rollouts: list[Rollout]) -> Any:
        return SimpleNamespace(total=[earned(r.completion_ids) for r in rollouts])

    def token_log_ratios(self, rollouts: list[Rollout]) -> list[Tokens]:
        theirs = torch.log_softmax(REFERENCE, 1)
        return [
            tuple(-math.log(3) - float(theirs[PLACE[r.completion_ids[:n]], t]) for n, t in enumerate(r.completion_ids))
            for r in rollouts
        ]  # type: ignore[misc]

    def per_token(self, rollouts: list[Rollout], compute: Any) -> Any:
        return per_token(compute, rollouts, LAYOUT, ALONE)


def new_critic(trace: float = 1.0, learning_rate: float = 0.05) -> Critic:
    one_hot = Table(torch.eye(len(PREFIXES), dtype=torch.float64))
    return Critic(cast(Network, one_hot), len(PREFIXES), learning_rate, trace)


def exact_values() -> torch.Tensor:
    """E of what is still earned from each prefix on, over all scripts that go through it."""
    found = []
    for prefix in PREFIXES:
        through = [said(script) for script in SCRIPTS if script[: len(prefix)] == prefix]
        found.append(sum(sum(rewards_of(y)[len(prefix) :]) for y in through) / len(through))
    return torch.tensor(found)


def algorithm(critic: Critic) -> EntailmentRL:
    return EntailmentRL(1, ALPHA, critic, truncated=-3.0)


def gradient(critic: Critic) -> torch.Tensor:
    """Of the loss, over all scripts at once, a sequence each."""
    examples = algorithm(critic).examples(cast(Round, Played(SCRIPTS)))
    [part] = LAYOUT.parts(examples)
    loss = algorithm(critic).loss(cast(Network, POLICY), part.drawn, Turn(1, float(len(SCRIPTS))), 1.0)
    return torch.autograd.grad(loss, POLICY.table)[0]


def enumerated() -> torch.Tensor:
    """-∇ of E[(1-α) r - α log-ratio], by autograd through the table; the log-ratio's own gradient has mean zero."""
    rows = torch.log_softmax(POLICY.table, 1)
    total = torch.zeros(())
    for y in {said(script) for script in SCRIPTS}:
        logprob = torch.stack([rows[PLACE[y[:n]], token] for n, token in enumerate(y)]).sum()
        total = total - logprob.exp() * sum(rewards_of(y))
    return torch.autograd.grad(total, POLICY.table)[0]


@pytest.mark.parametrize("trace", [0.0, 0.5, 1.0])
def test_it_learns_the_exact_expected_return(trace: float) -> None:
    """By what was earned alone, by its own words alone, and between."""
    critic = new_critic(trace)
    for step in range(400):
        played = Played(SCRIPTS, step)
        critic.advantages(cast(Round, played), played.samples, [rewards_of(r.completion_ids) for r in played.samples])
        assert critic.learn(step) is not None and critic.learn(step) is None
        if step == 300:
            critic.optimizer.param_groups[0]["lr"] = 0.005
    torch.testing.assert_close((critic.weight + critic.bias).detach(), exact_values(), atol=2e-3, rtol=0)


def knowing(trace: float) -> Critic:
    critic = new_critic(trace)
    critic.weight.data = exact_values()
    return critic


def wrong(trace: float) -> Critic:
    critic = new_critic(trace)
    critic.weight.data = torch.linspace(-4, 3, len(PREFIXES))
    return critic


def test_advantages_have_no_mean_in_any_state() -> None:
    played = Played(SCRIPTS)
    found = knowing(0.5).advantages(
        cast(Round, played), played.samples, [rewards_of(r.completion_ids) for r in played.samples]
    )
    for prefix in PREFIXES:
        at = [a[len(prefix)] for r, a in zip(played.samples, found, strict=True)
              if r.completion_ids[: len(prefix)] == prefix and len(r.completion_ids) > len(prefix)]  # fmt: skip
        assert sum(at) / len(at) == pytest.approx(0, abs=1e-12) and max(at) > 0.1


@pytest.mark.parametrize(("made", "trace"), [(knowing, 1.0), (knowing, 0.5), (knowing, 0.0), (wrong, 1.0)])
def test_the_gradient_is_the_enumerated_one(made: Callable[[float], Critic], trace: float) -> None:
    """With the exact value at any λ; with a wrong one where λ is 1, for then it is a baseline."""
    torch.testing.assert_close(gradient(made(trace)), enumerated(), atol=1e-12, rtol=0)


def squares(critic: Critic) -> float:
    """Of the advantages of all tokens of all scripts."""
    examples = algorithm(critic).examples(cast(Round, Played(SCRIPTS)))
    return sum(weight**2 for example in examples for weight in example.weights or ())


def test_the_exact_value_lowers_the_variance() -> None:
    assert squares(knowing(1.0)) < 0.9 * squares(new_critic(1.0)) < 0.5 * squares(wrong(1.0))


def test_it_begins_at_the_mean_of_what_is_still_earned() -> None:
    critic, played = new_critic(1.0), Played(SCRIPTS)
    rewards = [rewards_of(rollout.completion_ids) for rollout in played.samples]
    left = [sum(of_tokens[n:]) for of_tokens in rewards for n in range(len(of_tokens))]
    found = critic.advantages(cast(Round, played), played.samples, rewards)
    assert float(critic.bias.detach()) == pytest.approx(sum(left) / len(left))
    assert sum(map(sum, found)) == pytest.approx(0, abs=1e-9)
    critic.advantages(cast(Round, played), played.samples, [[7.0] * len(of_tokens) for of_tokens in rewards])
    assert float(critic.bias.detach()) == pytest.approx(sum(left) / len(left))  # once


def test_looking_behind_the_end_is_another_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: the value of what would be padding behind a completion is taken for what it still earns."""

    def over_padding(rewards: list[float], values: list[float], trace: float) -> list[float]:
        return [gain + 0.3 * len(rewards) for gain in advantages(rewards, values, trace)]

    monkeypatch.setattr(critics, "advantages", over_padding)
    assert (gradient(wrong(1.0)) - enumerated()).abs().max() > 0.02


def test_advantages_by_hand() -> None:
    """δ = (1 + 3 - 2, -1 + 0 - 3) = (2, -4); A = (2 - 4 λ, -4)."""
    assert advantages([1.0, -1.0], [2.0, 3.0], 0.5) == [0.0, -4.0]
    assert advantages([1.0, -1.0], [2.0, 3.0], 1.0) == [-2.0, -4.0]  # what was earned less the value


def test_values_do_not_depend_on_the_neighbours_of_a_row() -> None:
    """All at once, padded, and each alone."""
    critic, played = wrong(0.5), Played(SCRIPTS)
    together = critic.advantages(
        cast(Round, played), played.samples, [rewards_of(r.completion_ids) for r in played.samples]
    )
    for rollout, of_tokens in zip(played.samples, together, strict=True):
        alone = Played([rollout.completion_ids])
        assert critic.advantages(cast(Round, alone), alone.samples, [rewards_of(rollout.completion_ids)]) == [of_tokens]


def test_a_trace_outside_its_range_is_refused() -> None:
    with pytest.raises(ValueError, match=r"trace 1.5; expected 0 to 1"):
        new_critic(1.5)
