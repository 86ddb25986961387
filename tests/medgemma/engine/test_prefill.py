"""Prompts into the cache, against one plain forward pass of transformers over each prompt."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from medgemma.engine import masks
from medgemma.engine import prefill as prefill_module
from medgemma.engine.network import Network
from medgemma.engine.prefill import Prefilled, PrefixStore, Prepared, prefill
from tests.medgemma.engine import small


@pytest.fixture(scope="module")
def network() -> Network:
    return small.network()


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


SHARED = small.prompt(1, 30, 20)
"""A beginning with a picture, longer than the window."""


def family() -> list[tuple[Prepared, tuple[int, ...]]]:
    """Prompts that share much or nothing, one the beginning of another, two the same, two but for a picture."""
    few_shot = small.joined(SHARED, small.prompt(2, 17))
    made = [
        (SHARED, (7,)),
        (small.joined(SHARED, small.prompt(3, 5)), (7,)),
        (small.joined(SHARED, small.prompt(4, 9)), (7,)),
        (small.joined(few_shot, small.prompt(5, 3, 2)), (7, 8)),
        (small.joined(few_shot, small.prompt(5, 3, 2)), (7, 9)),
        (small.joined(few_shot, small.prompt(5, 3, 2)), (7, 9)),
        (small.joined(SHARED, small.prompt(3, 5)), (8,)),
        (small.prompt(6, 2), ()),
        (small.prompt(7, 60, 1, 1), (5, 5)),
    ]
    return [(small.prepared(prompt, *pictures), pictures) for prompt, pictures in made]


def largest_error(network: Network, done: Prefilled, asked: list[tuple[Prepared, tuple[int, ...]]]) -> float:
    errors = []
    for hidden, (prompt, pictures) in zip(done.hidden, asked, strict=True):
        expected = small.logits_of_transformers(network.model, prompt.prompt, pictures)[-1]
        errors.append(float((network.logits(hidden) - expected).abs().max()))
    return max(errors)


def test_shared_beginnings_give_each_prompt_its_own_logits(network: Network) -> None:
    asked = family()
    done = prefill(network, [prompt for prompt, _ in asked])
    assert largest_error(network, done, asked) < 1e-5
    assert done.places[4] == done.places[5] != done.places[3]  # equal prompts are one row
    lengths = [place.cache.lengths[place.row] for place in done.places]
    assert lengths == [len(prompt.prompt.input_ids) for prompt, _ in asked]


def test_what_is_shared_is_computed_once(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    forward = network.prefill
    monkeypatch.setattr(network, "prefill", lambda s, e, c: (seen.append(int(c.counts.sum())), forward(s, e, c))[1])
    asked = [small.prepared(small.joined(SHARED, small.prompt(i, 4)), 7) for i in range(14)]
    prefill(network, asked)
    shared = len(SHARED.input_ids) + 1  # every prompt opens with the same token
    assert seen == [shared, 14 * 4]
    seen.clear()
    for prompt in asked:
        prefill(network, [prompt])
    assert sum(seen) == 14 * (shared + 4)


@pytest.mark.parametrize("tokens_a_pass", [16, 23, 64])
def test_long_prompts_go_in_in_pieces_that_cut_no_picture(
    network: Network, monkeypatch: pytest.MonkeyPatch, tokens_a_pass: int
) -> None:
    monkeypatch.setattr(prefill_module, "TOKENS_A_PASS", tokens_a_pass)
    asked = family()
    assert largest_error(network, prefill(network, [prompt for prompt, _ in asked]), asked) < 1e-5
    long = small.prompt(11, 9, 8, 30, 1, 70)
    ends = [0]
    while ends[-1] < len(long.input_ids):
        ends.append(prefill_module._end_of_pass(long, ends[-1], len(long.input_ids), tokens_a_pass))
    inside = [i for i in range(1, len(long.input_ids)) if long.token_type_ids[i - 1] == long.token_type_ids[i] == 1]
    assert len(ends) > 2 and not set(ends) & set(inside)


def test_prefixes_of_earlier_calls_are_used(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    store = PrefixStore(1 << 24)
    first = [small.prepared(small.joined(SHARED, small.prompt(i, 4)), 7) for i in range(2)]
    prefill(network, first, store=store)
    seen = []
    forward = network.prefill
    monkeypatch.setattr(network, "prefill", lambda s, e, c: (seen.append(int(c.counts.sum())), forward(s, e, c))[1])
    later = [(small.prepared(small.joined(SHARED, small.prompt(9, 6)), 7), (7,))]
    other_picture = [(small.prepared(small.joined(SHARED, small.prompt(9, 6)), 8), (8,))]
    both = later + other_picture
    done = prefill(network, [prompt for prompt, _ in both], store=store)
    whole = len(SHARED.input_ids) + 7
    assert sum(seen) == 6 + whole
    assert largest_error(network, done, both) < 1e-5
    prefill(network, [later[0][0]], store=store, owner="other")
    assert seen[-1] == whole  # another adapter's prefix is another's


def test_the_store_keeps_within_its_memory(network: Network) -> None:
    store = PrefixStore(1 << 17)
    for i in range(8):
        beginning = small.prompt(100 + i, 40)
        pair = [small.prepared(small.joined(beginning, small.prompt(j, 3))) for j in range(2)]
        prefill(network, pair, store=store)
    held = [cache.num_bytes for cache in store._rows.values()]
    assert 0 < len(held) < 8 and sum(held) <= 1 << 17


def test_branches_see_their_prompt_and_not_each_other(network: Network) -> None:
    asked = family()
    choices = [tuple(tuple(range(40 + i, 40 + i + n)) for n in (1, 3, 12)) for i in range(len(asked))]
    done = prefill(network, [prompt for prompt, _ in asked], branches=choices)
    for (prompt, pictures), tokens, parts in zip(asked, choices, done.branches, strict=True):
        for choice, hidden in zip(tokens, parts, strict=True):
            expected = small.logits_of_transformers(network.model, prompt.prompt, pictures, choice)[-len(choice) :]
            torch.testing.assert_close(network.logits(hidden), expected, atol=1e-5, rtol=0)


# Faults that must be seen


def test_planted_a_causal_mask_on_pictures_is_seen(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    real = masks._mask

    def causal(chunk: masks.Chunk, *rest: Any) -> torch.Tensor:
        blind = masks.Chunk(chunk.positions, torch.full_like(chunk.pictures, -1), chunk.branches, chunk.counts)
        return real(blind, *rest)

    monkeypatch.setattr(masks, "_mask", causal)
    asked = family()[:2]
    assert largest_error(network, prefill(network, [prompt for prompt, _ in asked]), asked) > 1e-2


def test_planted_positions_off_by_one_after_a_shared_beginning_are_seen(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = network.prefill

    def shifted(step: Any, embeddings: Any, chunk: masks.Chunk) -> torch.Tensor:
        late = torch.tensor(step.starts)[:, None] > 0
        return forward(
            step, embeddings, masks.Chunk(chunk.positions + late, chunk.pictures, chunk.branches, chunk.counts)
        )

    monkeypatch.setattr(network, "prefill", shifted)
    asked = family()[:3]
    assert largest_error(network, prefill(network, [prompt for prompt, _ in asked]), asked) > 1e-2


def test_planted_a_picture_taken_for_another_is_seen(network: Network) -> None:
    first, second = (small.prepared(small.joined(SHARED, small.prompt(3, 5)), picture) for picture in (7, 8))
    mistaken = Prepared(second.prompt, second.features, first.symbols)
    done = prefill(network, [first, mistaken])
    assert largest_error(network, done, [(first, (7,)), (mistaken, (8,))]) > 1e-2
