"""Log-likelihoods of given continuations: nothing is generated, so that no parser and no chat template plays a part."""

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from evals.items import Item, item_sha256
from evals.outputs import Output

if TYPE_CHECKING:
    from medgemma import MedGemma
    from medgemma.engine import Request

ITEMS_PER_BATCH = 32
ITEMS_IN_ORDER = 512
"""So many at a time are put in the order of their prompts: what begins alike (worked examples) is computed once."""


def choose_items(items: Sequence[Item], model: "MedGemma") -> Iterator[Output]:
    """Score the choices of every item; an item that does not fit the model fails alone.

    Args:
        items: With choices, without pictures. Their prompts are plain text: no chat template is applied, and special
            tokens are added as the checkpoint's tokenizer does by itself.
        model: Its engine scores.
    """
    for start in range(0, len(items), ITEMS_IN_ORDER):
        together = sorted(items[start : start + ITEMS_IN_ORDER], key=lambda item: item.prompt)
        for first in range(0, len(together), ITEMS_PER_BATCH):
            yield from _batch(together[first : first + ITEMS_PER_BATCH], model)


def encode_choices(model: "MedGemma", prompt: str, choices: Sequence[str]) -> tuple[list[int], list[list[int]]]:
    """Return the token ids of a prompt and of each choice behind it.

    Spaces at the end of the prompt go to the choices, and a choice is what prompt and choice together have more than
    the prompt alone, so that a word is divided as it would be in running text.

    Source: lm-evaluation-harness 0.4, `TemplateLM._encode_pair`.
    """
    bare = prompt.rstrip()
    context = model.tokenizer(bare).input_ids
    whole = [model.tokenizer(bare + prompt[len(bare) :] + choice).input_ids for choice in choices]
    return context, [ids[len(context) :] for ids in whole]


def _batch(items: Sequence[Item], model: "MedGemma") -> Iterator[Output]:
    started = time.perf_counter()
    try:
        scores = model.engine.score_choices([_request(item, model) for item in items])
    except (ValueError, OSError) as fault:
        if len(items) > 1:
            for item in items:
                yield from _batch([item], model)
            return
        error = " ".join(str(fault).split()) or type(fault).__name__
        yield Output(items[0].item_id, item_sha256(items[0]), model.identity, error=error)
        return
    seconds = round((time.perf_counter() - started) / len(items), 4)
    for item, of_choices in zip(items, scores, strict=True):
        yield Output(
            item.item_id,
            item_sha256(item),
            model.identity,
            log_likelihoods=tuple(score.logprob for score in of_choices),
            seconds=seconds,
        )


def _request(item: Item, model: "MedGemma") -> "tuple[Request, list[list[int]]]":
    from medgemma.engine import Request
    from medgemma.prompts.chat import Prompt

    context, choices = encode_choices(model, item.prompt, item.choices)
    return Request(Prompt(tuple(context), (0,) * len(context), 0), adapter=model.adapter_name), choices
