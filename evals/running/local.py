"""Answers of a model on this machine, through its engine.

Items are handed over some ahead of those that are computed, so that the engine can compute what several prompts begin
with once (the picture, the worked examples); outputs come as they are finished.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache

from evals.generation import Generation
from evals.items import Item, item_sha256
from evals.outputs import Output
from medgemma import MedGemma
from medgemma.asking import AnswerOptions, Asked
from medgemma.engine import Completion
from medgemma.engine.prefill import TOKENS_A_PASS
from medgemma.prompts.content import Part, open_study, study_parts

ITEMS_AHEAD = 48
"""Submitted and not finished; the engine decodes 32 samples together."""
PICTURES_AHEAD = 128
"""Once so many pictures are held, no further item is opened: a CT has 85 slices."""


def answer_on_engine(items: Sequence[Item], model: MedGemma, generation: Generation) -> Iterator[Output]:
    """Generate an answer (or several draws) for every item, as they are finished.

    An item whose picture is bad or whose prompt does not fit fails alone, by its reason.

    Raises:
        ValueError: The model is to think and cannot.
    """
    engine = model.engine
    if generation.thinking and model.asking.markers is None:
        raise ValueError(f"{model.name} has no thinking tokens and cannot think; run it without --thinking-tokens")
    opened = lru_cache(maxsize=1)(_opened)  # items with the same pictures lie side by side
    usual, engine.rows.tokens_beside_decoding = (
        engine.rows.tokens_beside_decoding,
        TOKENS_A_PASS,
    )  # nobody waits for a token here
    todo = iter(items)
    asked: dict[int, tuple[Item, Asked]] = {}
    samples: dict[int, dict[int, Completion]] = {}
    last = time.perf_counter()

    def lap_s() -> float:
        nonlocal last
        before, last = last, time.perf_counter()
        return round(last - before, 4)

    def has_room() -> bool:
        pictures = sum(len(one.request.pictures) for _, one in asked.values())
        return len(asked) < ITEMS_AHEAD and pictures < PICTURES_AHEAD

    try:
        while True:
            while has_room() and (item := next(todo, None)) is not None:
                try:
                    one = _asked(item, opened, model, generation)
                    ticket = engine.submit(one.request)
                except (ValueError, OSError) as fault:
                    yield replace(_failed(item, model.identity, fault), seconds=lap_s())
                else:
                    asked[ticket], samples[ticket] = (item, one), {}
            if not asked:
                return
            for event in engine.step():
                if event.completion is None or event.ticket not in asked:
                    continue
                samples[event.ticket][event.sample] = event.completion
                if len(samples[event.ticket]) == generation.n_samples:
                    item, one = asked.pop(event.ticket)
                    drawn = samples.pop(event.ticket)
                    output = _answered(item, model, one, [drawn[i] for i in sorted(drawn)])
                    yield replace(output, seconds=lap_s())
    finally:
        engine.rows.tokens_beside_decoding = usual
        for ticket in asked:
            engine.cancel(ticket)
        if asked:
            engine.step()  # reports the cancelled ones, to nobody


def _opened(files: tuple[str, ...]) -> list[Part]:
    return study_parts(open_study(files))


def _asked(
    item: Item, opened: Callable[[tuple[str, ...]], list[Part]], model: MedGemma, generation: Generation
) -> Asked:
    options = AnswerOptions(
        generation.sampling,
        thinking=generation.thinking_tokens if generation.thinking else None,
        system=generation.system,
    )
    return model.asking.question(opened(item.files), item.prompt, options, generation.max_tokens)


def _answered(item: Item, model: MedGemma, asked: Asked, completions: Sequence[Completion]) -> Output:
    try:
        replies = [model.asking.reply(asked, completion) for completion in completions]
    except ValueError as fault:
        return _failed(item, model.identity, fault)
    return Output(
        item.item_id,
        item_sha256(item),
        model.identity,
        text=replies[0].text,
        thinking=replies[0].thinking or "",
        samples=tuple(reply.text for reply in replies) if len(replies) > 1 else (),
        tokens=sum(reply.tokens for reply in replies),
        n_cut=sum(reply.finish_reason == "length" for reply in replies),
    )


def _failed(item: Item, identity: str, fault: BaseException) -> Output:
    reason = " ".join(str(fault).split()) or type(fault).__name__
    return Output(item.item_id, item_sha256(item), identity, error=reason)
