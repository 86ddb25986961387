"""A task's wording belongs to its version: who changes one changes the other."""

import json
from hashlib import sha256

import pytest

from evals.tasks import vqa_rad
from evals.tasks.catalogue import TASKS

# Task and version to the hash of its wording. A new version gets a new line; an old line is never changed.
WORDING_SHA256 = {
    "vqa-rad 1": "1430cf52ab601d72",
    "picture-questions 1": "433c7a6ec10076f8",
    "picture-questions-new-wordings 1": "433c7a6ec10076f8",
    "zero-shot-lung-histology 1": "d813efe15565021c",
    "zero-shot-mednist 1": "cf4aef546d3d80b8",
    "zero-shot-modality 1": "067fd3d862e08ce1",
    "zero-shot-body-part 1": "bddbb6b2806b0637",
    "zero-shot-nih-pneumonia 1": "d12b0df65b635304",
    "medqa 1": "8659ddfcdd820abc",
    "medmcqa 1": "8659ddfcdd820abc",
    "pubmedqa 1": "8659ddfcdd820abc",
    "mmlu-medical 1": "8659ddfcdd820abc",
    "medxpertqa-text 1": "8659ddfcdd820abc",
    "medxpertqa-mm 1": "8659ddfcdd820abc",
    "afrimed-qa 1": "8659ddfcdd820abc",
    "kit-medqa 1": "8659ddfcdd820abc",
    "kit-medmcqa 1": "8659ddfcdd820abc",
    "kit-pubmedqa 1": "8659ddfcdd820abc",
    "kit-mmlu-medical 1": "8659ddfcdd820abc",
    "medqa-likelihood 1": "8cb6302c86f3f07a",
    "medmcqa-likelihood 1": "4ce2e2b28a449a83",
    "pubmedqa-likelihood 1": "ed44fb71d970b792",
    "mmlu-medical-likelihood 1": "fb4af3c927fee986",
    "mmlu-medical-likelihood-5-shot 1": "fb4af3c927fee986",
    "kit-medqa-likelihood 1": "8cb6302c86f3f07a",
    "kit-medmcqa-likelihood 1": "4ce2e2b28a449a83",
    "kit-pubmedqa-likelihood 1": "ed44fb71d970b792",
    "kit-mmlu-medical-likelihood 1": "fb4af3c927fee986",
    "kit-mmlu-medical-likelihood-5-shot 1": "fb4af3c927fee986",
    "agent-clinic-medqa 1": "8e8b7a55280ce4b1",
}


def wording_sha256(task: str) -> str:
    """Hash all that a task's prompts are made of, apart from the data."""
    return sha256(json.dumps(TASKS[task].wording(), ensure_ascii=False).encode()).hexdigest()


@pytest.mark.parametrize("task", TASKS)
def test_the_wording_is_the_one_of_its_version(task: str) -> None:
    version = TASKS[task].version
    assert WORDING_SHA256.get(f"{task} {version}") == wording_sha256(task)[:16], (
        f"the wording of {task} is not that of its version {version}: give the task a new version in its file "
        f"and add '{task} <version>': '{wording_sha256(task)[:16]}' here"
    )


def test_a_changed_prompt_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    before = wording_sha256("vqa-rad"), wording_sha256("picture-questions")
    monkeypatch.setattr(vqa_rad, "INSTRUCTION", "Answer shortly.")
    assert wording_sha256("vqa-rad") != before[0] and wording_sha256("picture-questions") != before[1]
