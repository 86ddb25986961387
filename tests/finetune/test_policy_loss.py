"""The policy gradient: log-probabilities, ratios and their clips beside autograd, and what it refuses."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from finetune.losses import policy, tiles
from finetune.losses.policy import CISPO, PolicyLoss, PPOClip, policy_loss, token_logprobs

TOKENS, HIDDEN, VOCABULARY = 12, 8, 40
LENGTHS = torch.tensor([1, 2, 4, 5])
SEQUENCES = torch.repeat_interleave(torch.arange(4), LENGTHS)
Clip = PPOClip | CISPO | None


class Case:
    """A policy, tokens, signed weights, and log-probabilities of a policy somewhat apart, in float64."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        torch.manual_seed(0)
        self.states = torch.randn(TOKENS, HIDDEN).to(dtype).requires_grad_()
        self.head = torch.randn(VOCABULARY, HIDDEN).to(dtype).requires_grad_()
        self.targets = torch.randint(0, VOCABULARY, (TOKENS,))
        self.weights = torch.linspace(-1, 1.5, TOKENS, dtype=dtype)
        apart = torch.linspace(-0.6, 0.5, TOKENS, dtype=dtype).view(4, 3).T.flatten()  # above and below, good and bad
        self.sampled_logprobs = self.logprobs().detach() + apart

    def logprobs(self, temperature: float = 1.0, soft_cap: float | None = None) -> torch.Tensor:
        """By autograd."""
        logits = self.states @ self.head.T
        logits = logits if soft_cap is None else soft_cap * torch.tanh(logits / soft_cap)
        return torch.log_softmax(logits / temperature, 1).gather(1, self.targets[:, None]).squeeze(1)

    def ours(self, **options: Any) -> PolicyLoss:
        given = {"weights": self.weights, "denominator": TOKENS, "tile_tokens": 5, **options}
        return policy_loss(self.states, self.head, self.targets, **given)


@pytest.mark.parametrize("tile_tokens", [1, 5, 12, None])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("soft_cap", [None, 3.0])
def test_reinforce_is_weighted_log_likelihood(
    tile_tokens: int | None, temperature: float, soft_cap: float | None
) -> None:
    case = Case()
    said = case.ours(temperature=temperature, soft_cap=soft_cap, tile_tokens=tile_tokens)
    logprobs = case.logprobs(temperature, soft_cap)
    assert_equal(said.loss, -(case.weights * logprobs).sum() / TOKENS, case)
    torch.testing.assert_close(said.logprobs, logprobs.detach(), rtol=1e-12, atol=1e-13)
    if temperature != 1 or soft_cap:
        assert (said.logprobs - case.logprobs().detach()).abs().max() > 1e-3  # control: they are not left out


def test_entropies_are_those_of_the_tempered_distribution() -> None:
    case = Case()
    expected = torch.distributions.Categorical(logits=case.states @ case.head.T / 0.7).entropy()
    torch.testing.assert_close(case.ours(temperature=0.7).entropies, expected.detach(), rtol=1e-11, atol=1e-13)


def ppo(ratios: torch.Tensor, weights: torch.Tensor, clip: PPOClip) -> torch.Tensor:
    gained = torch.min(ratios * weights, ratios.clamp(1 - clip.low, 1 + clip.high) * weights)
    if clip.dual is not None:
        gained = torch.where(weights < 0, torch.max(gained, clip.dual * weights), gained)
    return -gained


@pytest.mark.parametrize("clip", [None, PPOClip(), PPOClip(0.1, 0.3), PPOClip(0.2, 0.2, dual=1.3)])
def test_ratios_and_their_clip(clip: PPOClip | None) -> None:
    case = Case()
    said = case.ours(sampled_logprobs=case.sampled_logprobs, clip=clip)
    ratios = (case.logprobs() - case.sampled_logprobs).exp()
    losses = -ratios * case.weights if clip is None else ppo(ratios, case.weights, clip)
    assert_equal(said.loss, losses.sum() / TOKENS, case)
    torch.testing.assert_close(said.ratios, ratios.detach(), rtol=1e-11, atol=0)
    assert said.is_clipped.tolist() == (losses.detach() != -(ratios * case.weights).detach()).tolist()
    assert bool(said.is_clipped.any()) == (clip is not None)
    if clip is not None:  # control: clipped whatever the weight's sign
        always = -ratios.clamp(1 - clip.low, 1 + clip.high) * case.weights
        assert (always.sum() / TOKENS - said.loss).abs() > 1e-3


def test_the_dual_clip_bounds_a_bad_tokens_loss() -> None:
    case = Case()
    far = case.logprobs().detach() - 3  # every ratio is e³
    weights = -torch.ones(TOKENS, dtype=torch.float64)
    single = case.ours(weights=weights, sampled_logprobs=far, clip=PPOClip())
    dual = case.ours(weights=weights, sampled_logprobs=far, clip=PPOClip(dual=4.0))
    assert single.loss.item() == pytest.approx(20.0855, abs=1e-4) and dual.loss.item() == pytest.approx(4)
    assert torch.autograd.grad(dual.loss, case.head)[0].abs().max() == 0


def test_cispo_keeps_every_tokens_gradient_under_a_bounded_ratio() -> None:
    case = Case()
    said = case.ours(sampled_logprobs=case.sampled_logprobs, clip=CISPO(0.28))
    ratios = (case.logprobs() - case.sampled_logprobs).exp()
    bounded = ratios.clamp(max=1.28).detach()
    assert_equal(said.loss, -(bounded * case.weights * case.logprobs()).sum() / TOKENS, case)
    assert said.is_clipped.tolist() == (ratios > 1.28).tolist() and said.is_clipped.any()
    through = -(ratios.clamp(max=1.28) * case.weights).sum()  # control: the gradient through the clip
    [other] = torch.autograd.grad(through / TOKENS, case.head)
    assert (torch.autograd.grad(case.ours(sampled_logprobs=case.sampled_logprobs, clip=CISPO(0.28)).loss, case.head)[0]
            - other).abs().max() > 1e-3  # fmt: skip


@pytest.mark.parametrize("clip", [None, PPOClip(0.05, 0.05)])
def test_a_sequences_ratio_is_the_geometric_mean_of_its_tokens(clip: Clip) -> None:
    """GSPO: every sequence counts once, whatever its length; its tokens weigh 1 / that."""
    case = Case()
    advantages = torch.tensor([1.0, -1.0, 0.5, 2.0], dtype=torch.float64)
    weights = (advantages / LENGTHS)[SEQUENCES]
    said = case.ours(
        weights=weights, denominator=4, sampled_logprobs=case.sampled_logprobs, sequences=SEQUENCES, clip=clip
    )
    apart = case.logprobs() - case.sampled_logprobs
    means = torch.stack([apart[n == SEQUENCES].mean() for n in range(4)]).exp()
    losses = -means * advantages if clip is None else ppo(means, advantages, PPOClip(0.05, 0.05))
    assert_equal(said.loss, losses.sum() / 4, case)
    torch.testing.assert_close(said.ratios, means[SEQUENCES].detach(), rtol=1e-11, atol=0)
    by_token = case.ours(weights=weights, denominator=4, sampled_logprobs=case.sampled_logprobs, clip=clip)
    assert (by_token.loss - said.loss).abs() > 1e-3  # control


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("clip", [None, PPOClip(), CISPO()])
def test_the_ratio_to_the_policy_itself_is_exactly_one(dtype: torch.dtype, temperature: float, clip: Clip) -> None:
    """On-policy, at the sampling temperature; then the gradient is REINFORCE's, and no token is clipped."""
    case = Case(dtype)
    own = token_logprobs(case.states, case.head, case.targets, temperature=temperature, tile_tokens=5)
    assert not own.requires_grad
    said = case.ours(sampled_logprobs=own, temperature=temperature, clip=clip)
    assert bool((said.ratios == 1).all()) and not said.is_clipped.any()
    plain = case.ours(temperature=temperature)
    assert bool((plain.ratios == 1).all())
    for one, other in zip(*(torch.autograd.grad(x.loss, (case.states, case.head)) for x in (said, plain)), strict=True):
        assert torch.equal(one, other)
    cold = token_logprobs(case.states, case.head, case.targets, temperature=1.5, tile_tokens=5)
    assert (case.ours(sampled_logprobs=cold, temperature=temperature).ratios != 1).all()  # control


def test_log_probabilities_are_those_of_transformers_logits() -> None:
    case = Case()
    torch.testing.assert_close(
        token_logprobs(case.states, case.head, case.targets, tile_tokens=7), case.logprobs().detach()
    )
    certain = token_logprobs(torch.ones(2, 1), torch.tensor([[300.0], [0.0]]), torch.tensor([0, 1]))
    assert certain.tolist() == [0.0, -300.0]


def test_the_enumerated_gradient_of_an_expected_reward() -> None:
    """Two tokens of three: Σ p(y) r(y) over all nine, and the weighted sum of scores with the probabilities held."""
    torch.manual_seed(3)
    first, second = torch.randn(1, 3, dtype=torch.float64), torch.randn(3, 3, dtype=torch.float64)
    reward = torch.randn(3, 3, dtype=torch.float64)
    logits = torch.cat([first, second]).requires_grad_()
    p = logits[0].softmax(0)[:, None] * logits[1:].softmax(1)
    [expected] = torch.autograd.grad((p * reward).sum(), logits)
    p = p.detach()
    rows, targets, weights = [], [], []
    for a in range(3):
        for b in range(3):
            rows += [0, 1 + a]
            targets += [a, b]
            weights += [float(p[a, b] * reward[a, b])] * 2
    chosen = torch.eye(4, dtype=torch.float64)[rows] @ logits
    said = policy_loss(
        chosen, torch.eye(3, dtype=torch.float64), torch.tensor(targets), denominator=1,
        weights=torch.tensor(weights, dtype=torch.float64),
    )  # fmt: skip
    [found] = torch.autograd.grad(-said.loss, logits)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_micro_batches_make_the_gradient_of_the_whole() -> None:
    case = Case()
    [whole] = torch.autograd.grad(case.ours(sampled_logprobs=case.sampled_logprobs, clip=PPOClip()).loss, case.head)
    for parts, denominators in (((0, 3, 12), (TOKENS, TOKENS)), ((0, 3, 12), (3, 9))):
        total = torch.zeros_like(case.head)
        for start, stop, denominator in zip(parts, parts[1:], denominators, strict=False):
            rows = slice(start, stop)
            said = policy_loss(
                case.states[rows], case.head, case.targets[rows], weights=case.weights[rows],
                denominator=denominator, sampled_logprobs=case.sampled_logprobs[rows], clip=PPOClip(),
            )  # fmt: skip
            total += torch.autograd.grad(said.loss, case.head)[0]
        is_same = bool((total - whole).abs().max() < 1e-13)
        assert is_same == (denominators[0] == TOKENS)  # control: each part over its own tokens


def test_tied_and_frozen_heads() -> None:
    case = Case()
    tokens, gradients = torch.randint(0, VOCABULARY, (TOKENS,)), []
    for loss_of in (lambda: case.ours().loss, lambda: -(case.weights * case.logprobs()).sum() / TOKENS):
        case.states = torch.nn.functional.embedding(tokens, case.head).tanh()
        gradients += torch.autograd.grad(loss_of(), case.head)
    torch.testing.assert_close(*gradients)
    case = Case()
    [of_states] = torch.autograd.grad(case.ours().loss, case.states)
    case.head = case.head.detach()
    torch.testing.assert_close(torch.autograd.grad(case.ours().loss, case.states)[0], of_states)


def test_float32_is_near_float64() -> None:
    found = []
    for dtype in (torch.float64, torch.float32):
        case = Case(dtype)
        said = case.ours(temperature=0.8)
        found.append([said.loss.detach(), said.logprobs, *torch.autograd.grad(said.loss, (case.states, case.head))])
    for exact, low in zip(*found, strict=True):
        assert (low - exact).norm() <= 1e-6 * exact.norm()


def test_logits_exist_for_one_tile_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    project = tiles._project

    def watched(states: torch.Tensor, weight: torch.Tensor, logits: torch.Tensor) -> None:
        rows.append(len(logits))
        project(states, weight, logits)

    monkeypatch.setattr(tiles, "_project", watched)
    case = Case()
    case.ours()
    assert rows == [5, 5, 2]
    rows.clear()
    case.ours(sampled_logprobs=case.sampled_logprobs, sequences=SEQUENCES)
    assert rows == [5, 5, 2] * 2  # a sequence's ratio must be known before its first token's gradient


def test_no_tokens_make_a_loss_of_zero_in_the_graph() -> None:
    case = Case()
    said = policy_loss(case.states[:0], case.head, case.targets[:0], weights=case.weights[:0], denominator=3)
    assert said.loss.item() == 0 and torch.autograd.grad(said.loss, case.head)[0].abs().max() == 0
    assert len(said.logprobs) == 0 and len(token_logprobs(case.states[:0], case.head, case.targets[:0])) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"denominator": 0}, "denominator is 0: no token is learned"),
        ({"targets": torch.zeros(4, dtype=torch.int64)}, r"states \(12, 8\) with targets \(4,\)"),
        ({"targets": torch.full((TOKENS,), VOCABULARY)}, "targets from 40 to 40; the head has 40 tokens"),
        ({"targets": torch.full((TOKENS,), -100)}, "targets from -100 to -100"),
        ({"weights": torch.ones(1)}, r"weights \(1,\) for 12 tokens"),
        ({"weights": torch.ones(TOKENS, requires_grad=True)}, "weights want a gradient"),
        ({"sampled_logprobs": torch.ones(TOKENS, requires_grad=True)}, "sampled_logprobs want a gradient"),
        ({"sampled_logprobs": torch.ones(3)}, r"sampled_logprobs \(3,\)"),
        ({"clip": PPOClip()}, "without sampled_logprobs"),
        ({"sequences": SEQUENCES}, "without sampled_logprobs"),
        ({"temperature": 0.0}, "temperature is 0.0"),
    ],
)
def test_what_is_refused(changes: dict[str, Any], message: str) -> None:
    case = Case()
    given = {"targets": case.targets, "weights": case.weights, "denominator": TOKENS, **changes}
    with pytest.raises(ValueError, match=message):
        policy_loss(case.states, case.head, **given)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PPOClip(low=1.5), "clip from 1 - 1.5"),
        (lambda: PPOClip(dual=1.1), "dual is 1.1; expected above 1"),
        (lambda: CISPO(0.0), "expected high above 0"),
    ],
)
def test_clips_that_make_no_sense(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_gradient_through_a_clipped_token_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control of the comparisons above."""
    true = policy._surrogate

    def planted(ratios: torch.Tensor, logprobs: torch.Tensor, shares: torch.Tensor, clip: Clip) -> Any:
        return true(ratios, logprobs, shares, clip)._replace(coefficients=-ratios * shares)

    monkeypatch.setattr(policy, "_surrogate", planted)
    with pytest.raises(AssertionError, match="not close"):
        test_ratios_and_their_clip(PPOClip())


def assert_equal(ours: torch.Tensor, theirs: torch.Tensor, case: Case) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-14)
    mine, other = (torch.autograd.grad(loss, (case.states, case.head)) for loss in (ours, theirs))
    for one, two in zip(mine, other, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-13)
