"""Splits that do not leak, figures of what was held out, the learning curve."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from medsiglip.probing.study import (
    Labelled,
    folds_by_side,
    grouped_study_folds,
    held_out,
    learning_curve,
    mean_auroc,
    mean_auroc_difference,
)


def made(num=120, distance=1.5, exclusive=True, seed=0):
    random = np.random.default_rng(seed)
    truth = np.eye(3)[random.integers(0, 3, num)]
    vectors = (random.normal(size=(num, 6)) + distance * np.hstack([truth, np.zeros((num, 3))])).astype(np.float32)
    if not exclusive:
        truth[random.random(truth.shape) < 0.2] = np.nan
    groups = tuple(f"patient {i // 2}" for i in range(num))
    places = tuple(f"T.csv row {number}" for number in range(2, num + 2))
    return Labelled(("a", "b", "c"), exclusive, vectors, truth, groups, places, places)


@pytest.mark.parametrize("exclusive", [True, False])
def test_no_patient_lies_on_both_sides_and_every_row_is_scored_once(exclusive):
    data = made(exclusive=exclusive)
    folds = grouped_study_folds(data)
    for fold in folds:
        assert not {data.groups[i] for i in fold.fitted} & {data.groups[i] for i in fold.scored}
    np.testing.assert_array_equal(np.sort(np.concatenate([fold.scored for fold in folds])), np.arange(120))


def test_figures_are_of_rows_whose_group_was_not_seen():
    """Copies of one picture a patient, labels drawn: only a leak makes memorising them look good."""
    random = np.random.default_rng(0)
    vectors = np.repeat(random.normal(size=(30, 32)), 4, axis=0).astype(np.float32)
    truth = np.repeat(np.eye(2)[random.permutation([0, 1] * 15)], 4, axis=0)
    grouped = Labelled(
        ("a", "b"), True, vectors, truth, tuple(str(i // 4) for i in range(120)), tuple(range(120)), ("",) * 120
    )
    leaking = replace(grouped, groups=tuple(map(str, range(120))))

    def auroc(data):
        return mean_auroc(data, held_out(data, grouped_study_folds(data), "linear")).value

    assert auroc(leaking) > 0.95 and auroc(grouped) < 0.7


def test_mean_auroc_is_scikit_learn_s_over_what_is_said():
    data = made(exclusive=False)
    said = np.random.default_rng(1).random(data.truth.shape)
    expected = [
        roc_auc_score(column[np.isfinite(column)], p[np.isfinite(column)])
        for column, p in zip(data.truth.T, said.T, strict=True)
    ]
    assert mean_auroc(data, said).value == pytest.approx(np.mean(expected))
    nothing = mean_auroc_difference(data, said, said)
    assert nothing.value == 0 and tuple(nothing.ci95) == (0, 0)


def test_the_learning_curve_rises_to_the_whole():
    data = made(num=400, distance=2.0)
    fold = grouped_study_folds(data)[0]
    points = learning_curve(data, fold, "linear")
    assert [point["rows"] for point in points] == [16, 32, 64, 128, 256, len(fold.fitted)]
    assert [point["draws"] for point in points] == [3, 3, 3, 3, 3, 1]
    probabilities = held_out(data, [fold], "linear")[fold.scored]
    assert points[-1]["mean_auroc"] == pytest.approx(mean_auroc(data.rows(fold.scored), probabilities).value, abs=1e-6)
    assert points[-1]["mean_auroc"] > points[0]["mean_auroc"]


def sides_of(num=120, test_from=80):
    return ["train" if i < test_from else "test" for i in range(num)]


def test_a_split_of_the_table_is_used_as_it_is():
    (fold,) = folds_by_side(made(), [*sides_of()[:119], "validate"])
    assert (len(fold.fitted), len(fold.scored)) == (80, 39)


def test_a_patient_on_both_sides_is_refused_by_row_and_not_by_name():
    with pytest.raises(
        ValueError, match=r"T\.csv row 80 \(train\) and T\.csv row 81 \(test\) are of one patient"
    ) as refused:
        folds_by_side(made(), sides_of(test_from=79))
    assert "patient 39" not in str(refused.value)


def test_the_same_picture_on_both_sides_is_refused():
    data = made()
    copied = replace(data, sha256=(*data.sha256[:-1], data.sha256[0]))
    with pytest.raises(
        ValueError, match=r"T\.csv row 2 \(train\) and T\.csv row 121 \(test\) are of one picture, byte for byte"
    ):
        folds_by_side(copied, sides_of())


def test_a_side_without_rows_is_refused():
    with pytest.raises(ValueError, match="the split has 120 rows 'train' and 0 'test'; both are needed"):
        folds_by_side(made(), ["train"] * 120)
