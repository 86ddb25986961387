"""A task's wording belongs to its version: who changes one changes the other."""

import json
from hashlib import sha256

import pytest

from evals.tasks import vqa_rad
from evals.tasks.catalogue import TASKS
from evals.tasks.table_grading import METRICS

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
    "agent-clinic-medqa 1": "055e1fa35c29fb26",
    "vqa-rad-release 1": "85d0db2e94204820",
    "kit-vqa-rad-report-prompt 1": "85d0db2e94204820",
    "slake 1": "e1be1b35411d68b8",
    "path-vqa 1": "e1be1b35411d68b8",
    "mimic-cxr-conditions 1": "1112fc5b30de82b0",
    "mimic-cxr-conditions-labelled 1": "1112fc5b30de82b0",
    "chexpert-conditions 1": "1112fc5b30de82b0",
    "cxr14-conditions 1": "7f6930e2e357e599",
    "siim-pneumothorax 1": "2b3c6a5eab1b36df",
    "kit-cxr-conditions 1": "7df0540a564f95be",
    "kit-lung-histology 1": "c962ea78c5b2b8ce",
    "probe-kit-lung-histology 1": "5ff9d68b686d74c7",
    "kit-skin 1": "3226bf0d05a106b1",
    "zero-shot-kit-skin 1": "194bef82356f1cd9",
    "probe-kit-skin 1": "5ff9d68b686d74c7",
    "kit-fundus 1": "9ebcf175407fe05c",
    "zero-shot-kit-fundus 1": "f79b3e0abc2a6239",
    "probe-kit-fundus 1": "5ff9d68b686d74c7",
    "kit-mednist 1": "95bde0bc2bb0cab4",
    "probe-kit-mednist 1": "5ff9d68b686d74c7",
    "nct-crc 1": "240cfaa7c62431d1",
    "zero-shot-nct-crc 1": "ad6b6c0314aae9ec",
    "probe-nct-crc 1": "d92a884f24bc4b04",
    "ham10000 1": "3226bf0d05a106b1",
    "zero-shot-ham10000 1": "194bef82356f1cd9",
    "probe-ham10000 1": "5ff9d68b686d74c7",
    "pad-ufes-20 1": "f563771c6688b2b8",
    "zero-shot-pad-ufes-20 1": "93fc96f55ffbfa43",
    "probe-pad-ufes-20 1": "5ff9d68b686d74c7",
    "zero-shot-chexpert-findings 2": "61f82ed6febb0cfb",
    "zero-shot-mimic-cxr-findings 2": "61f82ed6febb0cfb",
    "zero-shot-kit-cxr-findings 1": "5134775fe1bdb5f7",
    "ehr-tools 1": "bc23b822cf11e03a",
    "safety 1": "80269b89809259c2",
    "mmmu 1": "1ef4535f839440e4",
    "mmlu-pro 1": "70991cf256e355da",
    "global-mmlu-lite 1": "70991cf256e355da",
    "eyepacs 1": "26f07eba74c22628",
    "us-derm-mcqa 1": "88127d977546a78e",
    "path-mcqa 1": "6a1acdef955d1455",
    "ct-dataset-1 1": "c2c46e106403ff0e",
    "ct-rate 1": "135ca04da7fd84ff",
    "mri-dataset-1 1": "aaed078aac5f285b",
    "ms-cxr-t 1": "651dece9f1d98910",
    "mimic-cxr-adjudicated 1": "613b80548b99aca2",
    "chest-imagenome 1": "0e5d35244c736ead",
    "wsi-path 1": "f72c5d17cd0c1a88",
    "lab-reports 1": "8734690b18e733bb",
    "ehrnoteqa 1": "30a58bab600e3d9e",
    "ehrqa 1": "99639f2b1874120a",
    "mimic-cxr-report 1": "a0bb174c7759cde6",
    "mimic-cxr-report-pretrained 1": "83a627a02e1dd477",
    "iu-xray-report 1": "a0bb174c7759cde6",
    "kit-iu-xray-impression 1": "4e8edf85589d9f44",
    "kit-ehrqa 1": "0f234a916a58892e",
    "kit-ehrqa-section 1": "0f234a916a58892e",
    "vqa-rad 2": "1430cf52ab601d72",
    "picture-questions 2": "583f8977c575e7f2",
    "picture-questions-new-wordings 2": "583f8977c575e7f2",
    "outside-questions 1": "f9e82bfc4bf3f52b",
    "picture-questions 3": "7c4a04b5c83259db",
    "picture-questions-new-wordings 3": "7c4a04b5c83259db",
    "outside-questions 2": "c537bba4e9c27d52",
    "zero-shot-lung-histology 2": "d813efe15565021c",
    "zero-shot-lung-histology-trained-wordings 1": "2c2f747dc36d3fd5",
    "zero-shot-mednist 2": "cf4aef546d3d80b8",
    "zero-shot-mednist-trained-wordings 1": "a3ead1078e152aaf",
    "zero-shot-modality 2": "067fd3d862e08ce1",
    "zero-shot-modality-trained-wordings 1": "418b6ac555e1398c",
    "zero-shot-body-part 2": "bddbb6b2806b0637",
    "zero-shot-body-part-trained-wordings 1": "147d605bb7a311ef",
    "zero-shot-vqa-rad 2": "53e399af6bd3ac90",
    "zero-shot-vqa-rad-trained-wordings 1": "cbc65b84ec3e61b3",
    "zero-shot-nih-pneumonia 2": "d12b0df65b635304",
    "zero-shot-nih-pneumonia-trained-wordings 1": "8b3f1da5d7f80ceb",
    **{f"table-{kind} 1": "104d7b5002f788aa" for kind in METRICS},
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
