"""The loss over completion tokens: equal to dense cross-entropy with its gradients, in tiles; and what it refuses."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from finetune.losses import tiles
from finetune.losses.completion import IGNORED, completion_loss, next_tokens

TOKENS, HIDDEN, VOCABULARY, LEARNED = 13, 8, 40, 10
Case = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def case(dtype: torch.dtype = torch.float64) -> Case:
    """States, head and targets, three of them ignored."""
    torch.manual_seed(0)
    states = torch.randn(TOKENS, HIDDEN, dtype=dtype, requires_grad=True)
    head = torch.randn(VOCABULARY, HIDDEN, dtype=dtype, requires_grad=True)
    targets = torch.randint(0, VOCABULARY, (TOKENS,))
    targets[[0, 5, 6]] = IGNORED
    return states, head, targets


def dense(
    states: torch.Tensor,
    head: torch.Tensor,
    targets: torch.Tensor,
    weights: torch.Tensor | None = None,
    temperature: float = 1.0,
    soft_cap: float | None = None,
) -> torch.Tensor:
    logits = states @ head.T
    if soft_cap is not None:
        logits = soft_cap * torch.tanh(logits / soft_cap)
    losses = F.cross_entropy(logits / temperature, targets, reduction="none", ignore_index=IGNORED)
    return (losses if weights is None else losses * weights).sum() / LEARNED


@pytest.mark.parametrize("tile_tokens", [1, 4, 5, 10, 4096, None])
def test_equals_dense_at_every_tile_boundary(tile_tokens: int | None) -> None:
    states, head, targets = case()
    ours = completion_loss(states, head, targets, denominator=LEARNED, tile_tokens=tile_tokens)
    torch.testing.assert_close(ours, dense(states, head, targets), rtol=1e-12, atol=0)
    assert_equal_gradients(ours, dense(states, head, targets), states, head)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("soft_cap", [None, 3.0])
def test_weights_temperature_and_soft_cap(weighted: bool, temperature: float, soft_cap: float | None) -> None:
    states, head, targets = case()
    weights = torch.linspace(-1, 2, TOKENS, dtype=torch.float64) if weighted else None
    options: dict[str, Any] = {"weights": weights, "temperature": temperature, "soft_cap": soft_cap}
    ours = completion_loss(states, head, targets, denominator=LEARNED, tile_tokens=3, **options)
    theirs = dense(states, head, targets, **options)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)
    assert_equal_gradients(ours, theirs, states, head)
    if weighted or temperature != 1 or soft_cap:
        assert (ours - dense(states, head, targets)).abs() > 1e-3  # control: they are not left out


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_torchs_own_chunked_loss_is_the_same(dtype: torch.dtype) -> None:
    states, head, targets = case(dtype)
    options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=4)
    ours = completion_loss(states, head, targets, denominator=LEARNED, tile_tokens=4)
    theirs = F.linear_cross_entropy(states, head, targets, ignore_index=IGNORED, options=options)
    torch.testing.assert_close(ours, theirs)
    for mine, other in zip(grads(ours, states, head), grads(theirs, states, head), strict=True):
        torch.testing.assert_close(mine, other)


def test_a_tied_head_gets_the_gradient_of_both_its_uses() -> None:
    _, head, targets = case()
    tokens = torch.randint(0, VOCABULARY, (TOKENS,))
    ours = completion_loss(F.embedding(tokens, head).tanh(), head, targets, denominator=LEARNED, tile_tokens=4)
    theirs = dense(F.embedding(tokens, head).tanh(), head, targets)
    [mine], [other] = grads(ours, head), grads(theirs, head)
    torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-14)
    [head_alone] = grads(dense(F.embedding(tokens, head.detach()).tanh(), head, targets), head)
    assert (mine - head_alone).abs().max() > 1e-3  # control


def test_a_frozen_head_or_backbone_gets_no_gradient_and_the_other_the_same() -> None:
    states, head, targets = case()
    of_states, of_head = grads(dense(states, head, targets), states, head)
    frozen_head = completion_loss(states, head.detach(), targets, denominator=LEARNED, tile_tokens=4)
    torch.testing.assert_close(grads(frozen_head, states)[0], of_states)
    frozen_states = completion_loss(states.detach(), head, targets, denominator=LEARNED, tile_tokens=4)
    torch.testing.assert_close(grads(frozen_states, head)[0], of_head)
    with torch.no_grad():
        alone = completion_loss(states, head, targets, denominator=LEARNED)
    assert not alone.requires_grad
    torch.testing.assert_close(alone, dense(states, head, targets).detach())


def test_micro_batches_over_one_denominator_sum_to_the_large_batch() -> None:
    """A micro-batch without any target adds nothing and stands in the graph, as every rank's backward needs."""
    states, head, targets = case()
    [whole] = grads(completion_loss(states, head, targets, denominator=LEARNED), head)
    parts = [slice(0, 1), slice(1, 3), slice(3, 13)]
    losses = [completion_loss(states[rows], head, targets[rows], denominator=LEARNED) for rows in parts]
    assert losses[0].item() == 0.0 and losses[0].requires_grad
    summed = sum(grads(loss, head)[0] for loss in losses)
    torch.testing.assert_close(summed, whole)
    means = [completion_loss(states[rows], head, targets[rows], denominator=rows.stop - rows.start) for rows in parts]
    assert (sum(grads(loss, head)[0] for loss in means) / 3 - whole).abs().max() > 1e-3  # control: means of means


@pytest.mark.parametrize("scale", [0.25, 65536.0])
def test_the_incoming_gradient_scales(scale: float) -> None:
    states, head, targets = case()
    ours = completion_loss(states, head, targets, denominator=LEARNED) * scale
    assert_equal_gradients(ours, dense(states, head, targets) * scale, states, head)


def test_a_confident_token_far_from_its_target_has_a_finite_loss() -> None:
    """Softmax gives the target 0 in float32; the loss is the distance of the logits, 300."""
    head = torch.tensor([[300.0], [0.0]])
    states = torch.ones(1, 1, requires_grad=True)
    loss = completion_loss(states, head, torch.tensor([1]), denominator=1)
    assert loss.item() == 300.0
    assert grads(loss, states)[0].item() == 300.0


def test_bfloat16_states_and_a_float32_head_as_autocast_gives_them() -> None:
    """Products in bfloat16, everything after them in float32, the head's gradient in its own dtype."""
    states, head, targets = case(torch.float32)
    low = states.detach().bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = completion_loss(low, head, targets, denominator=LEARNED, tile_tokens=4)
    assert ours.dtype == torch.float32
    mine = grads(ours, low, head)
    assert [gradient.dtype for gradient in mine] == [torch.bfloat16, torch.float32]
    theirs = grads(dense(states, head, targets), states, head)
    for gradient, other in zip(mine, theirs, strict=True):
        assert F.cosine_similarity(gradient.float().flatten(), other.flatten(), 0) > 0.9995


def test_float32_within_a_millionth_of_float64() -> None:
    torch.manual_seed(0)
    exact = torch.randn(200, 64, dtype=torch.float64), torch.randn(5000, 64, dtype=torch.float64) * 0.3
    targets = torch.randint(0, 5000, (200,))
    found = []
    for dtype in (torch.float64, torch.float32):
        states, head = (t.to(dtype).requires_grad_() for t in exact)
        loss = completion_loss(states, head, targets, denominator=200)
        found.append([loss.detach(), *grads(loss, states, head)])
    for low, high in zip(found[1], found[0], strict=True):
        assert (low - high).norm() <= 1e-6 * high.norm()


def test_logits_exist_for_one_tile_at_a_time_and_learned_rows_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    project = tiles._project

    def watched(states: torch.Tensor, weight: torch.Tensor, logits: torch.Tensor) -> None:
        rows.append(len(states))
        assert logits.shape == (len(states), VOCABULARY)
        project(states, weight, logits)

    monkeypatch.setattr(tiles, "_project", watched)
    states, head, targets = case()
    completion_loss(states, head, targets, denominator=LEARNED, tile_tokens=4)
    assert rows == [4, 4, 2]
    rows.clear()
    monkeypatch.setitem(tiles.TILE_BYTES, "cpu", 3 * VOCABULARY * 8)
    completion_loss(states, head, targets, denominator=LEARNED)
    assert rows == [3, 3, 3, 1]


def test_next_tokens_are_predicted_from_the_token_before() -> None:
    hidden, labels = torch.arange(24.0).reshape(2, 4, 3), torch.full((2, 4), IGNORED)
    labels[0, 0], labels[0, 3], labels[1, 1] = 9, 7, 5
    states, targets = next_tokens(hidden, labels)
    assert targets.tolist() == [7, 5]  # the first token of a row is predicted by none
    assert torch.equal(states, torch.stack([hidden[0, 2], hidden[1, 0]]))


def two_backwards(loss: torch.Tensor, states: torch.Tensor) -> None:
    loss.backward(retain_graph=True)
    loss.backward()


def second_derivative(loss: torch.Tensor, states: torch.Tensor) -> None:
    torch.autograd.grad(loss, states, create_graph=True)


@pytest.mark.parametrize(
    ("differentiate", "message"),
    [(two_backwards, "keeps its gradient for one backward"), (second_derivative, "leave out create_graph=True")],
)
def test_only_one_backward(differentiate: Callable[..., None], message: str) -> None:
    states, head, targets = case()
    with pytest.raises(RuntimeError, match=message):
        differentiate(completion_loss(states, head, targets, denominator=LEARNED), states)


def test_function_transforms_are_refused() -> None:
    states, head, targets = case()
    with pytest.raises(RuntimeError, match="setup_context"):
        torch.func.grad(lambda s: completion_loss(s, head.detach(), targets, denominator=1))(states.detach())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"denominator": 0}, "denominator is 0: no token carries a label"),
        ({"denominator": float("nan")}, "denominator is nan"),
        ({"targets": torch.zeros(4, dtype=torch.int64)}, r"states \(13, 8\) with targets \(4,\)"),
        ({"targets": torch.full((TOKENS,), VOCABULARY)}, "targets from 40 to 40; the head has 40 tokens"),
        ({"targets": torch.full((TOKENS,), -1)}, "targets from -1 to -1"),
        ({"head": torch.zeros(VOCABULARY, 7)}, r"head \(40, 7\)"),
        ({"weights": torch.ones(TOKENS, requires_grad=True)}, "detach them"),
        ({"weights": torch.ones(1)}, "expected one a row"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"soft_cap": -1.0}, "soft_cap is -1.0"),
    ],
)
def test_what_is_refused(changes: dict[str, Any], message: str) -> None:
    states, head, targets = case()
    arguments = {"states": states, "head": head, "targets": targets, "denominator": LEARNED, **changes}
    with pytest.raises(ValueError, match=message):
        completion_loss(**arguments)


def assert_equal_gradients(ours: torch.Tensor, theirs: torch.Tensor, *inputs: torch.Tensor) -> None:
    for mine, other in zip(grads(ours, *inputs), grads(theirs, *inputs), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-11, atol=1e-13)


def grads(loss: torch.Tensor, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return torch.autograd.grad(loss, inputs)
