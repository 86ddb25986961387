"""Made-up runs on disk, as the runner writes them, for tests of what reads them."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from data_cards.split import side
from evals.items import Item, item_sha256, prompts_sha256, write_items
from evals.outputs import Output, OutputFile

HELD_OUT_GROUPS = [name for name in (f"patient-{number}" for number in range(2000)) if side(name) == "held-out"]

RECORD = {
    "task": "vqa-rad",
    "task_version": 1,
    "condition": "real",
    "side": "held-out",
    "seed": 0,
    "limit": None,
    "generation": {"max_new_tokens": 32},
    "model": "one",
    "model_fingerprint": "ab12",
    "model_identity": "ab12+cd34",
    "data_sha256": {"vqa-rad/labels.csv": "ab"},
    "data_differs_from_card": [],
    "versions": {"open-medgemma": "0.1.0"},
    "command": "medgemma-eval run vqa-rad",
}


def questions(n: int = 40, items_per_group: int = 2) -> list[Item]:
    """Yes/no questions, the reference yes for even numbers; one picture a patient."""
    return [
        Item(
            f"q{number}",
            (f"images/p{number // items_per_group}.png",),
            f"Is finding {number} there?",
            ("Yes", "No")[number % 2],
            "closed",
            HELD_OUT_GROUPS[number // items_per_group],
            {"card": "vqa-rad", "organ": "CHEST"},
        )
        for number in range(n)
    ]


def write_run(
    folder: Path, items: Sequence[Item], answer: Callable[[Item], str], scored: bool = True, **record: object
) -> Path:
    """Write one task's folder and score DIR; return DIR. An answer `!why` is an item that failed."""
    from evals.results.scores import score_dir

    folder.mkdir(parents=True)
    write_items(folder / "items.jsonl", items)
    with OutputFile(folder / "outputs.jsonl") as file:
        for item in items:
            text = answer(item)
            fields = {"error": text[1:]} if text.startswith("!") else {"text": text}
            file.write(Output(item.item_id, item_sha256(item), str(record.get("model", "one")), **fields))
    facts = {**RECORD, "prompts_sha256": prompts_sha256(items), **record}
    (folder / "run.json").write_text(json.dumps(facts))
    if scored:
        score_dir(folder.parent)
    return folder.parent


def write_label_run(
    folder: Path, items: Sequence[Item], probability: Callable[[Item], float], classes: tuple[str, str]
) -> Path:
    """Write a zero-shot task of two classes; `probability` is of the second."""
    from evals.results.scores import score_dir

    folder.mkdir(parents=True)
    write_items(folder / "items.jsonl", items)
    with OutputFile(folder / "outputs.jsonl") as file:
        for item in items:
            second = probability(item)
            named = {classes[0]: 1 - second, classes[1]: second}
            best = max(named, key=named.__getitem__)
            file.write(Output(item.item_id, item_sha256(item), "one", text=best, probabilities=named))
    (folder / "run.json").write_text(json.dumps({**RECORD, "task": folder.name}))
    score_dir(folder.parent)
    return folder.parent
