"""Comparing a short answer with its reference. Each function takes one pair and returns 0 to 1.

Other projects' "F1"s of the same pairs are in token_f1_variants.py, under their own names.
"""

import re
import string
from collections import Counter
from typing import Literal

ARTICLES = frozenset(("a", "an", "the"))

_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> str:
    """Lower-case, drop ASCII punctuation and the articles a, an, the, and squeeze white space.

    Source: `normalize_answer` of the SQuAD v1.1 evaluation script (Rajpurkar et al. 2016).
    """
    bare = text.lower().translate(_PUNCTUATION)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def exact_match_raw(prediction: str, reference: str) -> float:
    """Return 1 if both are equal character for character, case, punctuation and white space included, else 0.

    Two empty texts are equal.
    """
    return float(prediction == reference)


def exact_match_norm(prediction: str, reference: str) -> float:
    """Return 1 if both are equal after `normalise`, else 0; two texts that `normalise` empties are equal.

    Source: `exact_match_score` of the SQuAD v1.1 evaluation script.
    """
    return float(normalise(prediction) == normalise(reference))


def token_f1_squad(prediction: str, reference: str) -> float:
    """Return the harmonic mean of precision and recall over the multisets of normalised tokens.

    0 if they share no token; 1 if both are empty after `normalise`, 0 if only one is.

    Source: `f1_score` of the SQuAD v1.1 evaluation script (Rajpurkar et al. 2016); empty answers as in v2.0.
    """
    predicted, expected = normalise(prediction).split(), normalise(reference).split()
    if not predicted or not expected:
        return float(predicted == expected)
    shared = _shared(predicted, expected)
    return 2 * shared / (len(predicted) + len(expected))


def token_recall(prediction: str, reference: str) -> float:
    """Return the share of the reference's normalised tokens (a multiset) that the prediction holds.

    1 if the reference is empty after `normalise`. A long prediction can only gain: read it beside token F1.
    """
    predicted, expected = normalise(prediction).split(), normalise(reference).split()
    return _shared(predicted, expected) / len(expected) if expected else 1.0


def yes_or_no(text: str) -> Literal["yes", "no"] | None:
    """Return which of yes and no an answer says.

    Its first word if that is yes or no ("No, the lungs are clear"), else the one of the two that occurs
    anywhere ("there is no effusion"); None if neither or both occur.
    """
    words = normalise(text).split()
    said = set(words[:1]) & {"yes", "no"} or set(words) & {"yes", "no"}
    if said == {"yes"}:
        return "yes"
    return "no" if said == {"no"} else None


def yes_no_match(prediction: str, reference: str) -> float:
    """Grade a yes/no question: 1 if `yes_or_no` of the prediction is the reference, else 0.

    An answer that says neither or both is wrong, and stays in n: the mean is the closed accuracy. A model that always
    says yes gets exactly the share of yes.

    Raises:
        ValueError: The reference is neither yes nor no.
    """
    expected = normalise(reference)
    if expected not in ("yes", "no"):
        raise ValueError(f"got the reference {reference!r}; expected yes or no")
    return float(yes_or_no(prediction) == expected)


def closed_match(prediction: str, reference: str) -> float:
    """Grade a closed question: 1 or 0.

    A reference of yes or no is compared by `yes_no_match`, another one by `exact_match_norm`.
    """
    if normalise(reference) in ("yes", "no"):
        return yes_no_match(prediction, reference)
    return exact_match_norm(prediction, reference)


def _shared(predicted: list[str], expected: list[str]) -> int:
    return (Counter(predicted) & Counter(expected)).total()
