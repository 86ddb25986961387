"""Every "F1" in circulation by hand, and ROUGE-L against stored values of rouge-score 0.1.2."""

import pytest

from evals.metrics.answers import exact_match_norm, exact_match_raw, token_f1_squad, yes_no_match
from evals.metrics.text_overlap import longest_common_subsequence, rouge_l_f1
from evals.metrics.token_f1_variants import (
    reported_f1_medevalkit,
    set_f1_medevalkit,
    token_f1_inspect,
    token_f1_llava_med,
    token_f1_med_gemini,
    token_recall_llava_med,
)

VARIANTS = (
    token_f1_squad,
    token_f1_med_gemini,
    set_f1_medevalkit,
    reported_f1_medevalkit,
    token_f1_inspect,
    token_f1_llava_med,
    token_recall_llava_med,
)


@pytest.mark.parametrize(
    ("prediction", "reference", "values"),
    [
        # squad: {left, lung} twice -> 1; kept article: 2*2/(3+2) = 4/5; sets: 4/5, recall 1; inspect 1; llava 1, 1
        ("the left lung", "left lung", (1, 4 / 5, 4 / 5, 1, 1, 1, 1)),
        # six words, one right: squad drops "the": 2*1/(5+1) = 1/3; kept: 2/(6+1); sets likewise
        ("pleural effusion in the left lung", "effusion", (1 / 3, 2 / 7, 2 / 7, 1, 0.33, 1 / 3, 1)),
        # a full stop: only MedEvalKit keeps it
        ("lobe.", "lobe", (1, 1, 0, 0, 1, 1, 1)),
        # repeats: multiset F1 2*1/(2+1); sets 1; llava counts both as hits: 2*2/(2+2+0)
        ("lobe lobe", "lobe", (2 / 3, 2 / 3, 1, 1, 1, 1, 1)),
        # the other way round: multiset 2/3; sets 1; llava: one hit, nothing missed
        ("lobe", "lobe lobe", (2 / 3, 2 / 3, 1, 1, 1, 1, 1)),
        # numbers: inspect reads 2 and 2.0 as one; LLaVA-Med turns words into digits; a stop before a digit stays
        ("two", "2", (0, 0, 0, 0, 0, 1, 1)),
        ("2.0", "2", (0, 0, 0, 0, 1, 0, 0)),
        # a hyphen: squad joins the halves, inspect and LLaVA-Med part them
        ("x-ray", "x ray", (0, 0, 0, 0, 1, 1, 1)),
        # right half: precision 1/2, recall 1/3 -> F1 2*1/(2+3)
        ("left kidney", "left lower lobe", (2 / 5, 2 / 5, 2 / 5, 1 / 3, 0.4, 2 / 5, 1 / 3)),
        ("liver", "spleen", (0,) * 7),
        ("", "spleen", (0,) * 7),
        ("spleen", "", (0,) * 7),
        # empty against empty, and nothing but an article
        ("", "", (1, 1, 0, 0, 0, 0, 0)),
        ("a", "the", (1, 0, 0, 0, 1, 0, 0)),
    ],
)
def test_every_f1_by_hand(prediction: str, reference: str, values: tuple[float, ...]) -> None:
    found = [variant(prediction, reference) for variant in VARIANTS]
    assert found == pytest.approx(list(values))


def test_the_figures_of_the_known_fault() -> None:
    """MedEvalKit's swap: precision and recall of the same pair are told apart by one more word."""
    assert (
        reported_f1_medevalkit("the left lung", "left lung") == 1.0 != set_f1_medevalkit("the left lung", "left lung")
    )
    assert reported_f1_medevalkit("lung", "left lung") == 0.5


def test_no_two_variants_are_the_same_metric() -> None:
    pairs = [
        ("the left lung", "left lung"),
        ("lobe.", "lobe"),
        ("lobe lobe", "lobe"),
        ("2.0", "2"),
        ("two", "2"),
        ("lung", "left lung"),
        ("effusion in lung", "effusion"),
    ]
    rows = [tuple(round(variant(*pair), 2) for pair in pairs) for variant in VARIANTS]
    assert len(set(rows)) == len(VARIANTS)


def test_llava_med_normalisation() -> None:
    """A mark beside a space goes, one between letters becomes a space; a comma between digits makes all marks go."""
    assert token_f1_llava_med("right-sided", "right sided") == 1.0
    assert token_f1_llava_med("cells , nuclei", "cells nuclei") == 1.0
    assert token_f1_llava_med("1,000 x-ray", "1000 xray") == 1.0
    assert token_f1_llava_med("it isnt there", "it isn't there") == 1.0
    assert token_f1_llava_med("2.5", "25") == 0.0


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v not in (reported_f1_medevalkit, token_recall_llava_med)])
def test_f1s_are_bounded_and_perfect_on_themselves(variant: object) -> None:
    texts = ["Right lower lobe", "2 x 3 cm", "no", "an enlarged heart, the aorta"]
    for one in texts:
        assert variant(one, one) == 1.0  # type: ignore[operator]
        for other in texts:
            assert 0 <= variant(one, other) <= 1  # type: ignore[operator]


@pytest.mark.parametrize("variant", [token_f1_squad, token_f1_med_gemini, set_f1_medevalkit, token_f1_inspect])
def test_overlap_f1s_are_symmetric(variant: object) -> None:
    for one, other in (("left lung apex", "the lung"), ("a b c", "b")):
        assert variant(one, other) == variant(other, one)  # type: ignore[operator]


def test_exact_matches_and_yes_no() -> None:
    assert (exact_match_raw("PA", "PA"), exact_match_raw("PA.", "PA"), exact_match_raw("", "")) == (1, 0, 1)
    assert (exact_match_norm("the PA.", "pa"), exact_match_norm("PA", "AP"), exact_match_norm("a", "")) == (1, 0, 1)
    assert (yes_no_match("Yes, clearly", "yes"), yes_no_match("", "no"), yes_no_match("maybe", "yes")) == (1, 0, 0)
    with pytest.raises(ValueError, match="expected yes or no"):
        yes_no_match("yes", "left")


@pytest.mark.parametrize(
    ("prediction", "reference", "value"),
    [
        # by hand: "left lung" is common in order, 2*2/(5+3)
        ("the left lung is clear", "clear left lung", 0.5),
        # made with rouge-score 0.1.2, RougeScorer(["rougeL"], use_stemmer=False).score(reference, prediction).fmeasure
        ("No acute cardiopulmonary process.", "no evidence of acute cardiopulmonary process", 0.8),
        (
            "Invasive ductal carcinoma, grade 2; ER+ (95%)",
            "Breast, left: invasive ductal carcinoma, grade 3",
            0.5714285714285714,
        ),
        ("x-ray of the hand", "X-RAY: hand, 2 views", 0.6),
        ("", "spleen", 0.0),
        ("spleen", "", 0.0),
    ],
)
def test_rouge_l(prediction: str, reference: str, value: float) -> None:
    assert rouge_l_f1(prediction, reference) == pytest.approx(value)
    assert rouge_l_f1(reference, prediction) == pytest.approx(value)


def test_longest_common_subsequence_is_in_order() -> None:
    assert longest_common_subsequence("abcbdab", "bdcaba") == 4
    assert longest_common_subsequence("abc", "cba") == 1 and longest_common_subsequence("", "abc") == 0
