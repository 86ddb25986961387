"""The rules on sentences of their own, by what a radiologist would say of each."""

import pytest

from evals.entailment.pairs import written_pairs
from evals.stress.verdict import own_cases
from medgemma.entailment.rules import rule_label, rule_nli
from medgemma.entailment.sentences import sentences

LABELS = {"E": "entailment", "N": "neutral", "C": "contradiction"}


@pytest.mark.parametrize(
    ("premise", "hypothesis", "label"),
    [
        ("No pneumothorax or effusion.", "There is no effusion.", "E"),
        ("No pneumothorax or effusion.", "There is a pneumothorax.", "C"),
        ("No large effusion.", "There is no effusion.", "N"),
        ("No effusion.", "There is no large effusion.", "E"),
        ("Emphysema without pneumothorax.", "There is emphysema but no pneumothorax.", "E"),
        ("Effusion has resolved.", "There is an effusion.", "C"),
        ("Consolidation is not seen.", "No pneumonia.", "N"),
        ("The lungs are clear.", "No pneumonia.", "E"),
        ("The lungs are clear.", "There is no pneumothorax.", "N"),
        ("The opacity may be pneumonia.", "There is an opacity.", "E"),
        ("The opacity may be pneumonia.", "There is pneumonia.", "N"),
        ("The opacity may be pneumonia.", "Pneumonia cannot be excluded.", "E"),
        ("Atelectasis or infiltrate at the left base.", "There is an infiltrate at the left base.", "N"),
        ("No pneumonia.", "Pneumonia is possible.", "C"),
        ("Right pleural effusion.", "There is a left pleural effusion.", "C"),
        ("Right pleural effusion.", "There are bilateral pleural effusions.", "C"),
        ("Bilateral pleural effusions.", "There is a left effusion.", "E"),
        ("Pleural effusion.", "There is a left effusion.", "N"),
        ("Right effusion. No left effusion.", "There is no effusion on the left.", "E"),
        ("Nodule in the right upper lobe.", "There is a nodule in the right lower lobe.", "C"),
        ("Left nodule, and a mass in the right upper lobe.", "There is a mass in the left lung.", "C"),
        ("Effusions, right greater than left.", "The effusion is larger on the left.", "C"),
        ("Stable cardiomegaly.", "The heart is enlarged and unchanged.", "E"),
        ("Stable cardiomegaly.", "Cardiomegaly has increased.", "C"),
        ("Cardiomegaly.", "Cardiomegaly is stable.", "N"),
        ("No change in the nodule.", "The nodule is new.", "C"),
        ("Again seen is a nodule.", "The nodule is unchanged.", "N"),
        ("A 4 mm nodule.", "There is a 9 mm nodule.", "C"),
        ("A small effusion.", "A large effusion.", "C"),
        ("The heart is normal in size.", "There is cardiomegaly.", "C"),
        ("Heart size normal. Lungs clear. No effusion.", "No acute cardiopulmonary abnormality.", "E"),
        ("Heart size normal. Small effusion. Lungs clear.", "No acute cardiopulmonary abnormality.", "C"),
        ("Heart size normal.", "No acute cardiopulmonary abnormality.", "N"),
        ("There is a calcified granuloma. The lungs are otherwise clear.", "The lungs are clear.", "E"),
        ("The lungs are clear.", "The lungs are not clear.", "C"),
        ("The effusion is small.", "The effusion is small and should be drained.", "N"),
        ("A tube is seen.", "Cows eat grass.", "N"),
    ],
)
def test_what_the_rules_say(premise: str, hypothesis: str, label: str) -> None:
    assert rule_label(premise, hypothesis) == LABELS[label]


def test_a_text_is_entailed_only_if_each_sentence_is() -> None:
    premise = "No effusion. Small left pneumothorax."
    pairs = [(premise, "Left pneumothorax. No effusion."), (premise, "Left pneumothorax. No mass."), (premise, "")]
    assert [answer.label for answer in rule_nli(pairs)] == ["entailment", "neutral", "neutral"]
    [answer] = rule_nli([(premise, "Left pneumothorax. Large effusion.")])
    assert answer.label == "contradiction"
    assert answer.entailment + answer.neutral + answer.contradiction == pytest.approx(1)


def test_every_sentence_of_a_text_is_entailed_by_it() -> None:
    for case in own_cases():
        assert all(rule_label(case.report, sentence) == "entailment" for sentence in sentences(case.report))


def test_a_flipped_negation_or_side_is_never_entailed() -> None:
    """The reports with one thing wrong: what differs from the report must not follow from it."""
    for case in own_cases():
        for kind in ("negation", "side", "severity"):
            changed = set(sentences(case.wrong.get(kind, ""))) - set(sentences(case.report))
            assert all(rule_label(case.report, sentence) == "contradiction" for sentence in changed), (kind, changed)


def test_the_rules_keep_what_they_learned() -> None:
    """Of the development half, by which the rules were written."""
    rows = written_pairs("development")
    right = sum(rule_label(row.premise, row.hypothesis) == row.label for row in rows)
    assert right / len(rows) > 0.93
