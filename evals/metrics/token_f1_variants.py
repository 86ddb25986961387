"""The other "F1"s of short answers in circulation, each under the name of where it comes from.

None of them is `answers.token_f1_squad`, and no two agree on every pair; a figure without its name cannot be compared.
They are here to reproduce what others report. All take one pair and return 0 to 1.
"""

import re
import string
from collections import Counter
from collections.abc import Collection

from evals.metrics.answers import ARTICLES

_PUNCTUATION = str.maketrans("", "", string.punctuation)

_LLAVA_MED_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_LLAVA_MED_NUMBERS = {"none": "0", "zero": "0"} | {
    word: str(number)
    for number, word in enumerate(("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"), 1)
}
_LLAVA_MED_CONTRACTED = {
    word: word[: -len(end)] + "'" + end
    for end, words in {
        "t": "aint arent cant couldnt didnt doesnt dont hadnt hasnt havent isnt mightnt mustnt neednt oughtnt shant "
        "shouldnt wasnt werent wont wouldnt",
        "ve": "couldve mightve mustve shouldve weve whatve whove wouldve youve theyve",
        "s": "hes hows thats theres whats wheres whos whys",
        "d": "hed howd itd theyd whered whod youd",
        "ll": "howll itll theyll whatll wholl whyll youll",
        "re": "theyre whatre youre",
    }.items()
    for word in words.split()
}


def token_f1_llava_med(prediction: str, reference: str) -> float:
    """Return LLaVA-Med's `f1`: harmonic mean of its precision and recall over words after VQA normalisation.

    Every occurrence in the prediction of a word that the reference has too is a hit, so repeating a right word raises
    precision. 0 if either is empty after normalisation.

    Source: `calculate_f1score` and `normalize_word` of microsoft/LLaVA-Med, llava/eval/eval_metrics. Contractions with
        two apostrophes ("couldn't've"), and the table's few wrong entries, are not reproduced.
    """
    hits, predicted, missed = _llava_med_overlap(prediction, reference)
    return 2 * hits / (predicted + hits + missed) if hits else 0.0


def token_recall_llava_med(prediction: str, reference: str) -> float:
    """Return LLaVA-Med's `recall`, its figure for open questions: hits over hits plus words of the reference missed.

    Hits are counted in the prediction (see `token_f1_llava_med`), so a long answer that repeats a right word gains.
    0 if either is empty after normalisation. Lingshu and others follow it for open questions.
    """
    hits, _, missed = _llava_med_overlap(prediction, reference)
    return hits / (hits + missed) if hits else 0.0


def token_f1_med_gemini(prediction: str, reference: str) -> float:
    """Return a reading of the "tokenised F1" of Med-Gemini and MedGemma: SQuAD's, with the articles kept.

    Lower case, ASCII punctuation dropped, split at white space, multiset overlap. The papers (arXiv:2404.18416,
    arXiv:2405.03162, arXiv:2507.05201) publish no tokenisation, so this is a reading, not a reproduction. 1 if both are
    empty after normalisation, 0 if only one is.
    """
    predicted, expected = (text.lower().translate(_PUNCTUATION).split() for text in (prediction, reference))
    if not predicted or not expected:
        return float(predicted == expected)
    return 2 * (Counter(predicted) & Counter(expected)).total() / (len(predicted) + len(expected))


def set_f1_medevalkit(prediction: str, reference: str) -> float:
    """Return the F1 that MedEvalKit (Lingshu) computes: overlap of the sets of lower-cased words.

    Punctuation stays ("lobe." is not "lobe"). 0 if either is empty.

    Source: `calculate_f1` of alibaba-damo-academy/MedEvalKit, utils/utils.py.
    """
    shared, predicted, expected = _set_overlap(prediction.lower().split(), reference.lower().split())
    return 2 * shared / (predicted + expected) if shared else 0.0


def reported_f1_medevalkit(prediction: str, reference: str) -> float:
    """Return what MedEvalKit's tables call `f1`: the recall of the same sets.

    `calculate_f1` returns (f1, precision, recall) and its caller unpacks (precision, recall, f1). "the left lung"
    against "left lung" is reported as 1. 0 if either is empty.

    Source: `judge_open_end_vqa` of alibaba-damo-academy/MedEvalKit, utils/utils.py.
    """
    shared, _, expected = _set_overlap(prediction.lower().split(), reference.lower().split())
    return shared / expected if shared else 0.0


def token_f1_inspect(prediction: str, reference: str) -> float:
    """Return inspect_ai's `f1` of one target, rounded to two decimals as there.

    Sets of tokens, split at spaces and hyphens, case-folded, numbers made alike ("2" is "2.0"), punctuation dropped
    from all else, articles dropped. An empty prediction has precision 1 and recall 0, so F1 0; 0 if the target is
    empty or begins with a space; 1 if neither has a token but the target is not empty ("the").

    Source: `compute_f1` and `max_f1_score` of inspect_ai/scorer/_classification.py.
    """
    if not reference[:1].strip():
        return 0.0
    shared, predicted, expected = _set_overlap(_inspect_tokens(prediction), _inspect_tokens(reference))
    precision = shared / predicted if predicted else 1.0
    recall = shared / expected if expected else 1.0
    return round(2 * precision * recall / (precision + recall), 2) if precision + recall else 0.0


def _llava_med_overlap(prediction: str, reference: str) -> tuple[int, int, int]:
    """Return hits, words predicted, and words of the reference missed, all with repeats; zeros if either is empty."""
    predicted, expected = Counter(_llava_med_words(prediction)), Counter(_llava_med_words(reference))
    if not predicted or not expected:
        return 0, 0, 0
    hits = sum(count for word, count in predicted.items() if word in expected)
    missed = sum(count for word, count in expected.items() if word not in predicted)
    return hits, predicted.total(), missed


def _llava_med_words(text: str) -> list[str]:
    """Return the words after the normalisation of the VQA challenge, as LLaVA-Med applies it.

    A mark beside a space goes, another becomes a space, all go if a comma stands between digits; full stops go but
    before a digit; number words become digits; articles go; contractions get their apostrophe.
    """
    comma_in_number = re.search(r"\d,\d", text) is not None
    bare = text
    for mark in _LLAVA_MED_MARKS:
        goes = mark + " " in text or " " + mark in text or comma_in_number
        bare = bare.replace(mark, "" if goes else " ")
    words = [_LLAVA_MED_NUMBERS.get(word, word) for word in re.sub(r"\.(?!\d)", "", bare).lower().split()]
    return [_LLAVA_MED_CONTRACTED.get(word, word) for word in words if word not in ARTICLES]


def _inspect_tokens(text: str) -> list[str]:
    tokens = [_inspect_token(token) for token in re.split("[ -]", text)]
    return " ".join(tokens).split()


def _inspect_token(token: str) -> str:
    folded = token.casefold()
    try:
        return str(float(folded))
    except ValueError:
        bare = folded.translate(_PUNCTUATION)
    try:
        return str(float(bare))
    except ValueError:
        return re.sub(r"\b(a|an|the)\b", " ", bare)


def _set_overlap(predicted: Collection[str], expected: Collection[str]) -> tuple[int, int, int]:
    """Return the sizes of the intersection and of both sets."""
    first, second = set(predicted), set(expected)
    return len(first & second), len(first), len(second)
