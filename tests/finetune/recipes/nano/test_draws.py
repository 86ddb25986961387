"""How the recipe nano words questions and answers: as the evaluations do, and as people do."""

import random
import re
from collections import Counter

import pytest

from evals.tasks.final_answer import parse_letter, parse_yes_no
from evals.tasks.picture_questions import OVERLAPPING, QuestionAnswer, questions_about
from evals.tasks.vqa_rad import prompt as question_prompt
from finetune.recipes.nano import draws as nano_draws


def test_answers_are_said_in_one_way() -> None:
    said = [nano_draws.short_answer(text) for text in (" The Liver. ", "Xray - plain film", "chest x ray", "PA", "a")]
    assert said == ["liver", "x-ray - plain film", "chest x-ray", "pa", "a"]


def test_questions_keep_their_words_but_one() -> None:
    rng, text = random.Random(0), "Is there a mass in the left lung?"
    lost = Counter(len(nano_draws.with_a_word_lost(text, rng).split()) for _ in range(600))
    assert set(lost) == {7, 8} and 150 < lost[7] < 250
    assert nano_draws.with_a_word_lost("Is this a CT?", rng) == "Is this a CT?"
    ways = {nano_draws.asked_in_some_way("Is it CT?", rng) for _ in range(400)}
    assert question_prompt("Is it CT?") in ways and "Is it CT?" in ways and "is it ct?" in ways


FACTS = (
    {"modality": "X-ray", "body_part": "chest", "view": "PA", "pneumonia": "present"},
    {"modality": "histology", "body_part": "lung", "tissue": "lung adenocarcinoma"},
)


@pytest.mark.parametrize("facts", FACTS)
def test_other_forms_are_answered_as_their_evaluations_read_them(facts: dict[str, str]) -> None:
    rng, seen = random.Random(0), Counter[str]()
    for seed in range(60):
        for about in questions_about(facts, seed):
            asked, answer = nano_draws.in_another_form(about, rng)
            assert asked.startswith(about.question)
            if about.kind == "closed":
                assert parse_yes_no(answer) == about.answer
                continue
            options = dict(re.findall(r"^([A-E]): (.+)$", asked, re.MULTILINE)) or options_on_a_line(asked)
            assert options[parse_letter(answer, options)] == about.answer
            others = set(options.values()) - {about.answer}
            assert 1 <= len(others) == len(options) - 1
            assert not any(frozenset({about.answer, other}) in OVERLAPPING for other in others)
            seen[parse_letter(answer, options)] += 1
    assert len(seen) >= 3 and max(seen.values()) < 0.7 * seen.total()


def options_on_a_line(asked: str) -> dict[str, str]:
    return dict(re.findall(r"\(([A-E])\) (.+?)(?= \([A-E]\)|\n)", asked))


def test_a_view_has_one_other() -> None:
    asked, _ = nano_draws.in_another_form(QuestionAnswer("Which view?", "PA", "view", "open"), random.Random(0))
    assert {"PA", "AP"} <= set(re.findall(r"\b[AP]{2}\b", asked))
