"""A small random Gemma 3 whose window is shorter than its prompts, and prompts for it."""

from collections.abc import Sequence
from typing import Any

import torch

from medgemma.engine.network import Network
from medgemma.engine.prefill import Prepared
from medgemma.engine.prefixes import symbols_of
from medgemma.prompts.chat import Prompt

WINDOW, IMAGE_TOKENS, VOCABULARY = 8, 4, 96
BEGIN, SOFT, END = 37, 39, 38


def model(seed: int = 0, layers: int = 7, positions: int = 512) -> Any:
    """Gemma3ForConditionalGeneration with seven layers, one of them global."""
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    text = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "query_pre_attn_scalar": 16,
        "vocab_size": VOCABULARY,
        "sliding_window": WINDOW,
        "max_position_embeddings": positions,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
    }
    vision = {
        "hidden_size": 16,
        "intermediate_size": 20,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 7,
        "vision_use_head": False,
    }
    ids = {"boi_token_index": BEGIN, "eoi_token_index": END, "image_token_index": SOFT}
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=IMAGE_TOKENS, **ids)
    torch.manual_seed(seed)
    network = Gemma3ForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.normal_(std=0.05 if "norm" in name or "embed_tokens" in name else 0.4)
    return network


def prompt(seed: int, *parts: int) -> Prompt:
    """Random text of so many tokens a part, with an image between parts."""
    generator = torch.Generator().manual_seed(seed)
    ids: list[int] = []
    for number, length in enumerate(parts):
        ids += [BEGIN, *[SOFT] * IMAGE_TOKENS, END] if number else [2]
        ids += torch.randint(40, VOCABULARY, (length,), generator=generator).tolist()
    return Prompt(tuple(ids), tuple(int(i == SOFT) for i in ids), len(parts) - 1)


def joined(*prompts: Prompt) -> Prompt:
    """One prompt after the other."""
    ids = tuple(i for p in prompts for i in p.input_ids)
    return Prompt(ids, tuple(int(i == SOFT) for i in ids), sum(p.num_images for p in prompts))


def features(*seeds: int) -> tuple[torch.Tensor, ...]:
    """(I, H) of pictures that exist only as numbers."""
    made = [torch.Generator().manual_seed(1000 + seed) for seed in seeds]
    return tuple(torch.randn(IMAGE_TOKENS, 32, generator=generator) for generator in made)


def prepared(asked: Prompt, *pictures: int) -> Prepared:
    """A prompt with pictures, as the engine hands it to prefill."""
    return Prepared(asked, features(*pictures), symbols_of(asked, pictures))


def logits_of_transformers(model: Any, asked: Prompt, pictures: Sequence[int] = (), more: Sequence[int] = ()) -> Any:
    """(T, V) by one forward pass of transformers' own, without any cache."""
    ids = torch.tensor([[*asked.input_ids, *more]])
    types = torch.tensor([[*asked.token_type_ids, *[0] * len(more)]])
    embeddings = model.get_input_embeddings()(ids.masked_fill(types == 1, 0))
    if pictures:
        embeddings = embeddings.masked_scatter((types == 1)[..., None], torch.cat(features(*pictures)))
    with torch.inference_mode():
        return model(inputs_embeds=embeddings, token_type_ids=types).logits[0]


def greedy_of_transformers(model: Any, asked: Prompt, pictures: Sequence[int], count: int) -> list[int]:
    """The likeliest tokens, each by a forward pass over everything so far."""
    said: list[int] = []
    for _ in range(count):
        said.append(int(logits_of_transformers(model, asked, pictures, said)[-1].argmax()))
    return said


def network(seed: int = 0, **kwargs: Any) -> Network:
    return Network(model(seed, **kwargs))
