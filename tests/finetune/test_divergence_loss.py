"""The divergence from a teacher: known values, limits, gradients beside a dense oracle, padding, and what it refuses.

Rows G1, G2, G6, G7 and a part of G10 of what is asked of GKD (arXiv:2306.13649), each with its planted fault.
"""

from typing import Any

import pytest
import torch

from finetune.losses import divergence, tiles
from finetune.losses.divergence import divergence_loss, shared_vocabulary

TOKENS, HIDDEN, WIDTH, VOCABULARY = 13, 8, 5, 40
BETAS = (0.0, 0.1, 0.5, 0.9, 1.0)


class Case:
    """Student and teacher of different widths in float64."""

    def __init__(self, vocabulary: int = VOCABULARY, dtype: torch.dtype = torch.float64, scale: float = 1.0) -> None:
        torch.manual_seed(0)
        self.states = torch.randn(TOKENS, HIDDEN).to(dtype).requires_grad_()
        self.head = (torch.randn(vocabulary, HIDDEN) * scale).to(dtype).requires_grad_()
        self.teacher_states = torch.randn(TOKENS, WIDTH).to(dtype)
        self.teacher_head = (torch.randn(vocabulary, WIDTH) * scale).to(dtype)

    @property
    def models(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        return self.states, self.head, self.teacher_states, self.teacher_head

    @property
    def student(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.states, self.head


def dense(
    case: Case,
    beta: float,
    denominator: float = TOKENS,
    weights: torch.Tensor | None = None,
    temperature: float = 1.0,
    teacher_temperature: float | None = None,
    soft_cap: float | None = None,
    teacher_soft_cap: float | None = None,
) -> torch.Tensor:
    """As the equations say it, by autograd."""

    def log_distribution(states: torch.Tensor, head: torch.Tensor, cap: float | None, t: float) -> torch.Tensor:
        logits = states @ head.T
        return torch.log_softmax((logits if cap is None else cap * torch.tanh(logits / cap)) / t, 1)

    q = log_distribution(case.states, case.head, soft_cap, temperature)
    p = log_distribution(case.teacher_states, case.teacher_head, teacher_soft_cap, teacher_temperature or temperature)
    losses = dense_divergences(p, q, beta)
    return (losses if weights is None else losses * weights).sum() / denominator


def dense_divergences(p: torch.Tensor, q: torch.Tensor, beta: float) -> torch.Tensor:
    """Of log-probabilities of teacher and student."""
    if beta == 0:
        return kl(p, q)
    if beta == 1:
        return kl(q, p)
    m = (beta * p.exp() + (1 - beta) * q.exp()).log()
    return beta * kl(p, m) + (1 - beta) * kl(q, m)


def kl(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    return (p.exp() * (p - q)).sum(1)


def of_two(teacher: tuple[float, float], student: tuple[float, float], beta: float) -> float:
    """The divergence of two distributions over two tokens."""
    logits = [torch.tensor([side], dtype=torch.float64).log() for side in (student, teacher)]
    one = torch.eye(2, dtype=torch.float64)
    return divergence_loss(logits[0], one, logits[1], one, beta=beta, denominator=1).item()


P, Q = (0.9, 0.1), (0.6, 0.4)


@pytest.mark.parametrize(
    ("beta", "expected"),
    [(0.0, 0.226289), (1.0, 0.311239), (0.1, 0.020737), (0.5, 0.063288), (0.9, 0.026511)],
)
def test_known_values(beta: float, expected: float) -> None:
    assert of_two(P, Q, beta) == pytest.approx(expected, abs=5e-7)
    if beta != 0.5:  # control: student and teacher swapped, which one half cannot tell
        assert abs(of_two(Q, P, beta) - expected) > 1e-3


def test_the_ends_are_the_limits_of_what_is_between() -> None:
    forward, reverse = of_two(P, Q, 0.0), of_two(P, Q, 1.0)
    assert of_two(P, Q, 1e-5) / 1e-5 == pytest.approx(0.226287, abs=5e-7)
    assert of_two(P, Q, 1 - 1e-5) / 1e-5 == pytest.approx(0.311234, abs=5e-7)
    assert of_two(P, Q, 1e-5) / 1e-5 == pytest.approx(forward, rel=1e-4)
    assert of_two(P, Q, 1 - 1e-5) / 1e-5 == pytest.approx(reverse, rel=1e-4)
    assert of_two(P, Q, 1e-5) < 1e-4 * forward  # not itself: the loss jumps by 1/β


@pytest.mark.parametrize("beta", BETAS)
def test_equal_models_do_not_diverge(beta: float) -> None:
    assert of_two(P, P, beta) == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("tile_tokens", [1, 4, 13, None])
def test_equals_dense_with_its_gradients(beta: float, tile_tokens: int | None) -> None:
    case = Case()
    ours = divergence_loss(*case.models, beta=beta, denominator=TOKENS, tile_tokens=tile_tokens)
    theirs = dense(case, beta)
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=0)
    assert_equal_gradients(ours, theirs, case)


@pytest.mark.parametrize("beta", BETAS)
def test_gradients_in_the_logits_are_the_published_ones(beta: float) -> None:
    """Over 1,000 tokens: forward q - p; reverse q (log q/p - KL); between (1 - β) q (log q/m - KL(Q‖M)); sums are 0."""
    torch.manual_seed(1)
    student = torch.randn(3, 1000, dtype=torch.float64).mul_(2).requires_grad_()
    teacher = torch.randn(3, 1000, dtype=torch.float64) * 2
    identity = torch.eye(1000, dtype=torch.float64)

    def loss(logits: torch.Tensor) -> torch.Tensor:
        return divergence_loss(logits, identity, teacher, identity, beta=beta, denominator=1)

    [gradient] = torch.autograd.grad(loss(student), student)
    q, p = student.detach().softmax(1), teacher.softmax(1)
    m = beta * p + (1 - beta) * q
    ratio = (q / m).log()
    expected = (1 - beta) * q * (ratio - (q * ratio).sum(1, keepdim=True))
    if beta == 0:
        expected = q - p
    elif beta == 1:
        expected = q * ((q / p).log() - kl(q.log(), p.log())[:, None])
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-15)
    assert gradient.sum(1).abs().max() < 1e-13
    if beta > 0:  # control: without its last term, as if the normaliser were held still, it does not sum to 0
        log_ratio = (q / p).log() if beta == 1 else (1 - beta) * ratio
        assert (q * log_ratio).sum(1).abs().min() > 1e-3
    direction, step = torch.randn_like(teacher), 1e-5
    change = (loss(student.detach() + step * direction) - loss(student.detach() - step * direction)) / (2 * step)
    torch.testing.assert_close((gradient * direction).sum(), change, rtol=1e-7, atol=0)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("temperature", "soft_cap", "teacher_soft_cap"), [(0.7, None, None), (1.5, 3.0, 2.0)])
def test_weights_temperature_and_soft_caps(
    beta: float, weighted: bool, temperature: float, soft_cap: float | None, teacher_soft_cap: float | None
) -> None:
    case = Case()
    options: dict[str, Any] = {
        "weights": torch.linspace(-1, 2, TOKENS, dtype=torch.float64) if weighted else None,
        "temperature": temperature,
        "soft_cap": soft_cap,
        "teacher_soft_cap": teacher_soft_cap,
    }
    ours = divergence_loss(*case.models, beta=beta, denominator=TOKENS, tile_tokens=3, **options)
    theirs = dense(case, beta, **options)
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-14)
    assert_equal_gradients(ours, theirs, case)
    assert (ours - dense(case, beta)).abs() > 1e-4  # control: they are not left out


def test_the_temperature_divides_both_and_its_square_is_an_option() -> None:
    """In the limit of a high temperature the gradient falls as 1/τ², which the option takes back."""
    case = Case()
    losses = {t: divergence_loss(*case.models, beta=0.0, denominator=1, temperature=t) for t in (0.9, 2.0)}
    assert losses[0.9] > 2 * losses[2.0]  # control: a loss that ignores the temperature is one number
    alone = dense(case, 0.0, 1, temperature=2.0, teacher_temperature=1.0)
    assert (losses[2.0] - alone).abs() > 0.1  # control: divided for the student alone
    norms = {}
    for squared in (False, True):
        for t in (50.0, 100.0):
            loss = divergence_loss(
                *case.models, beta=0.0, denominator=1, temperature=t, times_temperature_squared=squared
            )
            norms[squared, t] = torch.autograd.grad(loss, case.states)[0].norm()
    assert norms[False, 50.0] / norms[False, 100.0] == pytest.approx(4, rel=0.1)
    assert norms[True, 50.0] / norms[True, 100.0] == pytest.approx(1, rel=0.05)
    assert norms[True, 50.0] / norms[False, 50.0] == pytest.approx(2500)


def test_tied_and_frozen_heads() -> None:
    case = Case()
    tokens = torch.randint(0, VOCABULARY, (TOKENS,))

    def tied(loss_of: Any) -> torch.Tensor:
        case.states = torch.nn.functional.embedding(tokens, case.head).tanh()
        [gradient] = torch.autograd.grad(loss_of(), case.head)
        return gradient

    ours = tied(lambda: divergence_loss(*case.models, beta=0.5, denominator=TOKENS, tile_tokens=4))
    torch.testing.assert_close(ours, tied(lambda: dense(case, 0.5)), rtol=1e-10, atol=1e-14)
    case = Case()
    frozen = divergence_loss(
        case.states, case.head.detach(), case.teacher_states, case.teacher_head, beta=0.5, denominator=TOKENS
    )
    torch.testing.assert_close(
        torch.autograd.grad(frozen, case.states)[0], torch.autograd.grad(dense(case, 0.5), case.states)[0]
    )


def test_a_teacher_gets_no_gradient() -> None:
    case = Case()
    case.teacher_head.requires_grad_()
    loss = divergence_loss(*case.models, beta=0.5, denominator=TOKENS)
    assert torch.autograd.grad(loss, [case.states, case.teacher_head], allow_unused=True)[1] is None
    moved = dense(case, 0.5)  # control: by autograd it would
    assert torch.autograd.grad(moved, case.teacher_head)[0].abs().max() > 1e-3


@pytest.mark.parametrize("per_sequence", [False, True])
@pytest.mark.parametrize("parts", [1, 2, 4])
def test_micro_batches_make_the_gradient_of_the_whole(parts: int, per_sequence: bool) -> None:
    """Four sequences of 1, 2, 4 and 6 tokens: mean over tokens, or the paper's, over sequences of means over tokens."""
    case, lengths = Case(), (1, 2, 4, 6)
    of = torch.repeat_interleave(torch.arange(4), torch.tensor(lengths))
    weights = 1 / torch.tensor(lengths, dtype=torch.float64)[of] if per_sequence else None
    denominator = 4 if per_sequence else TOKENS
    by_sequence = [dense_divergences_of(case, of == n, beta=0.1) for n in range(4)]
    expected = sum(d.mean() for d in by_sequence) / 4 if per_sequence else torch.cat(by_sequence).mean()
    found = torch.zeros_like(case.head)
    wrong = torch.zeros_like(case.head)
    for part in torch.arange(4).chunk(parts):
        rows = torch.isin(of, part)
        own = None if weights is None else weights[rows]
        models = case.states[rows], case.head, case.teacher_states[rows], case.teacher_head
        for total, by in ((found, denominator), (wrong, int(rows.sum()))):
            loss = divergence_loss(*models, beta=0.1, denominator=by, weights=own)
            total += torch.autograd.grad(loss, case.head)[0]
    [whole] = torch.autograd.grad(expected, case.head)
    torch.testing.assert_close(found, whole, rtol=1e-10, atol=1e-13)
    if parts > 1 or per_sequence:
        assert (wrong - whole).abs().max() > 1e-3  # control: each part over its own tokens


def dense_divergences_of(case: Case, rows: torch.Tensor, beta: float) -> torch.Tensor:
    q = torch.log_softmax(case.states[rows] @ case.head.T, 1)
    p = torch.log_softmax(case.teacher_states[rows] @ case.teacher_head.T, 1)
    return dense_divergences(p, q, beta)


@pytest.mark.parametrize("beta", BETAS)
def test_padding_rows_get_no_probability(beta: float) -> None:
    """Heads of 40 and 44 rows whose tokenizer has 36: the rows beyond play no part and get a gradient of zero."""
    case = Case()
    expected = dense_on(case, 36, beta)
    case.teacher_head = torch.cat([case.teacher_head, torch.full((4, WIDTH), 9.0, dtype=torch.float64)])
    ours = divergence_loss(*case.models, beta=beta, denominator=TOKENS, vocabulary=36, tile_tokens=4)
    torch.testing.assert_close(ours, expected, rtol=1e-11, atol=0)
    assert_equal_gradients(ours, expected, case)
    [gradient] = torch.autograd.grad(
        divergence_loss(*case.models, beta=beta, denominator=TOKENS, vocabulary=36), case.head
    )
    assert gradient[36:].abs().max() == 0
    padded = Case()  # control: a padding row of zeros takes part, as a logit of 0
    padded.head, padded.teacher_head = padded.head[:36], padded.teacher_head[:36]
    padded.head = torch.cat([padded.head, torch.zeros(4, HIDDEN, dtype=torch.float64)])
    padded.teacher_head = torch.cat([padded.teacher_head, torch.zeros(4, WIDTH, dtype=torch.float64)])
    assert (dense(padded, beta) - expected).abs() > 1e-4


def dense_on(case: Case, tokens: int, beta: float) -> torch.Tensor:
    q = torch.log_softmax(case.states @ case.head[:tokens].T, 1)
    p = torch.log_softmax(case.teacher_states @ case.teacher_head[:tokens].T, 1)
    return dense_divergences(p, q, beta).mean()


def test_gemmas_two_vocabularies() -> None:
    """262,144 tokens of the tokenizer, 262,208 rows by the configuration's default, either way round."""
    torch.manual_seed(0)
    states, head = torch.randn(2, 1), torch.randn(262_208, 1)
    for student, teacher in ((head, head[:262_144]), (head[:262_144], head)):
        loss = divergence_loss(states, student, states, teacher, beta=0.5, denominator=2, vocabulary=262_144)
        assert loss.item() == pytest.approx(0, abs=1e-9)
    with pytest.raises(ValueError, match="head has 262208 rows, the teacher's 262144; if their tokenizers are one"):
        divergence_loss(states, head, states, head[:262_144], beta=0.5, denominator=2)


def test_the_number_of_shared_tokens() -> None:
    assert shared_vocabulary(40, 40, None) == 40
    assert shared_vocabulary(40, 44, 36) == 36
    for vocabulary in (0, 41):
        with pytest.raises(ValueError, match=f"vocabulary is {vocabulary}; the student's head has 40 rows"):
            shared_vocabulary(40, 44, vocabulary)


@pytest.mark.parametrize("beta", BETAS)
def test_certain_models_that_disagree_have_a_finite_divergence(beta: float) -> None:
    """Probabilities that are 0 in float32: JSD is at its bound, -β ln β - (1 - β) ln(1 - β); KL is 300."""
    student, teacher = torch.tensor([[300.0, 0.0, -99.0]]).requires_grad_(), torch.tensor([[0.0, 300.0, -99.0]])
    identity = torch.eye(3)
    loss = divergence_loss(student, identity, teacher, identity, beta=beta, denominator=1)
    b = torch.tensor(beta)
    bound = 300.0 if beta in (0, 1) else float(-b * b.log() - (1 - b) * (1 - b).log())
    assert loss.item() == pytest.approx(bound, rel=1e-6)
    assert torch.autograd.grad(loss, student)[0].isfinite().all()


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("scale", [0.3, 1.0])
def test_float32_is_near_float64(beta: float, scale: float) -> None:
    """Within five millionths; certain models, whose gradient is what is left of 1 - 1, no farther than dense."""
    exact_case, case = Case(20_000, scale=scale), Case(20_000, torch.float32, scale)
    exact, low = dense(exact_case, beta), dense(case, beta)
    ours = divergence_loss(*case.models, beta=beta, denominator=TOKENS, tile_tokens=4)
    true = [exact.detach(), *torch.autograd.grad(exact, exact_case.student)]
    peer = [low.detach(), *torch.autograd.grad(low, case.student)]
    for mine, theirs, value in zip([ours.detach(), *torch.autograd.grad(ours, case.student)], peer, true, strict=True):
        bound = 5e-6 * value.norm() if scale < 1 else 1.2 * (theirs - value).norm() + 1e-6 * value.norm()
        assert (mine - value).norm() <= bound


@pytest.mark.parametrize("beta", BETAS)
def test_float32_is_near_float64_over_gemmas_vocabulary(beta: float) -> None:
    """Gradients in the logits of four rows; torch.softmax, which sums a row in one stretch, would be farther off."""
    torch.manual_seed(0)
    logits, of_teacher = torch.randn(4, 262_144) * 2.6, torch.randn(4, 262_144) * 2.6
    exact_student = logits.double().requires_grad_()
    exact = dense_divergences(torch.log_softmax(of_teacher.double(), 1), torch.log_softmax(exact_student, 1), beta)
    [gradient] = torch.autograd.grad(exact.sum(), exact_student)
    losses = divergence._divergences(logits, of_teacher, torch.empty_like(logits), beta)
    assert (losses - exact.detach()).norm() <= 1e-6 * exact.norm()
    assert (logits - gradient).norm() <= 2e-6 * gradient.norm()


def test_logits_of_both_exist_for_one_tile_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []
    project = tiles._project

    def watched(states: torch.Tensor, weight: torch.Tensor, logits: torch.Tensor) -> None:
        shapes.append(tuple(logits.shape))
        project(states, weight, logits)

    monkeypatch.setattr(tiles, "_project", watched)
    divergence_loss(*Case().models, beta=0.5, denominator=TOKENS, tile_tokens=6)
    assert shapes == [(6, VOCABULARY)] * 4 + [(1, VOCABULARY)] * 2


def test_bfloat16_states_and_float32_heads() -> None:
    case = Case(dtype=torch.float32)
    low, teacher_low = case.states.detach().bfloat16().requires_grad_(), case.teacher_states.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = divergence_loss(low, case.head, teacher_low, case.teacher_head, beta=0.5, denominator=TOKENS)
    assert ours.dtype == torch.float32
    mine = torch.autograd.grad(ours, (low, case.head))
    theirs = torch.autograd.grad(dense(case, 0.5), case.student)
    for gradient, other in zip(mine, theirs, strict=True):
        assert torch.nn.functional.cosine_similarity(gradient.float().flatten(), other.flatten(), 0) > 0.999


def test_no_tokens_make_a_loss_of_zero_in_the_graph() -> None:
    case = Case()
    loss = divergence_loss(
        case.states[:0], case.head, case.teacher_states[:0], case.teacher_head, beta=0.5, denominator=3
    )
    assert loss.item() == 0 and torch.autograd.grad(loss, case.head)[0].abs().max() == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"beta": 1.1}, "beta is 1.1; expected 0"),
        ({"denominator": 0}, "denominator is 0: no token is learned"),
        ({"denominator": float("nan")}, "denominator is nan"),
        ({"weights": torch.ones(TOKENS, requires_grad=True)}, "detach them"),
        ({"weights": torch.ones(2)}, r"weights \(2,\); expected one a token"),
        ({"teacher_states": torch.zeros(4, WIDTH)}, "13 tokens of the student, 4 of the teacher"),
        ({"teacher_states": torch.zeros(TOKENS, 3)}, r"states \(13, 3\) and head \(40, 5\)"),
        ({"teacher_states": torch.zeros(TOKENS, WIDTH, requires_grad=True)}, "under torch.no_grad"),
        ({"teacher_head": torch.zeros(39, WIDTH)}, "the teacher's 39; if their tokenizers are one"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"soft_cap": -1.0}, "soft_cap is -1.0"),
        ({"teacher_soft_cap": 0.0}, "teacher_soft_cap is 0.0"),
    ],
)
def test_what_is_refused(changes: dict[str, Any], message: str) -> None:
    case = Case()
    given = dict(zip(("states", "head", "teacher_states", "teacher_head"), case.models, strict=True))
    with pytest.raises(ValueError, match=message):
        divergence_loss(**{**given, "beta": 0.5, "denominator": TOKENS, **changes})


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_a_fault_in_the_gradient_is_found(beta: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control of the comparisons above: the mixture's or the reverse gradient taken for the forward one."""
    true = divergence._divergences

    def planted(student: torch.Tensor, teacher: torch.Tensor, scratch: torch.Tensor, beta: float) -> torch.Tensor:
        q, p = student.softmax(1), teacher.softmax(1)
        losses = true(student, teacher, scratch, beta)
        student.copy_(q - p)
        return losses

    monkeypatch.setattr(divergence, "_divergences", planted)
    case = Case()
    ours = divergence_loss(*case.models, beta=beta, denominator=TOKENS)
    with pytest.raises(AssertionError, match="not close"):
        assert_equal_gradients(ours, dense(case, beta), case)


def assert_equal_gradients(ours: torch.Tensor, theirs: torch.Tensor, case: Case) -> None:
    mine, other = (torch.autograd.grad(loss, case.student) for loss in (ours, theirs))
    for one, two in zip(mine, other, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-12)
