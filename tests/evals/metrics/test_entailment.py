import pytest

from evals.metrics.entailment import Support, finding_recall, recalled_findings, supports, uncontradicted_share
from medgemma.entailment.scores import Entailment

SOURCE = "Small left effusion. No pneumothorax. The heart is enlarged."


def test_shares_of_sentences() -> None:
    said = "Left effusion. Right effusion. There is a nodule. Cardiomegaly."
    assert supports([said, ""], [SOURCE, SOURCE]) == [Support(0.5, 0.25), Support(0.0, 0.0)]
    assert uncontradicted_share(said, SOURCE) == 0.75
    assert uncontradicted_share("", SOURCE) == 1


def test_another_scorer_counts_by_its_likeliest_label() -> None:
    answers = {"A.": Entailment(0.6, 0.3, 0.1), "B.": Entailment(0.1, 0.3, 0.6), "C.": Entailment(0.3, 0.4, 0.3)}
    found = supports(["A. B. C."], ["s"], lambda pairs: [answers[hypothesis] for _, hypothesis in pairs])
    assert found[0] == pytest.approx((1 / 3, 1 / 3))


@pytest.mark.parametrize(
    ("text", "recalled"),
    [
        ("Effusion and cardiomegaly.", (2, 2)),
        ("Pleural effusion. No pneumothorax.", (1, 2)),
        ("No effusion. No cardiomegaly.", (0, 2)),
        ("No acute cardiopulmonary abnormality.", (0, 2)),
        ("", (0, 2)),
    ],
)
def test_recall_counts_what_is_stated_and_not_what_is_denied(text: str, recalled: tuple[int, int]) -> None:
    assert recalled_findings(text, SOURCE) == recalled
    assert finding_recall(text, SOURCE) == recalled[0] / 2


def test_a_kind_of_a_finding_recalls_it_and_a_wider_one_does_not() -> None:
    assert finding_recall("There is a nodule.", "There is an opacity.") == 1
    assert finding_recall("There is an opacity.", "There is a nodule.") == 0
    assert finding_recall("There is a nodule.", "No effusion.") == 1  # nothing to recall
