"""One forward pass of the decoder over a cache: a chunk of every row, or one token of every row.

The network is transformers' own; what is ours is the memory it writes to and the masks it is given.

Letters: R rows, T tokens of a chunk, P pictures, I tokens of one picture, H decoder width, V vocabulary.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from medgemma.engine.adapters import Adapters
from medgemma.engine.cache import DecodeStep, KeyValueCache, PrefillStep
from medgemma.engine.masks import Chunk, decode_masks, prefill_masks

WIDTH_STEP = 64
"""Compiled steps look at a multiple of so many slots: a CUDA graph is recorded for each width."""
MAX_COMPILED_STEPS = 64
"""One row and several are compiled apart, for each adapter; past torch's limit of 8 a step would not be compiled."""


class Network:
    """A Gemma 3 as the engine drives it.

    Args:
        model: Gemma3ForConditionalGeneration, or Gemma3ForCausalLM for text alone.
        compile_mode: None runs the decode step as it is; otherwise torch.compile's mode for it, such as "default", or
            "reduce-overhead" for CUDA graphs.
    """

    def __init__(self, model: Any, compile_mode: str | None = None) -> None:
        self.model = model
        self.adapters = Adapters(model)
        self.text = getattr(model.model, "language_model", model.model)
        self.config = self.text.config
        self.head = model.lm_head
        self.softcap = self.config.final_logit_softcapping
        self.device: torch.device = self.text.embed_tokens.weight.device
        self._compiled: Callable[..., torch.Tensor] | None = None
        if compile_mode is not None:
            self._compiled = torch.compile(self._decode, mode=compile_mode)

    def new_cache(self, rows: int = 0) -> KeyValueCache:
        """An empty cache with room for so many rows."""
        return KeyValueCache(self.config, rows)

    def embed(self, ids: torch.Tensor, pictures: torch.Tensor, features: Sequence[torch.Tensor]) -> torch.Tensor:
        """Input embeddings (R, T, H).

        Args:
            ids: (R, T) int64.
            pictures: (R, T) int64, negative on text.
            features: (I, H) of every picture in these rows, row by row, in the order of their slots.
        """
        slots = pictures >= 0
        embeddings: torch.Tensor = self.text.embed_tokens(ids.masked_fill(slots, 0))
        if features:
            joined = torch.cat([f.to(embeddings.device, embeddings.dtype) for f in features])
            embeddings = embeddings.masked_scatter(slots[..., None], joined)
        return embeddings

    def prefill(self, step: PrefillStep, embeddings: torch.Tensor, chunk: Chunk) -> torch.Tensor:
        """Hidden states (R, T, H) of one chunk, which enters the cache; columns past a row's count mean nothing."""
        hidden: torch.Tensor = self.text(
            inputs_embeds=embeddings,
            position_ids=chunk.positions,
            attention_mask=prefill_masks(step, chunk),
            past_key_values=step,
            use_cache=True,
        ).last_hidden_state
        step.finish()
        return hidden

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """(..., V) of hidden states (..., H)."""
        logits: torch.Tensor = self.head(hidden)
        return logits if self.softcap is None else (logits / self.softcap).tanh() * self.softcap

    def decode(self, cache: KeyValueCache, token_ids: Sequence[int]) -> torch.Tensor:
        """Logits (R, V) after one more token of every row, which enters the cache."""
        rows = cache.num_rows
        cache.reserve(rows, max(cache.lengths) + 1)
        tokens, positions = list(token_ids), list(cache.lengths)
        if self._compiled is None:
            slots = torch.arange(max(positions) + 1, device=self.device)
            inputs = self._inputs(tokens, positions)
            logits = self._decode(cache, *inputs, slots, _alike(positions), self.adapters.active)
        else:
            # One slot more than is looked at: a look at all of them would be compiled anew.
            cache.reserve(max(rows, 2), -(-(max(positions) + 1) // WIDTH_STEP) * WIDTH_STEP + 1)
            logits = self._run_compiled(cache, *self._inputs(tokens, positions))
        cache.lengths = [length + 1 for length in cache.lengths]
        return logits

    def _inputs(self, tokens: list[int], positions: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        both = torch.tensor([tokens, positions]).to(self.device)
        return both[0], both[1]

    def _run_compiled(self, cache: KeyValueCache, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Sizes that grow are marked, so that one row and several rows are compiled once each, for each adapter."""
        assert self._compiled is not None
        slots = torch.arange(-(-int(max(cache.lengths) + 1) // WIDTH_STEP) * WIDTH_STEP, device=self.device)
        # "Maybe": torch's cache on disk ties sizes that the first compilation had left free, and may not stop us.
        torch._dynamo.maybe_mark_dynamic(slots, 0)
        for tensor in (tokens, positions) if len(tokens) > 1 else ():
            torch._dynamo.maybe_mark_dynamic(tensor, 0)
        for buffer in [*cache.keys, *cache.values]:
            if buffer is not None:
                torch._dynamo.mark_static_address(buffer)  # without it CUDA graphs would copy the cache every step
                torch._dynamo.maybe_mark_dynamic(buffer, 0)
                if buffer.shape[2] != cache.window:  # a ring that has grown to its window stays as it is
                    torch._dynamo.maybe_mark_dynamic(buffer, 2)
        with torch._dynamo.config.patch(recompile_limit=MAX_COMPILED_STEPS):
            return self._compiled(cache, tokens, positions, slots, False, self.adapters.active).clone()

    def _decode(
        self,
        cache: KeyValueCache,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        slots: torch.Tensor,
        unmasked: bool,
        adapter: str | None,
    ) -> torch.Tensor:
        # Read here, it ties a compiled step to one adapter: dynamo does not notice the hooks of those loaded later.
        if adapter != self.adapters.active:
            raise RuntimeError(f"adapter {adapter!r} is not the active one")
        step = DecodeStep(cache, len(tokens), positions, len(slots))
        masks: dict[str, torch.Tensor | None] = {"full_attention": None, "sliding_attention": None}
        if not unmasked:
            masks.update(decode_masks(positions, slots, cache.window))
        with _linear_for_one(len(tokens), tokens.device):
            hidden = self.text(
                input_ids=tokens[:, None],
                position_ids=positions[:, None],
                attention_mask=masks,
                past_key_values=step,
                use_cache=True,
            ).last_hidden_state
            return self.logits(hidden[:, 0])


class _MatrixTimesVector(torch.overrides.TorchFunctionMode):
    """Linear layers and attention of one token as multiply and sum, which inductor turns into code at memory's speed.

    A CPU's matrix libraries reach half of it for a single row, and its flash attention is made for many queries.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.nn.functional.linear:
            return _linear(*args, **(kwargs or {}))
        if func is torch.nn.functional.scaled_dot_product_attention:
            return _attention(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    row = _written(x.reshape(-1).float())
    product = (weight * row).sum(-1).to(x.dtype).reshape(*x.shape[:-1], -1)
    return product if bias is None else product + bias


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    scale: float | None = None,
    is_causal: bool = False,
) -> torch.Tensor:
    """Of one query: (1, heads, 1, D) over (1, heads, L, D); softmax in float32."""
    assert query.shape[2] == 1 and not is_causal and not dropout_p and scale is not None
    scores = (key * _written(query.float())).sum(-1) * scale
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask[:, :, 0], -torch.inf)
    weights = _written(scores.softmax(-1))
    return (value * weights[..., None]).sum(2, keepdim=True).to(query.dtype)


def _written(x: torch.Tensor) -> torch.Tensor:
    """The same numbers, which inductor now writes down once instead of computing them again for each use."""
    x = x.contiguous()
    return torch.as_strided(x, x.shape, x.stride())


def _linear_for_one(rows: int, device: torch.device) -> AbstractContextManager[Any]:
    if rows == 1 and device.type == "cpu" and torch.compiler.is_compiling():
        return _MatrixTimesVector()
    return nullcontext()


def _alike(positions: Sequence[int]) -> bool:
    """Rows of one length need no mask: each looks at every slot there is."""
    return min(positions) == max(positions)
