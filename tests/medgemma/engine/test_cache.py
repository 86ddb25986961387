"""The cache: what each row holds where, what a window costs, and rows that move."""

import pytest
import torch
from transformers import Gemma3TextConfig
from transformers.models.gemma3.modeling_gemma3 import create_masks_for_vision_model, get_block_sequence_ids_for_mask

from medgemma.engine.cache import KeyValueCache, PrefillStep
from medgemma.engine.masks import Chunk, prefill_masks, ring_positions
from medgemma.engine.prefill import Place
from medgemma.engine.request import Request
from medgemma.engine.samples import Batch, Sample
from tests.medgemma.engine import small


def config(layers: int = 6, window: int = 8, **kwargs: int) -> Gemma3TextConfig:
    return Gemma3TextConfig(num_hidden_layers=layers, sliding_window=window, **kwargs)


def filled(lengths: list[int]) -> KeyValueCache:
    """A cache in which the key of row r at position p is 100 r + p, in one head of one number."""
    cache = KeyValueCache(config(), len(lengths))
    cache.lengths = [0] * len(lengths)
    step = PrefillStep(cache, lengths)
    keys = torch.tensor([[100.0 * r + p for p in range(max(lengths))] for r in range(len(lengths))])[:, None, :, None]
    for layer in range(6):
        step.update(keys, -keys, layer)
    step.finish()
    return cache


def held(cache: KeyValueCache, row: int, layer: int) -> list[float]:
    keys, values = cache.keys[layer], cache.values[layer]
    assert keys is not None and values is not None
    assert torch.equal(values, -keys)
    length = cache.lengths[row]
    slots = length if not cache.is_local[layer] else min(length, cache.window)
    return keys[row, 0, :slots, 0].tolist()


def test_global_layers_hold_all_and_local_ones_their_window() -> None:
    cache = filled([3, 21, 8])
    assert [cache.is_local[layer] for layer in range(6)] == [True] * 5 + [False]
    assert held(cache, 1, 5) == [100.0 + p for p in range(21)]
    assert held(cache, 1, 0) == [116, 117, 118, 119, 120, 113, 114, 115]  # position p at slot p mod 8
    assert held(cache, 0, 0) == held(cache, 0, 5) == [0, 1, 2]
    assert held(cache, 2, 0) == [200.0 + p for p in range(8)]


def test_ring_positions_are_the_last_of_their_slot() -> None:
    lengths = torch.tensor([0, 3, 8, 21])
    found = ring_positions(lengths, torch.arange(8), 8)
    for row, length in enumerate(lengths.tolist()):
        for slot in range(8):
            positions = [p for p in range(length) if p % 8 == slot]
            assert int(found[row, slot]) == positions[-1] if positions else int(found[row, slot]) < 0


def test_removed_rows_leave_and_the_last_fill_their_places() -> None:
    cache = filled([3, 21, 8, 5, 2])
    order = cache.remove([0, 3])
    assert sorted(order) == [1, 2, 4] and cache.lengths == [[3, 21, 8, 5, 2][old] for old in order]
    for layer in (0, 5):
        for new, old in enumerate(order):
            assert held(cache, new, layer) == held(filled([3, 21, 8, 5, 2]), old, layer)


def test_selected_and_appended_rows_are_copies() -> None:
    cache = filled([3, 21, 8])
    chosen = cache.select([1, 0, 1], length=30)
    chosen.append(cache, [2, 1])
    assert chosen.lengths == [21, 3, 21, 8, 21]
    for layer in (0, 5):
        rows = [held(chosen, row, layer) for row in range(5)]
        assert rows == [held(cache, old, layer) for old in (1, 0, 1, 2, 1)]
    buffer = chosen.keys[5]
    assert buffer is not None
    buffer.zero_()
    assert held(cache, 1, 5) == [100.0 + p for p in range(21)]


def test_growth_keeps_what_is_held() -> None:
    cache = filled([3, 21])
    cache.reserve(7, 3000)
    assert held(cache, 1, 5) == [100.0 + p for p in range(21)] and cache.row_capacity == 7
    assert held(cache, 1, 0) == [116, 117, 118, 119, 120, 113, 114, 115]


@pytest.mark.parametrize("length", [65, 290, 5_000])
def test_growth_reserves_little_more_than_is_asked_and_is_rare(length: int) -> None:
    cache = KeyValueCache(config(), 1)
    capacities = []
    for held in range(1, length + 1):
        cache.reserve(1, held)
        capacities.append(cache.length_capacity)
    assert all(held <= capacity <= max(held + 64, held * 1.125) for held, capacity in enumerate(capacities, 1))
    assert len(set(capacities)) <= 30


def test_an_empty_batch_takes_over_the_cache_its_prompts_stand_in() -> None:
    cache = filled([3, 21, 8])
    batch = Batch(KeyValueCache(config()))
    batch.join([sample(1), sample(2), sample(0)], [Place(cache, 1), Place(cache, 2), Place(cache, 0)])
    assert batch.cache is cache and [each.sample for each in batch.samples] == [0, 1, 2]


@pytest.mark.parametrize("rows", [[0, 1, 1], [0, 1]], ids=["a prompt twice", "a prompt that has ended"])
def test_a_batch_copies_what_is_not_a_whole_cache(rows: list[int]) -> None:
    cache = filled([3, 21, 8])
    batch = Batch(KeyValueCache(config()))
    batch.join([sample(n) for n in range(len(rows))], [Place(cache, row) for row in rows])
    assert batch.cache is not cache and batch.cache.lengths == [cache.lengths[row] for row in rows]


def sample(number: int) -> Sample:
    request = Request(small.prompt(0, 4))
    return Sample(0, number, request, torch.Generator(), None)


def test_freed_rows_can_be_erased() -> None:
    cache = filled([3, 21])
    cache.remove([1])
    cache.erase_free_rows()
    for buffer in cache.keys:
        assert buffer is not None and not buffer[1:].any() and buffer[0].any()


@pytest.mark.parametrize(
    ("layers", "global_layers", "heads", "width", "tokens", "expected_bytes"),
    [  # of the 4B model in bfloat16 at 32,768 tokens: 5 layers grow, 29 stay at 1,024 (keys and values, 2 bytes)
        (34, 5, 4, 256, 32_768, 5 * 4096 * 32_768 + 29 * 4096 * 1024),
        (62, 10, 16, 128, 32_768, 10 * 8192 * 2 * 32_768 // 2 + 52 * 8192 * 1024),
    ],
)
def test_memory_of_32k_tokens_is_the_formula(
    layers: int, global_layers: int, heads: int, width: int, tokens: int, expected_bytes: int
) -> None:
    """On the meta device, so nothing is allocated."""
    shape = config(layers, 1024, num_key_value_heads=heads, head_dim=width)
    cache = KeyValueCache(shape, 1)
    cache.reserve(1, tokens)
    for layer in range(layers):
        cache.buffers(layer, torch.empty((1, heads, 1, width), dtype=torch.bfloat16, device="meta"))
    assert sum(not local for local in cache.is_local) == global_layers
    assert cache.num_bytes == expected_bytes


@pytest.mark.slow
def test_a_prompt_of_32k_tokens_stays_at_its_window_in_local_layers() -> None:
    """Really computed, on a small model: memory by layer, and the end of the prompt still says what it should."""
    from medgemma.engine.prefill import prefill

    network = small.network(positions=40_000)
    asked = small.prepared(small.prompt(1, 20_000, 12_700), 3)
    with torch.inference_mode():
        done = prefill(network, [asked])
    (place,) = done.places
    for local, keys in zip(place.cache.is_local, place.cache.keys, strict=True):
        assert keys is not None and keys.shape[2] == (small.WINDOW if local else 32_768)


def test_masks_are_those_of_transformers() -> None:
    """A first chunk with two pictures, one of them longer than the window that is left to it."""
    prompt = small.prompt(3, 5, 9, 2)
    length = len(prompt.input_ids)
    types = torch.tensor([prompt.token_type_ids])
    shape = config(window=7)
    shape._attn_implementation = "sdpa"
    theirs = create_masks_for_vision_model(
        config=shape,
        inputs_embeds=torch.zeros(1, length, 4),
        attention_mask=None,
        past_key_values=None,
        position_ids=None,
        block_sequence_ids=get_block_sequence_ids_for_mask(types, device=types.device),
    )
    cache = KeyValueCache(shape, 1)
    cache.lengths = [0]
    pictures = get_block_sequence_ids_for_mask(types, device=types.device)
    zeros = torch.zeros_like(types)
    chunk = Chunk(torch.arange(length)[None], pictures, zeros, torch.tensor([length]))
    ours = prefill_masks(PrefillStep(cache, [length]), chunk)
    for kind in ("full_attention", "sliding_attention"):
        assert torch.equal(ours[kind], theirs[kind]), kind
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    assert not torch.equal(ours["full_attention"][0, 0], causal)
