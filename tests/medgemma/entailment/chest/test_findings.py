import pytest

from medgemma.entailment.chest.findings import findings_of


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("No pneumothorax or effusion.", [("pneumothorax", "absent"), ("effusion", "absent")]),
        ("Left effusion, but no edema.", [("effusion", "present"), ("edema", "absent")]),
        ("Opacity, likely atelectasis.", [("lung opacity", "present"), ("atelectasis", "possible")]),
        ("Scarring versus atelectasis.", [("scarring", "possible"), ("atelectasis", "possible")]),
        ("Pneumonia cannot be excluded.", [("pneumonia", "possible")]),
        ("Pneumonia has cleared.", [("pneumonia", "absent")]),
        ("Cardiomediastinal silhouette is normal.", [("cardiomegaly", "absent"), ("mediastinal widening", "absent")]),
        ("Evaluation for pneumonia.", []),
        ("Subcutaneous emphysema.", [("subcutaneous emphysema", "present")]),
        ("The thoracic cavity.", []),
        ("", []),
    ],
)  # fmt: skip
def test_findings_and_whether_they_are_there(text: str, found: list[tuple[str, str]]) -> None:
    assert [(finding.name, finding.status) for finding in findings_of(text)] == found


def test_attributes_belong_to_their_own_finding() -> None:
    effusion, nodule = findings_of(
        "Small right pleural effusion, increased, and a stable 8 mm nodule in the left upper lobe."
    )
    assert (effusion.sides, effusion.zones, effusion.size, effusion.change) == ({"right"}, set(), "small", "increased")
    assert (nodule.sides, nodule.zones, nodule.change, nodule.measures) == ({"left"}, {"upper"}, "stable", {"8 mm"})


def test_what_is_possible_lies_where_its_neighbour_does() -> None:
    opacity, pneumonia = findings_of("Opacity at the left base, which may represent pneumonia.")
    assert pneumonia.sides == opacity.sides == {"left"}
    assert pneumonia.zones == {"lower"}
