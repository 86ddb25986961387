"""Figures and curves by hand and by scikit-learn; the page holds them all and loads nothing."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from medsiglip.performance.curves import precision_recall_points, reliability_points, roc_points
from medsiglip.performance.figures import as_json, performance
from medsiglip.performance.page import estimate_text, render

LABELS = ("edema", "fracture")


@pytest.fixture(scope="module")
def split():
    random = np.random.default_rng(0)
    truth = random.integers(0, 2, (80, 2)).astype(float)
    truth[:20, 1] = np.nan
    probabilities = np.clip(0.3 * np.nan_to_num(truth) + 0.7 * random.random((80, 2)), 0, 1)
    return probabilities, truth, [f"patient {i // 2}" for i in range(80)]


def test_figures_are_those_of_scikit_learn_over_what_is_said(split):
    probabilities, truth, groups = split
    found = performance(LABELS, probabilities, truth, groups, exclusive=False).labels
    assert [(figures.label, figures.n) for figures in found] == [("edema", 80), ("fracture", 60)]
    for j, figures in enumerate(found):
        said = np.isfinite(truth[:, j])
        y, p = truth[said, j], probabilities[said, j]
        assert figures.positives == y.sum()
        assert figures.auroc.value == pytest.approx(roc_auc_score(y, p))
        assert figures.average_precision.value == pytest.approx(average_precision_score(y, p))
        assert figures.brier.value == pytest.approx(((p - y) ** 2).mean())
        assert figures.auroc.n_groups == len({g for g, s in zip(groups, said, strict=True) if s})


def test_subgroups_are_the_figures_of_their_rows_alone(split):
    probabilities, truth, groups = split
    sex = ["F"] * 40 + ["M"] * 35 + ["O"] * 3 + [""] * 2
    found = performance(LABELS, probabilities, truth, groups, exclusive=False, subgroups={"sex": sex})
    alone = performance(LABELS, probabilities[:40], truth[:40], groups[:40], exclusive=False)
    assert found.subgroups["sex"]["F"] == alone.labels
    assert set(found.subgroups["sex"]) == {"F", "M"} and found.too_small == ("sex=O (3)",)
    assert as_json(found)["subgroups"]["sex"]["F"][0]["auroc"]["n"] == 40


def test_one_class_has_no_auroc_and_says_so(split):
    probabilities, _, groups = split
    figures = performance(LABELS[:1], probabilities[:, :1], np.ones((80, 1)), groups, exclusive=False).labels[0]
    assert estimate_text(figures.auroc) == "–" and "undefined" in figures.auroc.note


@pytest.mark.parametrize("ties", [False, True])
def test_curves_are_those_of_scikit_learn(split, ties):
    p, y = split[0][:, 0], split[1][:, 0] == 1
    p = np.round(p, 1) if ties else p
    false, true, _ = roc_curve(y, p, drop_intermediate=False)
    np.testing.assert_allclose(roc_points(p, y), np.stack([false, true], 1))
    precision, recall, _ = precision_recall_curve(y, p)
    ours = np.array(precision_recall_points(p, y))
    theirs = np.stack([recall, precision], 1)[::-1][1:]
    np.testing.assert_allclose(ours[: np.argmax(ours[:, 0] >= 1) + 1], theirs[: np.argmax(theirs[:, 0] >= 1) + 1])


def test_reliability_by_hand():
    points = reliability_points(np.array([0.1] * 10 + [0.8] * 10), np.array([False] * 8 + [True] * 2 + [True] * 10))
    np.testing.assert_allclose(points, [(0.1, 0.2), (0.8, 1.0)])


def test_the_page_holds_every_figure_and_loads_nothing(split):
    probabilities, truth, groups = split
    sex = ["F"] * 40 + ["M"] * 40
    measured = {
        name: performance(LABELS, probabilities, truth, groups, exclusive=False, subgroups={"sex": sex})
        for name in ("before", "after")
    }
    tables = dict.fromkeys(measured, probabilities)
    page = render("A <title>", {"site": "here & there"}, measured, tables, truth, LABELS)
    HTMLParser().feed(page)
    assert "A &lt;title&gt;" in page and "here &amp; there" in page
    assert not re.search(r'(src|href)="', page) and "<script" not in page
    for figures in (*measured["after"].labels, *measured["after"].subgroups["sex"]["M"]):
        assert estimate_text(figures.auroc) in page and estimate_text(figures.calibration_error) in page
    assert page.count("<svg") == 6
