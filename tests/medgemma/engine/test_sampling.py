"""Choosing tokens: against transformers' own filters, exact frequencies, and streams of numbers that stand alone."""

import math

import pytest
import torch

from medgemma.engine import Sampling
from medgemma.engine.sampling import _drawn, choose, generator_of

LOGITS = torch.tensor([[2.0, 0.5, -1.0, 1.5, 0.0, -3.0, 1.0, 0.9]])


def filtered(logits: torch.Tensor, top_k: int | None, top_p: float) -> torch.Tensor:
    """Probabilities by transformers' processors, in the order generate applies them."""
    from transformers import TopKLogitsWarper, TopPLogitsWarper

    if top_k is not None:
        logits = TopKLogitsWarper(top_k)(None, logits)
    if top_p < 1:
        logits = TopPLogitsWarper(top_p)(None, logits)
    return logits.softmax(-1)[0]


@pytest.mark.parametrize("top_k", [None, 1, 3, 5, 100])
@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.6, 0.3, 0.001])
@pytest.mark.parametrize("temperature", [1.0, 0.3, 4.0])
def test_every_draw_gives_the_token_of_its_share(top_k: int | None, top_p: float, temperature: float) -> None:
    """An even grid of draws hits each token as often as transformers' filtered distribution says."""
    scaled, count = LOGITS / temperature, 4000
    draws = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    tokens = _drawn(scaled.expand(count, -1), top_k, top_p, draws).tokens
    share = torch.bincount(tokens, minlength=8) / count
    torch.testing.assert_close(share, filtered(scaled, top_k, top_p), atol=1 / count + 1e-6, rtol=0)


@pytest.mark.parametrize("draw", [0.0, 1 - 1e-16])
@pytest.mark.parametrize(("top_k", "top_p"), [(None, 1.0), (2, 1.0), (None, 0.5), (3, 0.5)])
def test_the_ends_of_the_interval_stay_inside(draw: float, top_k: int | None, top_p: float) -> None:
    kept = filtered(LOGITS, top_k, top_p) > 0
    token = int(_drawn(LOGITS, top_k, top_p, torch.tensor([draw], dtype=torch.float64)).tokens)
    assert kept[token]


def test_a_stream_depends_on_seed_and_sample_alone() -> None:
    def draws(seed: int, sample: int) -> list[float]:
        generator = generator_of(Sampling(seed=seed), sample)
        return [float(torch.rand((), generator=generator)) for _ in range(3)]

    assert draws(1, 0) == draws(1, 0)
    streams = [tuple(draws(seed, sample)) for seed in (0, 1, 2, -1, 2**62) for sample in range(5)]
    assert len(set(streams)) == len(streams)


def test_rows_of_unlike_settings_share_a_call() -> None:
    settings = [Sampling(), Sampling(temperature=1.0, top_k=1), Sampling(temperature=0.7, seed=3), Sampling()]
    generators = [generator_of(s, 0) for s in settings]
    logits = LOGITS.repeat(4, 1)
    logits[3] = -logits[3]
    mask = torch.tensor([False, True, True, True, True, True, True, True])
    chosen = choose(logits, settings, generators, [None, None, None, mask])
    alone = choose(logits[2:3], settings[2:3], [generator_of(settings[2], 0)], [None])
    assert chosen.token_ids[0] == chosen.token_ids[1] == 0
    assert chosen.token_ids[2] == alone.token_ids[0]
    assert chosen.token_ids[3] == 5
    expected = [float(logits[row].log_softmax(-1)[token]) for row, token in enumerate(chosen.token_ids)]
    assert chosen.logprobs == pytest.approx(expected, abs=1e-6)


def test_a_constraint_beats_the_likeliest_token_and_the_draw() -> None:
    mask = torch.tensor([False, False, False, False, False, True, False, False])
    for settings in (Sampling(), Sampling(temperature=1.0), Sampling(temperature=1.0, top_k=1, top_p=0.1)):
        assert choose(LOGITS, [settings], [generator_of(settings, 0)], [mask]).token_ids == [5]


def test_what_is_not_finite_is_seen() -> None:
    logits = LOGITS.repeat(2, 1)
    logits[1, 3] = math.nan
    chosen = choose(logits, [Sampling()] * 2, [generator_of(Sampling(), 0)] * 2, [None, None])
    assert math.isfinite(chosen.logprobs[0]) and math.isnan(chosen.logprobs[1])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0; it must be 1 or more"),
        ({"temperature": -0.1}, "temperature is -0.1; it must be 0 or more"),
        ({"top_k": 0}, "top_k is 0; it must be 1 or more, or None"),
        ({"top_p": 0.0}, r"top_p is 0.0; it must be in \(0, 1\]"),
        ({"top_p": 1.5}, r"top_p is 1.5; it must be in \(0, 1\]"),
        ({"num_samples": 0}, "num_samples is 0; it must be 1 or more"),
    ],
)
def test_settings_outside_their_range_are_refused(fields: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sampling(**fields)  # type: ignore[arg-type]


# Penalties, min-p, what else was likely, loops


def test_penalties_are_those_of_transformers_and_openai() -> None:
    """Token 0 stands in the prompt, 1 twice and 2 once in the answer."""
    from transformers import RepetitionPenaltyLogitsProcessor

    from medgemma.engine.sampling import _penalised

    logits = torch.tensor([[2.0, 1.0, -1.0, 0.5]]).repeat(3, 1)
    settings = [Sampling(repetition_penalty=2.0), Sampling(frequency_penalty=0.5, presence_penalty=0.25), Sampling()]
    found = _penalised(logits, settings, [([0], [1, 2, 1])] * 3)
    theirs = RepetitionPenaltyLogitsProcessor(2.0)(torch.tensor([[0, 1, 2, 1]]), logits[:1].clone())
    assert found[0].tolist() == theirs[0].tolist() == [1.0, 0.5, -2.0, 0.5]
    assert found[1].tolist() == [2.0, 1.0 - 2 * 0.5 - 0.25, -1.0 - 0.5 - 0.25, 0.5]
    assert found[2].tolist() == logits[2].tolist()


def test_a_penalty_changes_a_greedy_choice_and_not_its_logprob() -> None:
    logits = torch.tensor([[2.0, 1.9]])
    asked = [Sampling(presence_penalty=0.5, top_logprobs=2)]
    chosen = choose(logits, asked, [generator_of(asked[0], 0)], [None], [([], [0])])
    assert chosen.token_ids == [1]
    plain = logits.log_softmax(-1)[0].tolist()
    assert chosen.logprobs == pytest.approx([plain[1]])
    assert [i for i, _ in chosen.top_logprobs[0]] == [0, 1]
    assert [p for _, p in chosen.top_logprobs[0]] == pytest.approx(plain)


def test_min_p_keeps_what_transformers_keeps() -> None:
    from transformers import MinPLogitsWarper

    logits = torch.randn(1, 50, generator=torch.Generator().manual_seed(0))
    kept = torch.isfinite(MinPLogitsWarper(0.2)(torch.zeros(1, 0, dtype=torch.long), logits))[0].nonzero()[:, 0]
    draws = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    drawn = set(_drawn(logits.expand(4000, -1), None, 1.0, draws, min_p=0.2).tokens.tolist())
    assert 1 < len(kept) < 20 and drawn == set(kept.tolist())


def test_loops_are_seen_and_repeated_words_are_none() -> None:
    from medgemma.engine.samples import is_loop

    assert is_loop([9, *[1, 2, 3] * 3], 3) and not is_loop([9, *[1, 2, 3] * 3], 4)
    assert is_loop([5, *[7] * 8], 3) and not is_loop([5, *[7] * 7], 3)
    assert not is_loop([1, 2, 3, 4, 5, 6, 7, 8, 9], 2)
