"""Editors on examples written by hand: one meaning changed, the grammar whole, no edit where no rule reaches."""

import pytest

from evals.stress.edits import EDIT_KINDS, EDITORS, EditKind, is_abnormal, sentences
from evals.stress.paraphrase import paraphrase


@pytest.mark.parametrize(
    ("kind", "report", "edited"),
    [
        ("negation", "There is no pleural effusion.", "There is a pleural effusion."),
        ("negation", "There is no evidence of pneumothorax.", "There is evidence of pneumothorax."),
        ("negation", "There is no acute infiltrate.", "There is an acute infiltrate."),
        ("negation", "There is no pulmonary edema.", "There is pulmonary edema."),
        ("negation", "No pneumothorax.", "There is a pneumothorax."),
        ("negation", "No effusion or pneumothorax is seen.", "There is an effusion and a pneumothorax."),
        (
            "negation",
            "No focal consolidation, large pleural effusion, or pneumothorax.",
            "There is focal consolidation, a large pleural effusion, and a pneumothorax.",
        ),
        ("negation", "The lungs are clear.", "The lungs are not clear."),
        ("negation", "There is a small left pleural effusion.", "There is no left pleural effusion."),
        ("negation", "There are several small nodules.", "There are no small nodules."),
        ("side", "There is a right pleural effusion.", "There is a left pleural effusion."),
        ("side", "Left basilar atelectasis.", "Right basilar atelectasis."),
        ("severity", "There is a small pleural effusion.", "There is a large pleural effusion."),
        ("severity", "There is a minimal pleural effusion.", "There is an extensive pleural effusion."),
        ("severity", "Mild cardiomegaly.", "Severe cardiomegaly."),
        ("omission", "The lungs are clear. The aorta is tortuous.", "The lungs are clear."),
        ("unit", "A 5 mm nodule and a 3 cm mass.", "A 5 cm nodule and a 3 cm mass."),
        ("unit", "A mass of 3.5cm.", "A mass of 3.5mm."),
        ("prior_study", "The effusion is unchanged.", "The effusion has changed."),
        ("prior_study", "Stable cardiomegaly.", "New cardiomegaly."),
        ("prior_study", "The effusion has increased.", "The effusion has decreased."),
        ("prior_study", "The lungs are clear.", "The lungs are clear. Findings have worsened since the prior study."),
    ],
)
def test_an_editor_changes_one_meaning(kind: EditKind, report: str, edited: str) -> None:
    assert EDITORS[kind](report) == edited


@pytest.mark.parametrize(
    ("kind", "report"),
    [
        ("negation", "There is no change."),  # no finding that the articles are known of
        ("negation", "No focal areas of consolidation or suspicious bony lesions."),
        ("negation", "There are stable effusions."),  # would deny a comparison
        ("negation", "There is XXXX opacity."),  # a word was removed
        ("side", "Left and right pleural effusions."),  # would become right and right
        ("side", "Right heart enlargement."),  # only one side has it
        ("side", "A granuloma in the right middle lobe."),
        ("side", "The right lung is clear."),
        ("severity", "No large pleural effusion."),
        ("severity", "Mild to moderate cardiomegaly."),  # would become severe to moderate
        ("omission", "Cardiomegaly."),  # nothing would be left
        ("omission", "The lungs are clear. The heart is normal."),
        ("unit", "The heart is 5 times normal."),
        ("prior_study", "There is redemonstration of a nodule."),  # compares, in words that no rule turns round
        ("template", "The lungs are clear."),
    ],
)
def test_an_editor_leaves_alone_what_it_would_break(kind: EditKind, report: str) -> None:
    assert EDITORS[kind](report) is None


def test_only_the_edited_sentence_changes() -> None:
    report = "The heart is normal. There is a small left pleural effusion. There is no pneumothorax."
    for kind in ("negation", "side", "severity"):
        edited = sentences(EDITORS[kind](report) or "")
        assert [edited[0], edited[2]] == ["The heart is normal.", "There is no pneumothorax."]


def test_an_invention_is_of_what_the_report_does_not_speak_of() -> None:
    assert EDITORS["invention"]("No nodules.") == "No nodules. There is an acute fracture of the left sixth rib."
    everything = "Nodule, fracture, pneumothorax, effusion, hernia."
    assert EDITORS["invention"](everything) is None


def test_sentences_do_not_end_inside_a_number() -> None:
    assert sentences("A 3.5 cm mass at T7. No effusion.") == ["A 3.5 cm mass at T7.", "No effusion."]


def test_a_denied_or_removed_finding_is_not_abnormal() -> None:
    assert is_abnormal("Left pleural effusion.")
    assert not any(map(is_abnormal, ("No pleural effusion.", "XXXX opacity.", "Heart size.")))


@pytest.mark.parametrize(
    ("report", "same"),
    [
        ("The heart is normal in size.", "Heart size is normal."),
        ("There is no effusion or pneumothorax.", "Neither effusion nor pneumothorax is seen."),
        ("No pleural effusion or pneumothorax is seen.", "There is no pleural effusion or pneumothorax."),
        ("There is a calcified granuloma in the left lung.", "A calcified granuloma in the left lung is seen."),
        ("Severe degenerative changes of the thoracic spine.", "The thoracic spine shows severe degenerative disease."),
        ("Stable cardiomegaly.", "The heart is enlarged, as before."),
    ],
)
def test_a_paraphrase_keeps_the_meaning(report: str, same: str) -> None:
    assert paraphrase(report) == same


@pytest.mark.parametrize(
    "report",
    [
        "There are calcified granulomas noted.",  # "... noted are seen"
        "The visualized bones are old.",  # "the seen bones"
        "No focal areas of consolidation.",  # "there is no areas"
        "Sternal wires. Old films. The lungs are clear.",  # two of three sentences would be word for word
    ],
)
def test_what_cannot_be_put_otherwise_is_no_paraphrase(report: str) -> None:
    assert paraphrase(report) is None


def test_every_kind_has_an_editor() -> None:
    assert set(EDITORS) == set(EDIT_KINDS)
