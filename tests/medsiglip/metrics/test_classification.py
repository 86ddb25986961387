"""Hand-computed values, scikit-learn as the oracle, and the closed forms of answering without looking."""

import numpy as np
import pytest
from sklearn import metrics as sk

from evals.metrics.conditions import ConditionAnswer, macro_f1_over_conditions, macro_over_conditions
from medsiglip.metrics import classification as ours
from medsiglip.metrics.estimates import counts_estimate

# 10 films: 4 with the finding, of which 3 are found; 6 without, of which 2 are called.
# TP 3, FN 1, FP 2, TN 4.
LABELS = ["yes"] * 4 + ["no"] * 6
PREDICTED = ["yes", "yes", "yes", "no", "yes", "yes", "no", "no", "no", "no"]


def test_binary_rates_by_hand() -> None:
    assert ours.accuracy(PREDICTED, LABELS) == 7 / 10
    assert ours.precision(PREDICTED, LABELS, "yes") == 3 / 5
    assert ours.recall(PREDICTED, LABELS, "yes") == ours.sensitivity(PREDICTED, LABELS, "yes") == 3 / 4
    assert ours.specificity(PREDICTED, LABELS, "yes") == 4 / 6
    assert ours.f1(PREDICTED, LABELS, "yes") == pytest.approx(2 * 3 / (2 * 3 + 2 + 1))
    assert ours.balanced_accuracy(PREDICTED, LABELS) == pytest.approx((3 / 4 + 4 / 6) / 2)


def test_swapping_precision_and_recall_would_be_seen() -> None:
    """The fault of MedEvalKit: both orders give the same F1, so only the two rates themselves can tell."""
    assert ours.precision(PREDICTED, LABELS, "yes") != ours.recall(PREDICTED, LABELS, "yes")
    assert ours.precision(LABELS, PREDICTED, "yes") == ours.recall(PREDICTED, LABELS, "yes") == 0.75
    assert ours.f1(LABELS, PREDICTED, "yes") == ours.f1(PREDICTED, LABELS, "yes")


def test_three_classes_by_hand() -> None:
    """a: 2 of 3 hit, predicted 3 times; b: 1 of 2, predicted 2 times; c: 1 of 1, predicted once.

    F1: a 2*2/(3+3) = 2/3, b 2*1/(2+2) = 1/2, c 2*1/(1+1) = 1.
    """
    labels, predicted = list("aaabbc"), list("aabbac")
    assert ours.macro_f1(predicted, labels) == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    assert ours.weighted_f1(predicted, labels) == pytest.approx((3 * 2 / 3 + 2 * 1 / 2 + 1 * 1) / 6)
    assert ours.micro_f1(predicted, labels) == ours.accuracy(predicted, labels) == 4 / 6
    # without c: hits 3, labels 5, predictions 5
    assert ours.micro_f1(predicted, labels, ("a", "b")) == pytest.approx(2 * 3 / 10)


def random_labels(seed: int, n: int = 200) -> tuple[list[str], list[str]]:
    rng = np.random.default_rng(seed)
    labels = rng.choice(["0", "1", "2", "3"], n, p=[0.5, 0.3, 0.15, 0.05])
    predicted = np.where(rng.random(n) < 0.6, labels, rng.choice(["0", "1", "2", "3"], n))
    return predicted.tolist(), labels.tolist()


@pytest.mark.parametrize("seed", range(5))
def test_scikit_learn_agrees(seed: int) -> None:
    predicted, labels = random_labels(seed)
    assert ours.balanced_accuracy(predicted, labels) == pytest.approx(sk.balanced_accuracy_score(labels, predicted))
    for average in ("macro", "weighted", "micro"):
        ours_f1 = {"macro": ours.macro_f1, "weighted": ours.weighted_f1, "micro": ours.micro_f1}[average]
        assert ours_f1(predicted, labels) == pytest.approx(sk.f1_score(labels, predicted, average=average))
    some = ("1", "3")
    assert ours.micro_f1(predicted, labels, some) == pytest.approx(
        sk.f1_score(labels, predicted, average="micro", labels=list(some))
    )
    for weights in ("linear", "quadratic"):
        assert ours.weighted_kappa(predicted, labels, "0123", weights) == pytest.approx(  # type: ignore[arg-type]
            sk.cohen_kappa_score(labels, predicted, weights=weights)
        )
    two = [["0" if name in "01" else "1" for name in names] for names in (predicted, labels)]
    assert ours.precision(*two, "1") == pytest.approx(sk.precision_score(two[1], two[0], pos_label="1"))
    assert ours.recall(*two, "1") == pytest.approx(sk.recall_score(two[1], two[0], pos_label="1"))
    assert ours.specificity(*two, "1") == pytest.approx(sk.recall_score(two[1], two[0], pos_label="0"))
    assert ours.f1_lm_eval(*two) == pytest.approx(sk.f1_score([int(x) for x in two[1]], [int(x) for x in two[0]]))


def test_weighted_kappa_by_hand() -> None:
    """Grades 0, 1, 2 against 0, 2, 2 (reference). Margins: predicted 1, 1, 1; reference 1, 0, 2.

    Linear: seen disagreement 1 of 3 items = 1/3. By chance: sum over (i, j) of ref_i pred_j |i - j| / 9
    = (1*(0+1+2) + 2*(2+1+0)) / 9 = 9/9 = 1; kappa = 1 - 1/3 = 2/3.
    Quadratic: seen 1/3; by chance (1*(0+1+4) + 2*(4+1+0)) / 9 = 15/9; kappa = 1 - (1/3)/(15/9) = 4/5.
    """
    assert ours.weighted_kappa("012", "022", "012", "linear") == pytest.approx(2 / 3)
    assert ours.weighted_kappa("012", "022", "012", "quadratic") == pytest.approx(4 / 5)
    assert np.isnan(ours.weighted_kappa("00", "00", "01", "linear"))
    with pytest.raises(ValueError, match=r"got the labels \[''\]"):
        ours.weighted_kappa(["", "1"], ["0", "1"], "01", "linear")


def test_empty_and_unparsed_answers_stay_in_n() -> None:
    """An unparsed answer to each kind of item: a miss, and no false alarm."""
    predicted, labels = ["yes", "", "", "no"], ["yes", "yes", "no", "no"]
    assert ours.accuracy(predicted, labels) == 2 / 4
    assert ours.recall(predicted, labels, "yes") == 1 / 2 and ours.precision(predicted, labels, "yes") == 1.0
    assert ours.specificity(predicted, labels, "yes") == 1.0
    assert ours.balanced_accuracy(predicted, labels) == (1 / 2 + 1 / 2) / 2


def test_undefined_rates_are_nan_and_refusals_speak() -> None:
    assert np.isnan(ours.precision(["no"], ["yes"], "yes"))
    assert np.isnan(ours.recall(["yes"], ["no"], "yes")) and np.isnan(ours.f1(["no"], ["no"], "yes"))
    assert ours.f1_lm_eval(["0"], ["0"]) == 0.0
    for metric in (ours.balanced_accuracy, ours.macro_f1, ours.weighted_f1, ours.micro_f1):
        with pytest.raises(ValueError, match="as many of each"):
            metric(["a"], ["a", "b"])  # type: ignore[operator]


def test_the_order_of_items_does_not_matter() -> None:
    predicted, labels = random_labels(3)
    order = np.random.default_rng(0).permutation(len(labels))
    mixed = [[names[place] for place in order] for names in (predicted, labels)]
    for metric in (ours.accuracy, ours.balanced_accuracy, ours.macro_f1, ours.weighted_f1, ours.micro_f1):
        value = metric(predicted, labels)  # type: ignore[operator]
        assert metric(*mixed) == pytest.approx(value) and 0 <= value <= 1  # type: ignore[operator]


@pytest.mark.parametrize("prevalence", [0.1, 0.5, 0.8])
def test_always_yes_gives_the_closed_forms(prevalence: float) -> None:
    """Accuracy = precision = prevalence, recall 1, specificity 0, balanced 1/2, F1 = 2p/(1+p), macro F1 half of it."""
    n_yes = round(50 * prevalence)
    labels, predicted = ["yes"] * n_yes + ["no"] * (50 - n_yes), ["yes"] * 50
    p = n_yes / 50
    assert ours.accuracy(predicted, labels) == ours.precision(predicted, labels, "yes") == p
    assert ours.recall(predicted, labels, "yes") == 1 and ours.specificity(predicted, labels, "yes") == 0
    assert ours.balanced_accuracy(predicted, labels) == 0.5
    assert ours.f1(predicted, labels, "yes") == pytest.approx(2 * p / (1 + p))
    assert ours.macro_f1(predicted, labels) == pytest.approx(p / (1 + p))
    assert ours.weighted_kappa(predicted, labels, ("no", "yes"), "linear") == 0


def test_a_random_answerer_gives_the_closed_forms_exactly() -> None:
    """Says yes to exactly half of the yes items and half of the no items, whatever the prevalence."""
    labels = ["yes"] * 20 + ["no"] * 60
    predicted = ["yes", "no"] * 40
    assert ours.accuracy(predicted, labels) == 0.5 and ours.balanced_accuracy(predicted, labels) == 0.5
    assert ours.precision(predicted, labels, "yes") == 20 / 80
    assert ours.f1(predicted, labels, "yes") == pytest.approx(2 * 0.25 * 0.5 / 0.75)
    assert ours.weighted_kappa(predicted, labels, ("no", "yes"), "quadratic") == pytest.approx(0)


def test_intervals_of_counts_agree_with_single_resamples() -> None:
    """The vectorised macro F1 of one resample is the plain macro F1 of the items drawn."""
    predicted, labels = random_labels(1, 60)
    classes = ours.classes_of(predicted, labels)
    drawn = np.random.default_rng(0).integers(0, 60, 60)
    columns = ours.confusion_columns(predicted, labels, classes)[drawn].sum(axis=0, keepdims=True)
    plain = ours.macro_f1([predicted[i] for i in drawn], [labels[i] for i in drawn])
    assert ours.macro_f1_of_counts(ours.as_counts(columns))[0] == pytest.approx(plain)
    estimate = counts_estimate(ours.macro_f1_of_counts, predicted, labels, [str(i) for i in range(60)])
    assert estimate.value == pytest.approx(ours.macro_f1(predicted, labels))
    assert estimate.ci95.low < estimate.value < estimate.ci95.high


def test_rates_with_intervals_over_patients() -> None:
    """The 10 films of 5 patients: the positive class is the second of `classes`."""
    patients = [f"p{i // 2}" for i in range(10)]
    for rate, plain in (
        (ours.precision_of_counts, ours.precision),
        (ours.recall_of_counts, ours.recall),
        (ours.specificity_of_counts, ours.specificity),
        (ours.f1_of_counts, ours.f1),
    ):
        found = counts_estimate(rate, PREDICTED, LABELS, patients, classes=("no", "yes"))
        assert found.value == plain(PREDICTED, LABELS, "yes") and found.n_groups == 5
        assert 0 <= found.ci95.low <= found.value <= found.ci95.high <= 1
    with pytest.raises(ValueError, match="expected only no, yes"):
        counts_estimate(ours.f1_of_counts, ["maybe", "no"], ["yes", "no"], ["a", "b"], classes=("no", "yes"))


def answer(condition: str, present: bool, said: bool | None, group: str = "g") -> ConditionAnswer:
    return ConditionAnswer(condition, present, said, group)


ASKED = [
    # edema: TP 1, FN 1 (unparsed), FP 1 -> F1 2/(2+1+1) = 1/2; precision 1/2, recall 1/2
    answer("edema", True, True, "p1"),
    answer("edema", True, None, "p2"),
    answer("edema", False, True, "p3"),
    # fracture: TP 2 -> 1
    answer("fracture", True, True, "p1"),
    answer("fracture", True, True, "p2"),
    answer("fracture", False, None, "p3"),
    # pneumothorax: nobody has it
    answer("pneumothorax", False, False, "p1"),
    answer("pneumothorax", False, True, "p2"),
]


def test_macro_f1_over_named_conditions_by_hand() -> None:
    found = macro_f1_over_conditions(ASKED, ("edema", "fracture", "pneumothorax"))
    assert found.per_condition == {"edema": 0.5, "fracture": 1.0}
    assert found.estimate.value == pytest.approx(0.75) and found.without_positive == ("pneumothorax",)
    assert (found.estimate.n, found.estimate.n_groups, found.n_unparsed) == (8, 3, 2)
    assert macro_f1_over_conditions(ASKED, ("fracture",)).estimate.value == 1.0
    assert macro_over_conditions(ASKED, ("edema",), "recall").estimate.value == 0.5
    never = [answer("edema", True, False), answer("edema", False, False)]
    assert macro_over_conditions(never, ("edema",), "precision").estimate.value == 0.0


def test_conditions_are_named_or_refused() -> None:
    with pytest.raises(ValueError, match="no question about atelectasis"):
        macro_f1_over_conditions(ASKED, ("edema", "atelectasis"))
    with pytest.raises(ValueError, match="expected each once"):
        macro_f1_over_conditions(ASKED, ("edema", "edema"))
    nobody = macro_f1_over_conditions(ASKED, ("pneumothorax",))
    assert np.isnan(nobody.estimate.value) and "undefined" in nobody.estimate.note


def test_macro_f1_over_conditions_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    truth, said = rng.random((80, 3)) < 0.4, rng.random((80, 3)) < 0.5
    names = ("edema", "fracture", "mass")
    asked = [
        answer(name, bool(truth[i, c]), bool(said[i, c]), f"p{i}") for i in range(80) for c, name in enumerate(names)
    ]
    found = macro_f1_over_conditions(asked, names)
    assert found.estimate.value == pytest.approx(sk.f1_score(truth, said, average="macro"))
