from pathlib import Path

import pytest

from evals.controls.words_alone import WordsAlone, likeliest_answers, mean_of, model_minus_words, words_alone

CLOSED, OPEN = "closed_accuracy", "open_token_f1_squad"


def test_differences_pair_by_item_and_metric() -> None:
    graded = [WordsAlone(f"i{n}", f"g{n}", CLOSED, float(n < 3)) for n in range(6)]
    graded.append(WordsAlone("o", "g0", OPEN, 0.25))
    assert mean_of(graded, CLOSED).value == 0.5 and mean_of(graded, OPEN).value == 0.25
    difference = model_minus_words({f"i{n}": 1.0 for n in range(2, 6)} | {"o": 1.0}, graded, CLOSED)
    assert difference.n == 4 and difference.value == pytest.approx(3 / 4)
    with pytest.raises(ValueError, match="no item in common"):
        model_minus_words({"x": 1.0}, graded, OPEN)


@pytest.mark.filterwarnings("error")
def test_of_several_answers_to_one_question_the_first_by_the_alphabet_is_taken() -> None:
    """They are equally likely; which has the last digit more is chance."""
    where = [("What is the location of the mass?", answer) for answer in ("pineal region", "left rectus", "cecum")]
    others = [(f"What is the {thing} of the {place}?", thing) for thing in ("size", "colour") for place in "abcdef"]
    for _ in range(len(where)):
        where = [*where[1:], where[0]]
        train = [*others, *where, ("What is the side of the lung?", "left")]
        assert likeliest_answers(train, ["What is the location of the mass?", "What is the size?"]) == ["cecum", "size"]


@pytest.mark.kit
@pytest.mark.filterwarnings("error")
def test_words_alone_answer_every_question_of_the_side(kit: Path) -> None:
    graded = words_alone(kit)
    assert len({one.item_id for one in graded}) == len(graded) > 150
    assert 0.5 < mean_of(graded, CLOSED).value < 0.7 and 0.08 < mean_of(graded, OPEN).value < 0.25
    assert not {one.group for one in graded} & {one.group for one in words_alone(kit, "final")}
