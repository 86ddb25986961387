"""What a reward for support cannot see: how an answer earns by saying little, the same, or another's words.

A source supports "No acute abnormality." nearly always, and supports its own sentences always. So each guard says how
much of that an answer does, 0 for none to 1 for all; a weight below zero makes it cost: `Reward(repetition, -1.0)`.
`coverage`, `density` and `words` are measures to be logged, with weight 0.

Source: Grusky et al., Newsroom, arXiv:1804.11283 (2018), section 4: extractive fragments, coverage, density.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any

from evals.metrics.text_overlap import rouge_tokens
from finetune.on_policy.rewards import RewardFunction
from finetune.rewards.texts import text_of
from medgemma.entailment.sentences import sentences

NGRAM = 3
"""Words of what counts as said again."""


def length(fewest: int, most: int) -> RewardFunction:
    """Guard of answers shorter or longer than so many words: the share that is missing, or that is too much."""
    if not 0 < fewest <= most:
        raise ValueError(f"length guard: from {fewest} to {most} words; expected above 0, and the second no smaller")

    def length(completions: Sequence[Any], **_: Any) -> list[float]:
        return [_outside(len(words_of(said)), fewest, most) for said in completions]

    return length


def copying(longest: int) -> RewardFunction:
    """Guard of answers that are the source: the share of their words in fragments of it of more than `longest` words.

    The source is the column `premise`.
    """

    def copying(completions: Sequence[Any], premise: Sequence[str], **_: Any) -> list[float]:
        pairs = zip(completions, premise, strict=True)
        return [_copied(words_of(said), rouge_tokens(source), longest) for said, source in pairs]

    return copying


def repetition(completions: Sequence[Any], **_: Any) -> list[float]:
    """Guard of answers that repeat themselves: the share of their runs of three words that they have said before."""
    return [_repeated(words_of(said)) for said in completions]


def empty(completions: Sequence[Any], **_: Any) -> list[float]:
    """Guard of answers without a word: 1."""
    return [float(not words_of(said)) for said in completions]


def boilerplate(phrases: Collection[str], has_findings: Callable[[str], bool]) -> RewardFunction:
    """Guard of answers whose every sentence is one of `phrases`, of a source that has findings to tell: 1.

    Args:
        phrases: such as the commonest impressions of the training side; case and punctuation do not matter.
        has_findings: of a source, the column `premise`; where it has none such a phrase is right.
    """
    known = {" ".join(rouge_tokens(part)) for phrase in phrases for part in sentences(phrase)}

    def boilerplate(completions: Sequence[Any], premise: Sequence[str], **_: Any) -> list[float]:
        said = [[" ".join(rouge_tokens(part)) for part in sentences(text_of(one))] for one in completions]
        return [
            float(bool(parts) and all(part in known for part in parts) and has_findings(source))
            for parts, source in zip(said, premise, strict=True)
        ]

    return boilerplate


def coverage(completions: Sequence[Any], premise: Sequence[str], **_: Any) -> list[float]:
    """Share of an answer's words in fragments of the source (eq. 1), 0..1; 0 of an answer without a word."""
    return [_of_fragments(said, source, 1) for said, source in zip(completions, premise, strict=True)]


def density(completions: Sequence[Any], premise: Sequence[str], **_: Any) -> list[float]:
    """Mean length of the fragment that a word belongs to (eq. 2), 0 to the answer's length in words."""
    return [_of_fragments(said, source, 2) for said, source in zip(completions, premise, strict=True)]


def words(completions: Sequence[Any], **_: Any) -> list[float]:
    """How many words an answer has."""
    return [float(len(words_of(said))) for said in completions]


def words_of(completion: Any) -> list[str]:
    """Of what a completion says, in lower case."""
    return rouge_tokens(text_of(completion))


def fragments(said: Sequence[str], source: Sequence[str]) -> list[int]:
    """Lengths in words of the longest runs that an answer shares with its source, greedily from left to right."""
    found, start = [], 0
    while start < len(said):
        longest = 0
        for place in range(len(source)):
            run = 0
            while start + run < len(said) and place + run < len(source) and said[start + run] == source[place + run]:
                run += 1
            longest = max(longest, run)
        if longest:
            found.append(longest)
        start += max(longest, 1)
    return found


def _of_fragments(completion: Any, source: str, power: int) -> float:
    said = words_of(completion)
    return sum(run**power for run in fragments(said, rouge_tokens(source))) / len(said) if said else 0.0


def _copied(said: Sequence[str], source: Sequence[str], longest: int) -> float:
    return sum(run for run in fragments(said, source) if run > longest) / len(said) if said else 0.0


def _outside(count: int, fewest: int, most: int) -> float:
    return max(0.0, 1 - count / fewest) if count < fewest else max(0.0, 1 - most / count)


def _repeated(said: Sequence[str]) -> float:
    runs = [tuple(said[place : place + NGRAM]) for place in range(len(said) - NGRAM + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0
