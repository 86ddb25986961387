"""Our reader on the half of the gauntlet that it was changed by, and the counting of scores."""

from typing import Any

from evals.gauntlet.replies import LabelledReply, labelled_replies
from evals.gauntlet.scoring import own_reader, score, score_by_answer

DEVELOPMENT = labelled_replies("development")


def test_nothing_of_the_development_half_is_misread_and_97_percent_are_found() -> None:
    found = score_by_answer(own_reader, DEVELOPMENT)["all"]
    assert found.misread_ids == ()
    assert found.found >= 0.97


def test_a_reader_of_labels_finds_all_and_one_of_nothing_misreads_nothing() -> None:
    perfect, silent = score(lambda reply: reply.label, DEVELOPMENT), score(lambda reply: None, DEVELOPMENT)
    assert perfect.found == 1.0 and perfect.num_misread == 0
    assert silent.found == 0.0 and silent.num_misread == 0 and len(silent.missed_ids) == silent.num_readable


def test_what_is_read_in_an_unreadable_reply_is_misread() -> None:
    def always_a(reply: LabelledReply) -> Any:
        return "A"

    letters = [reply for reply in DEVELOPMENT if reply.answer == "letter"]
    found = score(always_a, letters)
    right = sum(reply.label == "A" for reply in letters)
    assert (found.num_found, found.num_misread) == (right, len(letters) - right)
