"""A record that fits: which facts stay, by hand, with words as tokens."""

from dataclasses import replace

import pytest

from medgemma.records import Fact, condense
from medgemma.records.condense import NO_ROOM, OTHERS, REPEATED


def words(text: str) -> int:
    return len(text.split())


def fact(category: str, date: str, text: str, value: str = "") -> Fact:
    return Fact(category, date, text, value, "", (), "", "", "", "")


PATIENT = fact("Patient", "", "born 1960")
GOUT = fact("Condition", "2001-01-01", "Gout")
FLU = fact("Condition", "2003-01-01", "Flu")
URATE = [fact("Observation", f"200{year}-05-05", "Urate", str(year)) for year in range(1, 5)]
WEIGHT = [fact("Observation", f"200{year}-06-06", "Weight", str(year)) for year in range(1, 5)]
RECORD = sorted([PATIENT, GOUT, FLU, *URATE, *WEIGHT], key=lambda one: one.date)
# as lines: Patient 4 words ("Patient | born 1960"), conditions 5, observations 7; the last line of a cut record 5


def test_what_fits_is_kept_whole() -> None:
    found = condense(RECORD, 1000, words)
    assert found.facts == tuple(RECORD) and not found.dropped and "left out" not in found.text
    assert found.num_tokens == 4 + 2 * 5 + 8 * 7 == words(found.text)
    assert condense(RECORD, found.num_tokens, words).facts == tuple(RECORD)


def test_a_rare_word_of_the_question_counts_more_and_the_newest_come_first() -> None:
    """Room for the patient, two observations and the last line: 4 + 14 + 5."""
    found = condense(RECORD, 23, words, question="What was the latest Urate?")
    assert found.facts == (PATIENT, URATE[2], URATE[3]) and found.dropped == {NO_ROOM: 8}
    assert found.text.splitlines()[-1] == "(8 more facts left out)" and found.num_tokens == 23
    assert condense(RECORD, 22, words, question="What was the latest Urate?").facts == (PATIENT, URATE[3])
    both = condense(RECORD, 21, words, question="Urate and gout")  # gout 1 of 1, each urate 1 of 4
    assert both.facts == (PATIENT, GOUT, URATE[3])


def test_without_a_question_the_newest_are_kept_in_the_order_of_time() -> None:
    found = condense(RECORD, 23, words)
    assert found.facts == (PATIENT, URATE[3], WEIGHT[3]) and found.dropped == {NO_ROOM: 8}


def test_other_categories_and_repeats_are_dropped_and_counted() -> None:
    twice = [*RECORD, replace(GOUT, reference="Condition/again")]
    found = condense(twice, 1000, words, categories=["Condition"])
    assert found.facts == (PATIENT, GOUT, FLU) and found.dropped == {OTHERS: 8, REPEATED: 1}
    assert found.text == "Patient | born 1960\n2001-01-01 | Condition | Gout\n2003-01-01 | Condition | Flu"


def test_facts_of_another_day_are_no_repeats() -> None:
    assert len(condense([GOUT, replace(GOUT, date="2001-01-02")], 100, words).facts) == 2


def test_a_limit_that_not_even_the_patient_fits_is_refused() -> None:
    with pytest.raises(ValueError, match="the patient's line alone has more than 8 tokens; allow the record more"):
        condense(RECORD, 8, words)  # 4 and the last line's 5


def test_a_long_record_asks_the_tokenizer_a_few_times() -> None:
    many = [fact("Observation", f"{1900 + n // 300}-01-01", f"Lab {n}", "1") for n in range(30_000)]
    asked = []

    def counted(text: str) -> int:
        asked.append(1)
        return len(text)

    found = condense(many, 2_000, counted, question="Lab 17")
    assert found.num_tokens <= 2_000 and any(one.text == "Lab 17" for one in found.facts) and len(asked) < 25
