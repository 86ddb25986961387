"""Answers and likelihoods of a model on this machine, through its engine.

Items are handed over some ahead of those that are computed, so that the engine can compute what several prompts begin
with once (the picture, the worked examples); outputs come as they are finished.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice

from evals.generation import Generation
from evals.items import Item, item_sha256
from evals.outputs import Output
from medgemma import MedGemma
from medgemma.asking import Asked, Asking
from medgemma.chat import Prompts, tokenize, user_message
from medgemma.engine import Completion, Request, Sampling

ITEMS_AHEAD = 48
"""Submitted and not finished; the engine decodes 32 samples together."""
SCORED_TOGETHER = 16


def asking_of(model: MedGemma) -> Asking:
    """Return how a model is asked."""
    prompts = Prompts(model.tokenizer, model.image_tokens, model.max_tokens, model.name)
    return Asking(prompts, int(model.model.get_output_embeddings().weight.shape[0]), model.stop_ids)


def answer_on_engine(items: Sequence[Item], model: MedGemma, generation: Generation) -> Iterator[Output]:
    """Generate an answer (or several draws) for every item, as they are finished.

    An item whose picture is bad or whose prompt does not fit fails alone, by its reason.

    Raises:
        ValueError: The model is to think and cannot.
    """
    asking, engine = asking_of(model), model.engine
    if generation.thinking and asking.markers is None:
        raise ValueError(f"{model.name} has no thinking tokens and cannot think; run it without --thinking-tokens")
    todo = iter(items)
    asked: dict[int, tuple[Item, Asked]] = {}
    samples: dict[int, dict[int, Completion]] = {}
    last = time.perf_counter()

    def lap_s() -> float:
        nonlocal last
        before, last = last, time.perf_counter()
        return round(last - before, 4)

    try:
        while True:
            for item in islice(todo, max(0, ITEMS_AHEAD - len(asked))):
                try:
                    one = _asked(item, asking, generation)
                    ticket = engine.submit(one.request)
                except (ValueError, OSError) as fault:
                    yield replace(_failed(item, model.fingerprint, fault), seconds=lap_s())
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
                    output = _answered(item, model.fingerprint, asking, one, [drawn[i] for i in sorted(drawn)])
                    yield replace(output, seconds=lap_s())
    finally:
        for ticket in asked:
            engine.cancel(ticket)
        if asked:
            engine.step()  # reports the cancelled ones, to nobody


def score_on_engine(items: Sequence[Item], model: MedGemma) -> Iterator[Output]:
    """Give every continuation of `Item.choices` its log-likelihood behind the prompt, which is plain text, no chat.

    Where prompt and continuation meet, the tokens are cut as lm-evaluation-harness does: those of the prompt alone are
    taken off the tokens of both together, and white space at the end of a prompt goes to the continuation.
    """
    for start in range(0, len(items), SCORED_TOGETHER):
        batch = items[start : start + SCORED_TOGETHER]
        began = time.perf_counter()
        try:
            outputs = _scored(batch, model)
        except (ValueError, OSError):
            outputs = [output for item in batch for output in _scored_alone(item, model)]
        seconds = round((time.perf_counter() - began) / len(batch), 4)
        yield from (replace(output, seconds=seconds) for output in outputs)


def continuation(tokenizer: object, prompt: str, choice: str) -> tuple[str, list[int]]:
    """Return the text before a continuation and the continuation's tokens.

    Source: lm-evaluation-harness, `TemplateLM._encode_pair`.
    """
    kept = prompt.rstrip()
    whole = tokenizer(kept + prompt[len(kept) :] + choice, add_special_tokens=False).input_ids  # type: ignore[operator]
    before = tokenizer(kept, add_special_tokens=False).input_ids  # type: ignore[operator]
    return kept, list(whole[len(before) :])


def _asked(item: Item, asking: Asking, generation: Generation) -> Asked:
    from medsiglip.imaging import open_pictures

    pictures = list(open_pictures(item.files))
    system = [{"role": "system", "content": generation.system}] if generation.system else []
    sampling = Sampling(
        max_new_tokens=generation.max_tokens,
        temperature=generation.temperature,
        seed=generation.seed,
        num_samples=generation.n_samples,
    )
    messages = [*system, user_message(item.prompt, len(pictures))]
    thinking = generation.thinking_tokens if generation.thinking else None
    return asking.asked(messages, pictures, sampling, thinking=thinking)


def _answered(item: Item, fingerprint: str, asking: Asking, asked: Asked, completions: Sequence[Completion]) -> Output:
    try:
        replies = [asking.reply(asked, completion) for completion in completions]
    except ValueError as fault:
        return _failed(item, fingerprint, fault)
    return Output(
        item.item_id,
        item_sha256(item),
        fingerprint,
        text=replies[0].text,
        thinking=replies[0].thinking or "",
        samples=tuple(reply.text for reply in replies) if len(replies) > 1 else (),
        tokens=sum(reply.tokens for reply in replies),
        n_cut=sum(reply.finish_reason == "length" for reply in replies),
    )


def _scored(items: Sequence[Item], model: MedGemma) -> list[Output]:
    requests = []
    for item in items:
        if item.files:
            raise ValueError("choices are scored behind text alone; the item has pictures")
        pairs = [continuation(model.tokenizer, item.prompt, choice) for choice in item.choices]
        prompt = tokenize(model.tokenizer, model.image_tokens, (model.tokenizer.bos_token or "") + pairs[0][0])
        requests.append((Request(prompt), [tokens for _, tokens in pairs]))
    found = model.engine.score_choices(requests)
    return [
        Output(
            item.item_id, item_sha256(item), model.fingerprint, log_likelihoods=tuple(score.logprob for score in scores)
        )
        for item, scores in zip(items, found, strict=True)
    ]


def _scored_alone(item: Item, model: MedGemma) -> list[Output]:
    try:
        return _scored([item], model)
    except (ValueError, OSError) as fault:
        return [_failed(item, model.fingerprint, fault)]


def _failed(item: Item, fingerprint: str, fault: BaseException) -> Output:
    reason = " ".join(str(fault).split()) or type(fault).__name__
    return Output(item.item_id, item_sha256(item), fingerprint, error=reason)
