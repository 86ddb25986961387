"""Entailment between texts about chest films by rules over findings: the same answer every time, within milliseconds.

    rule_nli([("No pneumothorax. Small left effusion.", "There is a right effusion.")])[0].label    # "contradiction"

The rules know negation, doubt, side and zone, size and change of some seventy findings of a chest film, in English.
What a hypothesis says beyond them must stand in the premise in the same words; else it is neutral. docs/entailment.md
has how often they are right.
"""

import re
from collections.abc import Sequence

from medgemma.entailment.chest.comparing import said_of
from medgemma.entailment.chest.findings import Finding, findings_of, stems, unread_words
from medgemma.entailment.scores import Entailment, Label, Pair
from medgemma.entailment.sentences import sentences

PROBABILITIES: dict[Label, Entailment] = {
    "entailment": Entailment(0.9, 0.08, 0.02),
    "neutral": Entailment(0.1, 0.8, 0.1),
    "contradiction": Entailment(0.02, 0.08, 0.9),
}
"""What a label of the rules is worth."""


def rule_nli(pairs: Sequence[Pair]) -> list[Entailment]:
    """Return one answer a pair; of a hypothesis of several sentences, the whole: entailed only if every sentence is.

    Args:
        pairs: Premise and hypothesis, English text about chest films.
    """
    return [PROBABILITIES[rule_label(premise, hypothesis)] for premise, hypothesis in pairs]


def rule_label(premise: str, hypothesis: str) -> Label:
    """Return what the rules say of a pair; a hypothesis without a sentence is neutral."""
    known, words = findings_of(premise), stems(premise)
    whole = {_plain(sentence) for sentence in sentences(premise)}
    verdicts: list[Label] = []
    for sentence in sentences(hypothesis):
        verdicts.append("entailment" if _plain(sentence) in whole else _of_sentence(known, words, sentence))
    if "contradiction" in verdicts:
        return "contradiction"
    return "entailment" if verdicts and set(verdicts) == {"entailment"} else "neutral"


def _of_sentence(known: Sequence[Finding], words: frozenset[str], sentence: str) -> Label:
    asked = findings_of(sentence)
    verdicts = [said_of(finding, known) for finding in asked]
    if "contradiction" in verdicts:
        return "contradiction"
    says_more = unread_words(sentence) - words
    return "neutral" if not verdicts or "neutral" in verdicts or says_more else "entailment"


def _plain(sentence: str) -> str:
    return " ".join(re.findall(r"[\w.]+", sentence.lower())).rstrip(".")
