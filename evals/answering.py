"""Putting items to a model. A bad picture fails its own item only, by name; the others are answered."""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from evals.items import Item, item_sha256
from evals.outputs import Output
from medsiglip.zero_shot import Embedder, ZeroShotClassifier

PICTURES_PER_BATCH = 32


class Answer(Protocol):
    """One answer of an Answerer."""

    @property
    def text(self) -> str:
        """The answer without thinking or special tokens."""


class Answerer(Protocol):
    """What answers prompts with pictures; medgemma.MedGemma does."""

    @property
    def fingerprint(self) -> str:
        """Identity of the weights."""

    def ask_each(
        self, requests: Sequence[tuple[Sequence[str | Path], str]], *, max_new_tokens: int
    ) -> Iterator[Answer]:
        """Answer (pictures, prompt) requests in order."""


def refuse_items(items: Sequence[Item], fingerprint: str) -> Iterator[Output]:
    """Fail the items that cannot be asked, by their reason."""
    clock = _Clock()
    return (_output(item, fingerprint, clock, error=item.fault) for item in items if item.fault)


def answer_items(items: Sequence[Item], model: Answerer, max_new_tokens: int) -> Iterator[Output]:
    """Generate an answer for every item, in order.

    When a picture in a batch is bad, the item in turn is asked alone, so that the right one is named.
    """
    clock = _Clock()
    start = 0
    while start < len(items):
        requests = [(item.files, item.prompt) for item in items[start:]]
        try:
            answers = model.ask_each(requests, max_new_tokens=max_new_tokens)
            for item, answer in zip(items[start:], answers, strict=False):
                yield _output(item, model.fingerprint, clock, text=answer.text)
                start += 1
            assert start == len(items), f"the model gave {start} answers to {len(items)} items"
        except (ValueError, OSError):
            yield _answer_alone(items[start], model, max_new_tokens, clock)
            start += 1


def classify_items(items: Sequence[Item], model: Embedder, class_prompts: dict[str, list[str]]) -> Iterator[Output]:
    """Classify the picture of every item, in order.

    Source: MedGemma technical report (arXiv:2507.05201), section 6, zero-shot protocol of MedSigLIP.
    """
    clock = _Clock()
    classifier = ZeroShotClassifier(model, class_prompts)

    def classify(batch: Sequence[Item]) -> list[Output]:
        images = model.encode_images([file for item in batch for file in item.files])
        if len(images) != len(batch):
            raise ValueError(f"got {len(images)} pictures for {len(batch)} items; expected files of one frame each")
        outputs = []
        for item, row in zip(batch, classifier.classify_vectors(images).probabilities, strict=True):
            named = {label: float(p) for label, p in zip(classifier.labels, row, strict=True)}
            best = max(named, key=named.__getitem__)
            outputs.append(_output(item, model.fingerprint, clock, text=best, probabilities=named))
        return outputs

    for start in range(0, len(items), PICTURES_PER_BATCH):
        batch = items[start : start + PICTURES_PER_BATCH]
        try:
            yield from classify(batch)
        except (ValueError, OSError):
            for item in batch:
                yield _classify_alone(item, classify, model.fingerprint, clock)


class _Clock:
    """Seconds since it was last asked."""

    def __init__(self) -> None:
        self._last = time.perf_counter()

    def lap_s(self) -> float:
        now = time.perf_counter()
        self._last, passed = now, now - self._last
        return passed


def _answer_alone(item: Item, model: Answerer, max_new_tokens: int, clock: _Clock) -> Output:
    try:
        (answer,) = list(model.ask_each([(item.files, item.prompt)], max_new_tokens=max_new_tokens))
        return _output(item, model.fingerprint, clock, text=answer.text)
    except (ValueError, OSError) as fault:
        return _output(item, model.fingerprint, clock, error=_one_line(fault))


def _classify_alone(
    item: Item, classify: Callable[[Sequence[Item]], list[Output]], fingerprint: str, clock: _Clock
) -> Output:
    try:
        return classify([item])[0]
    except (ValueError, OSError) as fault:
        return _output(item, fingerprint, clock, error=_one_line(fault))


def _output(item: Item, model: str, clock: _Clock, **fields: Any) -> Output:
    return Output(item.item_id, item_sha256(item), model, seconds=round(clock.lap_s(), 4), **fields)


def _one_line(fault: BaseException) -> str:
    return " ".join(str(fault).split()) or type(fault).__name__
