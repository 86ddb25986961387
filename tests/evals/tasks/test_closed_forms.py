"""What a model that looks at nothing scores on closed questions, worked out by hand.

A model that says the same to everything gets the share of that answer; answers drawn evenly from k get 1 / k; and the
F1 of a condition with share p of positives is 2p / (1 + p) for "always yes".
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from evals.items import Item, item_sha256
from evals.measures import Answered
from evals.outputs import Output
from evals.results.scores import measures, value_of
from evals.tasks import chest_films, picture_classes
from evals.tasks.catalogue import TASKS
from evals.tasks.multiple_choice import options_of
from evals.tasks.task import ItemOptions, Task

KIT_YES_NO = ("kit-cxr-conditions",)
KIT_LETTERS = (
    "kit-medqa",
    "kit-medmcqa",
    "kit-pubmedqa",
    "kit-mmlu-medical",
    "kit-lung-histology",
    "kit-skin",
    "kit-fundus",
    "kit-mednist",
)
KIT_LIKELIHOOD = tuple(f"{name}-likelihood" for name in KIT_LETTERS[:4])
KIT_SHORT = ("vqa-rad", "kit-vqa-rad-report-prompt", "picture-questions", "picture-questions-new-wordings")
KIT_PICTURES = {"modality-mednist", "histo-lc25000-lung", "cxr-nih14", "derm-ham10000", "fundus-dr"}
KIT_LABELS = tuple(name for name, task in TASKS.items() if task.answers == "label" and set(task.cards) <= KIT_PICTURES)


def items_of(task: Task, kit: Path) -> list[Item]:
    return task.items(kit, ItemOptions(task.checked_side("")))


def answer(items: Sequence[Item], texts: Sequence[str]) -> list[Answered]:
    pairs = zip(items, texts, strict=True)
    return [Answered(item, Output(item.item_id, item_sha256(item), "m", text=text)) for item, text in pairs]


def values(task: Task, answered: list[Answered]) -> dict[str, float]:
    return {name: value_of(measure) for name, measure in measures(task, answered).items()}


def letters_of(item: Item, name: str) -> list[str]:
    if name in picture_classes.SETS:
        return list(picture_classes.lettered(picture_classes.SETS[name].options).values())
    return list(options_of(item))


@pytest.mark.kit
@pytest.mark.parametrize("name", KIT_YES_NO)
def test_always_yes_on_conditions(kit: Path, name: str) -> None:
    task = TASKS[name]
    items = items_of(task, kit)
    found = values(task, answer(items, ["Final Answer: yes"] * len(items)))
    share = {}
    for condition in {item.meta["condition"] for item in items}:
        present = [item.reference == "yes" for item in items if item.meta["condition"] == condition]
        share[condition] = np.mean(present)
    assert found["accuracy"] == pytest.approx(np.mean([item.reference == "yes" for item in items]), abs=1e-12)
    assert found["unparsed"] == 0
    f1 = {condition: 2 * p / (1 + p) for condition, p in share.items() if p > 0}
    named = [f1[condition] for condition in chest_films.SETS[name].named if condition in f1]
    assert found["macro_f1"] == pytest.approx(np.mean(named), abs=1e-12)
    assert found["macro_f1_all"] == pytest.approx(np.mean(list(f1.values())), abs=1e-12)
    assert found["macro_recall"] == 1
    assert found["macro_precision"] == pytest.approx(
        np.mean([share[c] for c in chest_films.SETS[name].named if share[c] > 0]), abs=1e-12
    )
    for condition, expected in f1.items():
        assert found[f"f1/{condition}"] == pytest.approx(expected, abs=1e-12)
    never = values(task, answer(items, ["Final Answer: no"] * len(items)))
    assert never["macro_f1"] == never["macro_recall"] == 0
    assert never["accuracy"] == pytest.approx(1 - found["accuracy"], abs=1e-12)


@pytest.mark.kit
@pytest.mark.parametrize("name", KIT_YES_NO)
def test_a_coin_on_conditions(kit: Path, name: str) -> None:
    """Yes to every second positive and every second negative: recall 1/2, precision the prevalence."""
    task, half = TASKS[name], []
    by_class: dict[tuple[str, str], list[Item]] = {}
    for item in items_of(task, kit):
        by_class.setdefault((item.meta["condition"], item.reference), []).append(item)
    for members in by_class.values():
        half += members[: len(members) // 2 * 2]
    seen: Counter[tuple[str, str]] = Counter()
    texts = []
    for item in half:
        key = (item.meta["condition"], item.reference)
        texts.append("yes" if seen[key] % 2 else "no")
        seen[key] += 1
    found = values(task, answer(half, texts))
    assert found["accuracy"] == 0.5
    for condition in {item.meta["condition"] for item in half}:
        present = [item.reference == "yes" for item in half if item.meta["condition"] == condition]
        if any(present):
            p = float(np.mean(present))
            assert found[f"f1/{condition}"] == pytest.approx(p / (p + 0.5), abs=1e-12)  # 2 (p/2) / (1/2 + p)


@pytest.mark.kit
@pytest.mark.parametrize("name", KIT_LETTERS)
def test_one_letter_and_evenly_drawn_letters(kit: Path, name: str) -> None:
    task = TASKS[name]
    items = items_of(task, kit)
    number = max(len(letters_of(item, name)) for item in items)
    rounds = []
    for turn in range(number):
        drawn = [letters_of(item, name)[turn % len(letters_of(item, name))] for item in items]
        found = values(task, answer(items, [f"Final Answer: ({letter})" for letter in drawn]))
        assert found["unparsed"] == 0
        rounds.append(found["accuracy"])
    if all(len(letters_of(item, name)) == number for item in items):
        assert np.mean(rounds) == pytest.approx(1 / number, abs=1e-12)  # each option once to every item
    yes = values(task, answer(items, ["Final Answer: yes"] * len(items)))
    expected = [float(options_of(item).get(item.reference) == "yes") for item in items]
    assert yes["accuracy"] == pytest.approx(np.mean(expected), abs=1e-12)  # 0, but for PubMedQA's share of yes


@pytest.mark.kit
@pytest.mark.parametrize("name", KIT_LIKELIHOOD)
def test_one_option_and_evenly_drawn_options_by_likelihood(kit: Path, name: str) -> None:
    task = TASKS[name]
    items = items_of(task, kit)
    shares = []
    for turn in range(len(items[0].choices)):
        scores = [0.0 if place == turn else -50.0 for place in range(len(items[0].choices))]
        answered = [
            Answered(item, Output(item.item_id, item_sha256(item), "m", log_likelihoods=scores)) for item in items
        ]
        found = values(task, answered)
        share = float(np.mean([item.reference == "ABCDE"[turn] for item in items]))
        assert found["accuracy"] == found["accuracy_per_character"] == pytest.approx(share, abs=1e-12)
        shares.append(found["accuracy"])
    assert sum(shares) == pytest.approx(1, abs=1e-12)


@pytest.mark.kit
@pytest.mark.parametrize("name", KIT_SHORT)
def test_always_yes_on_short_answers(kit: Path, name: str) -> None:
    task = TASKS[name]
    items = items_of(task, kit)
    closed = [item for item in items if item.kind == "closed"]
    found = values(task, answer(items, ["yes"] * len(items)))
    assert found["closed_accuracy"] == pytest.approx(np.mean([i.reference.lower() == "yes" for i in closed]), abs=1e-12)
    if name.startswith("picture-questions"):
        assert found["closed_accuracy"] == 0.5


@pytest.mark.kit
@pytest.mark.parametrize("name", KIT_LABELS)
def test_a_classifier_that_does_not_look(kit: Path, name: str) -> None:
    """The same probabilities for every picture: accuracy is the share of the class, every AUROC one half."""
    task = TASKS[name]
    items = items_of(task, kit)
    classes = sorted({item.reference for item in items})
    even = dict.fromkeys(classes, 1 / len(classes))
    said = [Output(i.item_id, item_sha256(i), "m", text=classes[-1], probabilities=even) for i in items]
    found = values(task, [Answered(item, output) for item, output in zip(items, said, strict=True)])
    assert found["accuracy"] == pytest.approx(np.mean([i.reference == classes[-1] for i in items]), abs=1e-12)
    ranked = [value for metric, value in found.items() if "auroc" in metric and np.isfinite(value)]
    assert ranked and all(value == pytest.approx(0.5, abs=1e-12) for value in ranked)


@pytest.mark.kit
def test_precision_and_recall_swapped_are_seen(kit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    swapped = {"f1": "f1", "precision": "recall", "recall": "precision"}
    of = chest_films.rate_of_columns
    monkeypatch.setattr(chest_films, "rate_of_columns", lambda totals, n, rate: of(totals, n, swapped[rate]))
    with pytest.raises(AssertionError):
        test_always_yes_on_conditions(kit, "kit-cxr-conditions")


def test_a_film_that_cannot_be_read_has_no_rank() -> None:
    from evals.tasks.zero_shot_findings import aurocs

    def film(name: str, reference: str, present: float | None) -> Answered:
        item = Item(name, (name,), "p", reference, "class", name, {"label_set": "edema"})
        said = {} if present is None else {"absent": 1 - present, "present": present}
        return Answered(item, Output(name, item_sha256(item), "m", probabilities=said, error="" if said else "no file"))

    films = [film("a", "present", 0.9), film("b", "absent", 0.1), film("c", "present", None)]
    found = aurocs(films)
    assert {name: value_of(measure) for name, measure in found.items()} == {"mean_auroc": 1.0, "auroc/edema": 1.0}
    assert found["mean_auroc"].item_ids == ["a", "b"]
    assert aurocs(films[2:]) == {}
