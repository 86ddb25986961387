"""Final letters and yes or no, in the many ways models write them."""

import pytest

from medgemma.answers import final_letter, final_number, final_part, final_yes_no

LETTERS = [
    ("Step by step.\nFinal Answer: (A)", "A"),
    ("Final Answer: A", "A"),
    ("Final Answer:(X)", None),  # MedXpertQA's form, a letter that was not offered
    ("**Final Answer:** (B)", "B"),
    ("**Final Answer: B**", "B"),
    ("*Final answer*: `C`", "C"),
    ("final answer: c", "C"),
    ("FINAL ANSWER - see above. Final Answer = D", "D"),
    ("The final answer is $\\boxed{D}$.", "D"),
    ("Final Answer: \\boxed{\\text{B}}", "B"),
    ("Final Answer:\n\nB", "B"),
    ("Final Answer: B. Pneumonia", "B"),
    ("Final Answer: B) Pneumonia", "B"),
    ("Final Answer: (B) Pneumonia", "B"),
    ("Final Answer: B: Pneumonia", "B"),
    ("Final Answer: B, because the lobe is dense", "B"),
    ("Final Answer: B because the lobe is dense", "B"),
    ("Final Answer: B\nThe others are wrong: A and C.", "B"),
    ("Final Answer: option B", "B"),
    ("Final Answer: Option (B).", "B"),
    ("Final Answer: The correct answer is B.", "B"),
    ('Final Answer: "B"', "B"),
    ("Final Answer: [B]", "B"),
    ("Final Answer: <B>", "B"),
    ("Final Answer: (A)\nOn second thought:\nFinal Answer: (C)", "C"),
    ("Option A is wrong, and B too.\nFinal Answer: (C)", "C"),
    ("The answer is C.", "C"),
    ("Answer: C", "C"),
    ("The correct option is (C) since ...", "C"),
    ("The most likely diagnosis is: C", "C"),
    ("(C)", "C"),
    ("C", "C"),
    ("c", "C"),
    ("C.", "C"),
    ("C) Pneumonia", "C"),
    ("C: Pneumonia", "C"),
    ("A) Pneumonia", "A"),
    ("A", "A"),
    ("A Pneumonia", "A"),
    ("A is right", "A"),
    ("Final Answer: A pneumothorax is seen", None),  # an article
    ("A pneumothorax is seen", None),
    ("I think so", None),
    ("Final Answer: A and B", None),
    ("Final Answer: A or (B)", None),
    ("Final Answer: (A), (B)", None),
    ("Final Answer: A, B", None),
    ("Final Answer: A and A", "A"),
    ("Final Answer: pneumonia", None),
    ("Final Answer: Both", None),
    ("Final Answer: none of the above", None),
    ("Final Answer: F", None),
    ("Final Answer:", None),
    ("", None),
    ("I cannot tell.", None),
    ("Final Answer: 2", None),
    ("The lobe is dense and A is out.\n\n**B**", "B"),
    ("The lobe is dense.\n(B).", "B"),
    ("The lobe is dense.\nB it is", "B"),
    ("The lobe is dense.\nG", None),
]


@pytest.mark.parametrize(("text", "letter"), LETTERS)
def test_final_letter(text: str, letter: str | None) -> None:
    found = final_letter(text)
    assert found.letter == letter
    assert (found.reason is None) == (letter is not None)


OPTIONS = {"A": "Pneumonia", "B": "A pneumothorax", "C": "Heart failure", "D": "None of the above"}


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("Final Answer: pneumonia", "A"),
        ("Final Answer: Pneumonia.", "A"),
        ("Final Answer: A pneumothorax", "B"),
        ("Final Answer: **Heart failure**\nsince it is large", "C"),
        ("Final Answer: None of the above", "D"),
        ("Final Answer: (B) A pneumothorax", "B"),
        ("Heart failure", "C"),
        ("Final Answer: Pneumonia or heart failure", None),
        ("Final Answer: E", None),
    ],
)
def test_an_option_may_be_given_by_its_text(text: str, letter: str | None) -> None:
    assert final_letter(text, OPTIONS).letter == letter


def test_an_option_whose_text_is_a_letter_is_not_meant_by_it() -> None:
    hepatitis = {"A": "B", "B": "A", "C": "C"}
    assert [final_letter(f"Final Answer: {letter}", hepatitis).letter for letter in "ABC"] == ["A", "B", "C"]


def test_reasons_say_what_was_found() -> None:
    assert final_letter("Final Answer: F").reason == "the final answer is none of the options: 'Final Answer: F'"
    assert final_letter("A and B").reason == "the text names A, B, and does not choose: 'A and B'"
    assert final_letter("I think so").reason == "the text chooses no option: 'I think so'"
    assert final_letter("").reason == "the text is empty"
    long = final_letter("Final Answer: " + "word " * 100).reason
    assert long is not None and len(long) < 140


FIVE = {"A": "Warfarin", "B": "Heparin", "C": "Aspirin", "D": "Apixaban", "E": "Alteplase"}


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("It is B. Wait, no. It is C.", "C"),
        ("Warfarin is too slow, heparin is contraindicated. Apixaban is the right drug.", "D"),
        ("A colleague says A. I disagree: B.", "B"),
        ("Everything but C can be discarded.", "C"),
        ("I was torn between B and D but D wins.", "D"),
        ("B over D.", "B"),
        ("A \u274c\nB \u2705\nC \u274c\nD \u274c\nE \u274c", "B"),
        ("The answer is definitely not A.", None),
        ("Question 1: B\nQuestion 2: C", None),
        ('{"answer": "D"}', "D"),
        ("B\n\nQuestion: which dose?\nAnswer: C", "B"),
        ("Antwort: A. Entschuldigung, richtig ist C.", "C"),
        ("A\uac00 \uc544\ub2c8\ub77c B\uc785\ub2c8\ub2e4.", "B"),
        ("No es A sino B.", "B"),
        ("A au B.", None),
    ],
)
def test_statements_are_read_as_a_person_reads_them(text: str, letter: str | None) -> None:
    assert final_letter(text, FIVE).letter == letter


@pytest.mark.parametrize(
    ("text", "question", "yes"),
    [
        ("There is no effusion.", "Is there an effusion?", False),
        ("There is no effusion.", "Is an effusion absent?", True),
        ("A small effusion may be present.", "Is there an effusion?", None),
        ("The heart is enlarged.", "Is the heart of normal size?", False),
        ("No doubt, the clavicle is fractured.", "Does the film show a fracture?", True),
        ("No comment.", "Is there an effusion?", None),
    ],
)
def test_a_finding_answers_its_question(text: str, question: str, yes: bool | None) -> None:
    assert final_yes_no(text, question).yes is yes


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [
        ("12.3 g/dL (reference range 12.0-15.5)", "g/dL", 12.3),
        ("about 1.2 cm", "mm", 12.0),
        ("5.4 mmol/L", "mg/dL", None),
        ("at least 8 mm", "mm", None),
        ("9.1 or 9.7", "", None),
        ("2 + 3 = 5", "", 5.0),
        ("1,048,576", "", 1048576.0),
        ("31,6 kg/m2", "kg/m2", 31.6),
        ("4.5 \u00d7 10^4 copies", "", 45000.0),
        ("40 mg. No, a day makes 80 mg.", "mg", 80.0),
    ],
)
def test_final_number(text: str, unit: str, value: float | None) -> None:
    assert final_number(text, unit).value == value


@pytest.mark.parametrize(
    ("text", "yes"),
    [
        ("Final Answer: yes", True),
        ("Final Answer: No.", False),
        ("I see fluid.\n**Final Answer:** Yes", True),
        ("Yes, there is a small effusion.", True),
        ("no", False),
        ("NO, I do not", False),
        ("No. Final Answer: yes", True),
        ("Final answer: no\nFinal answer: yes", None),  # two, and no word that takes the first back
        ("Final answer: no\nCorrection: Final answer: yes", True),
        ("The answer is: **no**", False),
        ("Yes, no effusion is seen", None),
        ("Final Answer: yes or no", None),
        ("There is no effusion.", None),
        ("Nothing abnormal", None),
        ("Yesterday's film", None),
        ("Final Answer: maybe", None),
        ("The angle is sharp.\n\nNo.", False),
        ("The angle is blunt.\n**Yes**", True),
        ("The angle is blunt.\nYes, I think", None),
        ("", None),
    ],
)
def test_final_yes_no(text: str, yes: bool | None) -> None:
    found = final_yes_no(text)
    assert found.yes is yes
    assert (found.reason is None) == (yes is not None)


def test_final_part() -> None:
    assert final_part("Reasons.\n**Final Answer:** right clavicle\n") == "right clavicle"
    assert final_part("no marker") is None
    assert final_part("Final Answer:") == ""
