"""Guards by hand: what a reward for support cannot see."""

import pytest

from finetune.rewards import guards
from finetune.rewards.guards import boilerplate, copying, coverage, density, empty, fragments, length, repetition

SOURCE = "The heart is mildly enlarged. There is a small left pleural effusion."


def test_fragments_coverage_and_density_by_hand() -> None:
    """[small left pleural effusion] [heart is] of "small left pleural effusion and heart is big", eight words."""
    said = "small left pleural effusion and heart is big"
    source = "the heart is mildly enlarged there is a small left pleural effusion"
    assert fragments(said.split(), source.split()) == [4, 2]
    assert coverage([said], [SOURCE]) == [6 / 8] and density([said], [SOURCE]) == [(16 + 4) / 8]
    assert coverage([""], [SOURCE]) == density(["?"], [SOURCE]) == [0.0]


def test_the_longest_run_is_taken_not_the_first() -> None:
    assert fragments(["a", "b", "c"], ["a", "b", "x", "a", "b", "c"]) == [3]


def test_copying_is_the_share_in_long_fragments() -> None:
    said = "small left pleural effusion and heart is big"
    assert copying(3)([said], [SOURCE]) == [4 / 8] and copying(4)([said], [SOURCE]) == [0.0]
    assert copying(3)([SOURCE], [SOURCE]) == [1.0]


def test_length_is_what_is_missing_or_too_much() -> None:
    guard = length(4, 8)
    assert guard(["one two", "one two three four", "w " * 16, ""]) == [0.5, 0.0, 0.5, 1.0]
    with pytest.raises(ValueError, match="from 9 to 8 words"):
        length(9, 8)


def test_repetition_counts_runs_of_three() -> None:
    """a b c a b c: four runs, three of them different."""
    assert repetition(["a b c a b c", "a b c d", "a b", "no no no no no"]) == [0.25, 0.0, 0.0, pytest.approx(2 / 3)]


def test_empty() -> None:
    assert empty(["", " . ", [{"role": "assistant", "content": "no"}]]) == [1.0, 1.0, 0.0]


def test_boilerplate_costs_only_where_there_is_something_to_say() -> None:
    guard = boilerplate(["No acute disease."], lambda source: "effusion" in source)
    said = ["no acute disease", "No acute disease. Small effusion.", "No acute disease.", ""]
    assert guard(said, [SOURCE, SOURCE, "Clear lungs.", SOURCE]) == [1.0, 0.0, 0.0, 0.0]


def test_guards_have_names_of_their_own() -> None:
    """As the log has them."""
    made = (length(1, 2), copying(2), boilerplate([], bool), repetition, empty, guards.coverage, guards.words)
    names = [getattr(one, "__name__", "") for one in made]
    assert names == ["length", "copying", "boilerplate", "repetition", "empty", "coverage", "words"]
