"""The reasoning trace is divided from the answer and never leaks into it."""

import pytest

from medgemma.answers import Spoken, split_thinking


@pytest.mark.parametrize(
    ("reply", "spoken"),
    [
        (" AP view \n", Spoken(None, "AP view")),
        ("", Spoken(None, "")),
        ("<unused94>thought\nThe heart is large.<unused95>Yes", Spoken("The heart is large.", "Yes")),
        ("<unused94>thought\nWhere <b>is it", Spoken("Where <b>is it", "")),  # cut while thinking
        ("<unused94>", Spoken("", "")),
        ("Well. <unused94>thought\nhm<unused95>\nNo", Spoken("hm", "Well. \nNo")),
        ("<unused94>thought\nthoughtful<unused95>No", Spoken("thoughtful", "No")),
        ("no end marker <unused95> begun", Spoken(None, "no end marker <unused95> begun")),
    ],
)
def test_split_thinking(reply: str, spoken: Spoken) -> None:
    assert split_thinking(reply) == spoken
