"""What every scorer by name goes through: answers checked, pairs asked once, no language that it does not know.

What goes wrong is a ScorerFailed that names the scorer. Nothing is scored in place of an answer that did not come.
"""

from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotInTime

from medgemma.entailment.languages import other_language
from medgemma.entailment.scores import Entailment, Pair, Scorer, ScorerFailed, demand_probabilities

KEPT = 100_000
"""Pairs whose answers a cached scorer holds; the one that was asked for longest ago goes first."""


def guarded(scorer: Scorer, name: str, limit_s: float | None = None) -> Scorer:
    """Return a scorer that answers as the given one, or fails by name.

    Args:
        scorer: What answers.
        name: What errors call it.
        limit_s: Seconds that one call may take; its thread is left behind. No limit if None.

    Returns:
        A scorer. It raises ScorerFailed if the given one is not reached (OSError), is slow, or answers what are not
        three probabilities a pair.
    """

    def answer(pairs: Sequence[Pair]) -> list[Entailment]:
        try:
            answers = scorer(pairs) if limit_s is None else _within(scorer, pairs, limit_s)
        except NotInTime as error:
            raise ScorerFailed(f"{name} gave no answer on {len(pairs)} pairs within {limit_s:g} s") from error
        except OSError as error:
            raise ScorerFailed(f"{name} is not to be reached: {error}") from error
        return demand_probabilities(answers, len(pairs), name)

    return answer


def cached(scorer: Scorer, kept: int = KEPT) -> Scorer:
    """Return a scorer that puts each pair to the given one once, and equal pairs of one call together.

    Args:
        scorer: Deterministic.
        kept: Pairs whose answers are held.
    """
    answers: OrderedDict[Pair, Entailment] = OrderedDict()

    def answer(pairs: Sequence[Pair]) -> list[Entailment]:
        unknown = [pair for pair in dict.fromkeys(pairs) if pair not in answers]
        found = {pair: answers[pair] for pair in pairs if pair in answers}
        found.update(zip(unknown, scorer(unknown) if unknown else [], strict=True))
        for pair in found:
            answers[pair] = found[pair]
            answers.move_to_end(pair)
        while len(answers) > kept:
            answers.popitem(last=False)
        return [found[pair] for pair in pairs]

    return answer


def in_english(scorer: Scorer, name: str) -> Scorer:
    """Return a scorer that refuses texts that `languages.other_language` finds in another language."""

    def answer(pairs: Sequence[Pair]) -> list[Entailment]:
        for place, pair in enumerate(pairs):
            for text, what in zip(pair, ("premise", "hypothesis"), strict=True):
                if language := other_language(text):
                    raise ScorerFailed(f"{name} reads English; the {what} of pair {place} is in {language}")
        return scorer(pairs)

    return answer


def _within(scorer: Scorer, pairs: Sequence[Pair], limit_s: float) -> list[Entailment]:
    pool = ThreadPoolExecutor(1, thread_name_prefix="scorer")
    try:
        return pool.submit(scorer, pairs).result(limit_s)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
