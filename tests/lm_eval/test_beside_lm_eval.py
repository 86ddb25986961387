"""The likelihood rows beside lm-evaluation-harness's own tasks, item by item."""

import os
from pathlib import Path
from typing import Any

import pytest

from evals.items import Item
from evals.measures import Answered
from evals.outputs import Output
from evals.results.scores import measures, value_of
from evals.running.choosing import choose_items
from evals.tasks.catalogue import TASKS
from evals.tasks.question_sets import SETS, ChoiceQuestion
from evals.tasks.task import ItemOptions
from medgemma import MedGemma
from tests.lm_eval import jobs

QUESTIONS = 24
LONGEST = 2500
"""Characters of a prompt; nano holds 2,048 tokens, and lm-evaluation-harness would cut a longer one."""

ROWS = {
    "kit-medqa-likelihood": "kit-medqa",
    "kit-medmcqa-likelihood": "kit-medmcqa",
    "kit-pubmedqa-likelihood": "kit-pubmedqa",
    "kit-mmlu-medical-likelihood": "kit-mmlu-medical",
    "kit-mmlu-medical-likelihood-5-shot": "kit-mmlu-medical",
}
SUBJECTS = ("anatomy", "medical_genetics", "clinical_knowledge")
"""Of MMLU: two have five worked examples in the kit, the third has three."""


@pytest.fixture(scope="module")
def model() -> MedGemma:
    return MedGemma.from_pretrained("nano", device="cpu")


@pytest.fixture(scope="module")
def decoder(model: MedGemma, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("decoder")
    jobs.write_decoder(model, folder)
    return folder


def chosen_items(kit: Path, name: str, subject: str) -> list[Item]:
    task = TASKS[name]
    made = task.items(kit, ItemOptions(task.checked_side(""), 0, task.num_fewshot))
    of_subject = [item for item in made if subject in ("", item.meta["subject"]) and len(item.prompt) < LONGEST]
    return of_subject[:QUESTIONS]


def questions_of(kit: Path, name: str, side: str) -> dict[str, ChoiceQuestion]:
    return {question.asked.item_id: question for question in SETS[name].questions(kit, side)}


def job_of(kit: Path, folder: Path, name: str, subject: str, items: list[Item]) -> dict[str, Any]:
    task, source = TASKS[name], SETS[ROWS[name]]
    assert source.style is not None
    known = questions_of(kit, ROWS[name], task.checked_side(""))
    examples: list[ChoiceQuestion] = []
    if source.style == "mmlu":
        pool = source.examples(kit, task.checked_side(""))
        examples = [question for question in pool if question.asked.subject == subject]
    num_fewshot = min(task.num_fewshot, len(examples))
    asked = [known[item.item_id] for item in items]
    return jobs.job(f"{name}_{subject}", source.style, asked, folder, examples, num_fewshot, subject)


CASES = [(name, subject) for name in ROWS for subject in (SUBJECTS if "mmlu" in name else ("",))]


@pytest.fixture(scope="module")
def theirs(kit: Path, decoder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What lm-evaluation-harness makes of all cases, in one run."""
    folder = tmp_path_factory.mktemp("jobs")
    planned = [job_of(kit, folder, name, subject, chosen_items(kit, name, subject)) for name, subject in CASES]
    found: dict[str, Any] = jobs.run(os.environ["LM_EVAL_PYTHON"], decoder, planned, folder)["jobs"]
    return found


@pytest.mark.kit
@pytest.mark.parametrize(("name", "subject"), CASES)
def test_item_by_item(kit: Path, model: MedGemma, theirs: dict[str, Any], name: str, subject: str) -> None:
    items, job = chosen_items(kit, name, subject), theirs[f"{name}_{subject}"]
    samples = {sample["row"]["id"]: sample for sample in job["samples"]}
    ours = {output.item_id: output for output in choose_items(items, model)}
    assert len(samples) == len(ours) == len(items) > 10
    for item in items:
        sample, output = samples[item.item_id], ours[item.item_id]
        assert item.prompt == sample["prompt"]
        assert list(item.choices) == sample["choices"]
        assert output.log_likelihoods == pytest.approx(sample["log_likelihoods"], abs=1e-3)
        graded = TASKS[name].grade(item, output)
        if closest(output) > 1e-3:  # nearer than that either may be the likelier
            assert graded["accuracy"] == sample["acc"]
            if sample["acc_norm"] is not None:
                assert graded["accuracy_per_character"] == sample["acc_norm"]
    figure = measures(TASKS[name], [Answered(item, ours[item.item_id]) for item in items])["accuracy"]
    near = sum(closest(output) <= 1e-3 for output in ours.values())
    assert value_of(figure) == pytest.approx(job["acc"], abs=near / len(items) + 1e-9)


def closest(output: Output) -> float:
    """How far the two likeliest choices are apart."""
    first, second = sorted(output.log_likelihoods, reverse=True)[:2]
    return first - second


@pytest.mark.kit
def test_a_changed_prompt_is_seen(kit: Path, theirs: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison can fail: one space before `Answer:` is enough."""
    from evals.tasks import choice_likelihood

    before = choice_likelihood.prompt
    monkeypatch.setattr(choice_likelihood, "prompt", lambda *asked: before(*asked).replace("Answer:", " Answer:"))
    samples = {sample["row"]["id"]: sample for sample in theirs["kit-medqa-likelihood_"]["samples"]}
    items = [item for item in chosen_items(kit, "kit-medqa-likelihood", "") if item.item_id in samples]
    assert items and all(item.prompt != samples[item.item_id]["prompt"] for item in items)
