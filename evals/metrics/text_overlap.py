"""ROUGE-L: how much of a text comes again in order."""

import re
from collections.abc import Sequence

ROUGE_TOKENISATION = "lower case, runs of a-z and 0-9, no stemming"
"""As the package rouge-score without its stemmer; name it beside the value."""


def rouge_l_f1(prediction: str, reference: str) -> float:
    """Return the F measure (beta 1) of ROUGE-L over ROUGE_TOKENISATION, 0 to 1.

    Precision and recall are the length of the longest common subsequence over the number of tokens of the prediction
    and of the reference; the text is one sequence, line ends among the white space (this is rougeL, not rougeLsum).

    Returns:
        0 if either text has no token (also if both have none), as rouge-score has it.

    Source: Lin, ROUGE, ACL workshop 2004; rouge-score 0.1.2 (Google). The MedGemma 1.5 report's ROUGE does not name
        its variant.
    """
    predicted, expected = rouge_tokens(prediction), rouge_tokens(reference)
    if not predicted or not expected:
        return 0.0
    return 2 * longest_common_subsequence(predicted, expected) / (len(predicted) + len(expected))


def rouge_tokens(text: str) -> list[str]:
    """Split as ROUGE_TOKENISATION says."""
    return re.findall(r"[a-z0-9]+", text.lower())


def longest_common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Return its length."""
    row = [0] * (len(second) + 1)
    for token in first:
        diagonal = 0
        for place, other in enumerate(second, start=1):
            above = row[place]
            row[place] = diagonal + 1 if token == other else max(above, row[place - 1])
            diagonal = above
    return row[-1]
