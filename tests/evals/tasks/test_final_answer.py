import pytest

from evals.items import Item
from evals.tasks import multiple_choice
from evals.tasks.final_answer import parse_letter, parse_short, parse_yes_no, spoken

OPTIONS = {"A": "Aspirin", "B": "Heparin", "C": "A fibrinolytic", "D": "Watchful waiting"}


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("Reasoning about (A) and (B).\nFinal Answer: (C)", "C"),
        ("Final Answer:(C)", "C"),
        ("**Final Answer:** **(C)**", "C"),
        ("Final Answer: C", "C"),
        ("Final Answer: C.", "C"),
        ("Final Answer: C. A fibrinolytic", "C"),
        ("Final Answer: (C) A fibrinolytic", "C"),
        ("final answer is c", "C"),
        ("Final Answer: The answer is (C)", "C"),
        ("Final Answer: Option C", "C"),
        (r"Final Answer: $\boxed{C}$", "C"),
        (r"The answer is \boxed{\text{C}}.", "C"),
        ("Final Answer:\n\n(C)", "C"),
        ("Final Answer: (A)\nNo, I was wrong.\nFinal Answer: (C)", "C"),
        ("Final Answer: A fibrinolytic", "C"),
        ("Final Answer: Heparin.", "B"),
        ("The correct answer is (B), because (A) is not enough.", "B"),
        ("The correct answer is B.", "B"),
        ("The best option is: D", "D"),
        ("Answer: B", "B"),
        ("B", "B"),
        ("(b)", "B"),
        ("B) Heparin", "B"),
        ("B. Heparin is first choice in this case.", "B"),
        ("Heparin", "B"),
        ("I look at it.\nB", "B"),
        ("The most likely diagnosis is: D", "D"),
        # what cannot be told
        ("", ""),
        ("Final Answer:", ""),
        ("Final Answer: (A) or (B)", ""),
        ("Final Answer: A or B", ""),
        ("Final Answer: (X)", ""),
        ("Final Answer: E", ""),
        ("A patient with chest pain needs help.", ""),
        ("Final Answer: a new drug", ""),
        ("I would not know.", ""),
        ("<unused94>thought\nFinal Answer: (A)", ""),
        ("<think>Final Answer: (A)", ""),
        # thinking is not saying
        ("<unused94>thought\nFinal Answer: (A)<unused95>Final Answer: (B)", "B"),
        ("<think>It must be (A).\nFinal Answer: (A)</think>\n\nFinal Answer: (B)", "B"),
    ],
)
def test_letter(text: str, letter: str) -> None:
    assert parse_letter(text, OPTIONS) == letter


def test_an_option_text_that_two_letters_have_is_no_answer() -> None:
    assert parse_letter("Final Answer: same", {"A": "same", "B": "same"}) == ""


def test_an_option_that_is_a_letter_itself_does_not_take_the_place_of_the_letter() -> None:
    assert parse_letter("Final Answer: (A)", {"A": "hepatitis", "B": "B", "C": "A"}) == "A"
    assert parse_letter("Final Answer: hepatitis", {"A": "hepatitis", "B": "B", "C": "A"}) == "A"


def test_a_multiple_choice_reply_is_read_beside_its_own_question() -> None:
    options = {"A": "fever", "B": "cough", "C": "rash"}
    meta = {f"option_{letter}": text for letter, text in options.items()}
    asked = multiple_choice.prompt("All are signs of flu EXCEPT?", options)
    other = multiple_choice.prompt("Which is a sign of flu?", options)
    reply = "Both A and B are seen in flu."
    for text, letter in ((asked, "C"), (other, ""), (f"{asked}\n\nFinal Answer: (C)\n\n{other}", "")):
        assert multiple_choice.parse(Item("q", (), text, "C", "closed", "p", meta), reply) == letter


def test_a_letter_beyond_the_options_is_no_answer() -> None:
    assert parse_letter("Final Answer: (J)", OPTIONS) == ""
    assert parse_letter("Final Answer: (J)", {**OPTIONS, **{letter: letter * 3 for letter in "EFGHIJ"}}) == "J"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The lungs are clear.\nFinal Answer: no", "no"),
        ("Final Answer: Yes.", "yes"),
        ("There is no doubt.\n**Final Answer:** yes", "yes"),
        ("Yes, on the left.", "yes"),
        ("no", "no"),
        ("I look at it.\nNo", "no"),
        ("There is no effusion", ""),  # the question may have been whether the lungs are clear
        ("perhaps", ""),
        ("yes and no", ""),
        ("Final Answer: perhaps. But yes", ""),
        ("<unused94>thought\nyes", ""),
        ("", ""),
    ],
)
def test_yes_no(text: str, answer: str) -> None:
    assert parse_yes_no(text) == answer


def test_short() -> None:
    assert parse_short("I see it.\nFinal Answer: **Left lung.**") == "Left lung"
    assert parse_short("'PA'\nmore") == "PA"
    assert parse_short("<think>left</think>right") == "right"
    assert parse_short(r"Final Answer: $\boxed{\text{a}}$") == "a"
    assert spoken("<unused94>thought\nx<unused95>a") == "a"
