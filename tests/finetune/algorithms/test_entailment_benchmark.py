"""The toy of benchmarks.entailment: its truth by hand, its hack, and that what it starts from has something to mend."""

import random

import pytest

from benchmarks.entailment import FIRST, NORMAL, impression_of, lazy, spread, supported, text_of, toy_run, truth

SOURCE = "some finding0. no finding1. some finding2. no finding3. no finding4. no finding5."


def test_its_truth_by_hand() -> None:
    said = ("some finding0.", "some finding0. no finding2.", "some finding0. some finding7.", "normal.", "no finding9.")
    labels = [answer.label for answer in truth([(SOURCE, text) for text in said])]
    assert labels == ["entailment", "contradiction", "neutral", "entailment", "neutral"]


def test_the_hack_earns_as_much_as_the_truth_and_costs_what_is_guarded() -> None:
    ids = [[FIRST, FIRST + 4, 1], [NORMAL, 1], [FIRST + 1, 1], [1]]
    assert text_of(ids[0]) == "some finding0. some finding2."
    right, hack, wrong, nothing = supported(ids, [SOURCE] * 4)
    assert right == hack > wrong > nothing
    assert lazy(ids, [SOURCE] * 4) == [0.0, 1.0, 0.0, 0.0]


def test_what_is_learned_from_has_made_up_denied_and_lazy_impressions() -> None:
    source, rng = [FIRST, FIRST + 3, FIRST + 4, FIRST + 7, FIRST + 9, FIRST + 11], random.Random(0)
    said = [text_of(impression_of(source, rng)) for _ in range(2000)]
    labels = [answer.label for answer in truth([(SOURCE, text) for text in said])]
    shares = {label: labels.count(label) / len(labels) for label in ("entailment", "neutral", "contradiction")}
    assert said.count("normal.") / len(said) == pytest.approx(0.2, abs=0.03)
    assert shares["entailment"] == pytest.approx(0.2 + 0.8 * 0.7**2, abs=0.03)
    assert shares["contradiction"] == pytest.approx(0.8 * (1 - 0.85**2), abs=0.03)


def test_an_interval_over_three_seeds_is_students() -> None:
    """The mean 2, the deviation 1; 4.303 / √3."""
    assert spread([1.0, 2.0, 3.0]) == "2.000 [-0.484, 4.484]" and spread([1.0]) == "1.000"


@pytest.mark.slow
def test_it_is_supported_more_and_contradicted_less_than_what_it_starts_from() -> None:
    points = toy_run("actor-critic α 0.2", seed=0, steps=40)
    assert points[0]["kl"] == pytest.approx(0, abs=1e-6) and points[-1]["kl"] > 0.1
    assert points[-1]["entailed"] > points[0]["entailed"] + 0.1
    assert points[-1]["contradicted"] < points[0]["contradicted"] - 0.05
