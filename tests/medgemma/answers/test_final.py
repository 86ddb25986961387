"""Final letters and yes or no, in the many ways models write them."""

import pytest

from medgemma.answers import final_letter, final_part, final_yes_no

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
    ("The lobe is dense.\nB it is", None),
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
    assert final_letter("Final Answer: F").reason == "the final answer is F, which is none of A, B, C, D, E"
    assert final_letter("Final Answer: A and B").reason == "the final answer names A and B: 'A and B'"
    assert (
        final_letter("Final Answer: pneumonia").reason == "the final answer begins with no option letter: 'pneumonia'"
    )
    assert final_letter("Final Answer:  ").reason == "nothing follows the final answer"
    assert final_letter("").reason == "the text is empty"
    long = final_letter("Final Answer: " + "word " * 100).reason
    assert long is not None and len(long) < 140


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
        ("Final answer: no\nFinal answer: yes", True),
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
