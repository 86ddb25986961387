"""Putting items to a model. A bad picture fails its own item only, by name; the others are answered."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from evals.generation import Generation
from evals.items import Item, item_sha256
from evals.outputs import Output
from medgemma.endpoint import Endpoint, EndpointFault, EndpointRefused
from medsiglip.zero_shot import Embedder, ZeroShotClassifier

PICTURES_PER_BATCH = 32
LIKE_BEGINNING_CHARACTERS = 200
MAX_FAULTS_IN_A_ROW = 50
"""So many items without an answer, one after another, and a server is taken to be down."""


class Answer(Protocol):
    """One answer of an Answerer."""

    @property
    def text(self) -> str:
        """The answer without thinking or special tokens."""

    @property
    def thinking(self) -> str | None:
        """The thoughts before it."""

    @property
    def tokens(self) -> int:
        """Generated."""

    @property
    def finish_reason(self) -> str:
        """`length` for an answer that was cut."""


class Answerer(Protocol):
    """What answers prompts with pictures, greedily; any wrapper of a model can."""

    @property
    def fingerprint(self) -> str:
        """Of the weights."""

    @property
    def identity(self) -> str:
        """What answers depend on; outputs of another one are not taken for its own."""

    def ask_each(
        self, requests: Sequence[tuple[Sequence[str | Path], str]], *, max_new_tokens: int
    ) -> Iterator[Answer]:
        """Answer (pictures, prompt) requests in order."""


def refuse_items(items: Sequence[Item], identity: str) -> Iterator[Output]:
    """Fail the items that cannot be asked, by their reason."""
    clock = _Clock()
    return (_output(item, identity, clock, error=item.fault) for item in items if item.fault)


def side_by_side(items: Sequence[Item]) -> list[Item]:
    """Put items with the same pictures beside each other, and among those the prompts that begin alike.

    What comes before the question is then computed once. Pictures keep the order in which they first come, so that a
    run that is stopped has seen a fair sample of them.
    """
    alike: dict[tuple[str, ...], dict[str, list[Item]]] = defaultdict(lambda: defaultdict(list))
    for item in items:
        alike[item.files][item.prompt[:LIKE_BEGINNING_CHARACTERS]].append(item)
    return [item for of_pictures in alike.values() for together in of_pictures.values() for item in together]


def answer_items(items: Sequence[Item], model: Answerer, generation: Generation) -> Iterator[Output]:
    """Generate an answer for every item, in order.

    When a picture in a batch is bad, the item in turn is asked alone, so that the right one is named.

    Raises:
        ValueError: The settings want more than greedy answers without a system turn.
    """
    if not generation.is_greedy or generation.system_turn:
        raise ValueError("this model answers greedily and takes no system turn; run it without draws and thinking")
    clock = _Clock()
    start = 0
    while start < len(items):
        requests = [(item.files, item.prompt) for item in items[start:]]
        try:
            answers = model.ask_each(requests, max_new_tokens=generation.max_new_tokens)
            for item, answer in zip(items[start:], answers, strict=False):
                yield _answered(item, model.identity, clock, [answer])
                start += 1
            assert start == len(items), f"the model gave {start} answers to {len(items)} items"
        except (ValueError, OSError):
            yield _answer_alone(items[start], model, generation, clock)
            start += 1


def answer_on_server(
    items: Sequence[Item], server: Endpoint, generation: Generation, concurrency: int
) -> Iterator[Output]:
    """Have a server answer every item, `concurrency` at a time; outputs come as they are finished.

    Raises:
        EndpointRefused: The server refuses all, or MAX_FAULTS_IN_A_ROW items got no answer.
    """
    clock = _Clock()
    faults_in_a_row = 0
    pending = iter(items)
    asked: dict[Future[Output], Item] = {}
    pool = ThreadPoolExecutor(concurrency, thread_name_prefix="endpoint")
    try:
        while True:
            for item in pending:
                asked[pool.submit(_answer_on_server, item, server, generation)] = item
                if len(asked) >= concurrency:
                    break
            if not asked:
                return
            for future in wait(asked, return_when=FIRST_COMPLETED).done:
                del asked[future]
                output = future.result()
                if output.attempts:  # a picture that cannot be read says nothing of the server
                    faults_in_a_row = faults_in_a_row + 1 if output.error else 0
                yield replace(output, seconds=clock.lap_s())
            if faults_in_a_row >= MAX_FAULTS_IN_A_ROW:
                raise EndpointRefused(
                    f"{server.url}: {faults_in_a_row} items in a row got no answer, the last: {output.error}; "
                    "mend the server and run again: what was answered is kept"
                )
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


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
            outputs.append(_output(item, model.identity, clock, text=best, probabilities=named))
        return outputs

    for start in range(0, len(items), PICTURES_PER_BATCH):
        batch = items[start : start + PICTURES_PER_BATCH]
        try:
            yield from classify(batch)
        except (ValueError, OSError):
            for item in batch:
                yield _classify_alone(item, classify, model.identity, clock)


class _Clock:
    """Seconds since it was last asked."""

    def __init__(self) -> None:
        self._last = time.perf_counter()

    def lap_s(self) -> float:
        now = time.perf_counter()
        self._last, passed = now, now - self._last
        return passed


def _answer_alone(item: Item, model: Answerer, generation: Generation, clock: _Clock) -> Output:
    try:
        answers = list(model.ask_each([(item.files, item.prompt)], max_new_tokens=generation.max_new_tokens))
        return _answered(item, model.identity, clock, answers)
    except (ValueError, OSError) as fault:
        return _output(item, model.identity, clock, error=_one_line(fault))


def _answer_on_server(item: Item, server: Endpoint, generation: Generation) -> Output:
    attempts, replies = 0, []
    try:
        for sample in range(generation.n_samples):
            replies.append(
                server.answer(
                    item.files, item.prompt, generation.sampling, system=generation.system_turn, sample=sample
                )
            )
            attempts += replies[-1].attempts
    except EndpointRefused:
        raise
    except (ValueError, OSError) as fault:
        attempts += fault.attempts if isinstance(fault, EndpointFault) else 0
        return _output(item, server.identity, _Clock(), error=_one_line(fault), attempts=attempts)
    return replace(_answered(item, server.identity, _Clock(), replies), attempts=attempts)


def _answered(item: Item, identity: str, clock: _Clock, answers: Sequence[Answer]) -> Output:
    """Put all draws of one item into an output."""
    return _output(
        item,
        identity,
        clock,
        text=answers[0].text,
        thinking=answers[0].thinking or "",
        samples=tuple(answer.text for answer in answers) if len(answers) > 1 else (),
        tokens=sum(answer.tokens for answer in answers),
        n_cut=sum(answer.finish_reason == "length" for answer in answers),
    )


def _classify_alone(
    item: Item, classify: Callable[[Sequence[Item]], list[Output]], identity: str, clock: _Clock
) -> Output:
    try:
        return classify([item])[0]
    except (ValueError, OSError) as fault:
        return _output(item, identity, clock, error=_one_line(fault))


def _output(item: Item, model: str, clock: _Clock, **fields: Any) -> Output:
    return Output(item.item_id, item_sha256(item), model, seconds=round(clock.lap_s(), 4), **fields)


def _one_line(fault: BaseException) -> str:
    return " ".join(str(fault).split()) or type(fault).__name__
