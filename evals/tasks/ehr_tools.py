"""Questions about a patient's record, answered with tools: a manifest of the record, and fetches from it.

The steps and the tools are those of Google's EHR navigator notebook; records and questions are synthea-fhir-r4's. The
MedGemma report's EHRQA puts a condensed record into the prompt instead, and its questions are private: figures do not
compare.
"""

import json
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Literal, get_args

from data_cards.readers.records import RecordQuestion, read_synthea_bundles, read_synthea_questions
from data_cards.readers.tables import find_set
from data_cards.split import side as side_of
from evals.clinic.dialogue import Dialogue, Players
from evals.clinic.episodes import Reply, episode_of
from evals.clinic.record_agent import Assignment, call_in, run_agent, session_in, text_of, tool_call_in
from evals.items import Item
from evals.outputs import Output
from evals.tasks.record_answers import is_right
from evals.tasks.task import Task, checked_side, of_side_and_seed
from experience import Episode
from medgemma.records.elements import Resource
from medgemma.records.tools import local_search

CARD = "synthea-fhir-r4"
NAME = "ehr-tools"

MAX_CALLS = 40
MAX_ATTEMPTS = 2
PIECE_CHARACTERS = 12_000

SPLITS: tuple[Literal["train", "val"], ...] = ("train", "val")
ItemSide = Literal["sample", "held-out", "train", "final", "all"]
SIDES: tuple[ItemSide, ...] = get_args(ItemSide)
SAMPLE_PER_KIND = 5

SYSTEM = "You look things up in a patient's health record (FHIR). Use nothing but what the record says."

MANIFEST = """Question about patient {patient_id}: {question}

First ask for the manifest: the kinds of resource in the record and their codes. Reply with this JSON object only:
{{"tool": "manifest", "patient_id": "<id of the patient>"}}"""

TYPES = """Question: {question}

The record's resource types, each with its codes as display=code:
{manifest}

Which types have to be read to answer? Reply with a JSON list of their names only, for example ["Condition"]."""

FETCH = """Question about patient {patient_id}: {question}

Fetch {resource_type}. Its codes, as display=code: {codes}
Reply with this JSON object only; leave the list empty to get all of them:
{{"tool": "fetch", "patient_id": "<id of the patient>", "resource_type": "{resource_type}", "codes": ["<code>"]}}"""

FACTS = """Question: {question}

{resource_type} resources, one a line:
{resources}

Write down every fact in them that matters to the question, each with its date and [type/id], and nothing else. If none
matters, write: none"""

ANSWER = """Question: {question}

Facts from the record:
{facts}

Answer in as few words as possible. Write dates as YYYY-MM-DD, blood pressure as systolic/diastolic, a value with its
unit and, if the latest is asked for, its date; divide the entries of a list by semicolons; if there are none, write:
none"""

ERROR = "That cannot be done: {error}. Reply again in the form asked for."


def assignment_of(question: RecordQuestion) -> Assignment:
    """Put a question into the words of the five steps."""
    return Assignment(
        patient_id=question.patient_id,
        question=question.question,
        system=SYSTEM,
        manifest=MANIFEST,
        types=TYPES,
        fetch=FETCH,
        facts=FACTS,
        answer=ANSWER,
        error=ERROR,
        max_calls=MAX_CALLS,
        max_attempts=MAX_ATTEMPTS,
        piece_characters=PIECE_CHARACTERS,
    )


def items(data_dir: str | Path, side: str = "sample", seed: int = 0) -> list[Item]:
    """Make an item a question, in a seeded order; its prompt is the `Assignment` and the record's hash, as JSON.

    Args:
        data_dir: A folder with the folder `synthea-fhir-r4`, or that folder.
        side: Patients: `held-out`, `train`, `final`, or `all`; both of the set's own tables are read for each. `sample`
            is five questions of each kind about held-out patients, for a question takes a model ten replies or so.
        seed: Of the order, and of the sample.

    Raises:
        ValueError: The set is missing or broken, or the side is unknown.
    """
    checked_side(side, SIDES)
    folder = find_set(data_dir, CARD)
    found = [
        _item(folder, split, question)
        for split in SPLITS
        for question in read_synthea_questions(folder, split)
        if side == "all" or side_of(question.group) == ("held-out" if side == "sample" else side)
    ]
    random.Random(seed).shuffle(found)
    return _of_each_kind(found, SAMPLE_PER_KIND) if side == "sample" else found


def grade(item: Item, output: Output) -> dict[str, float]:
    """Grade one session: metric name to value; a session without an answer is wrong and stays in n.

    `answer_correct` as `record_answers.is_right`; `answered`; `model_calls`; `wrong_calls`, those that came back as
    errors; `evidence_fetched`, the share of the question's evidence that the fetches brought (where it has any).
    """
    held = session_in(output.text)
    value = json.loads(item.meta["answer_value"])
    answered = held.outcome == "answered"
    values = {
        "answer_correct": float(answered and is_right(held.answer, item.meta["answer_type"], value)),
        "answered": float(answered),
        "model_calls": float(len(held.exchanges)),
        "wrong_calls": float(sum(bool(exchange.error) for exchange in held.exchanges)),
    }
    if evidence := set(json.loads(item.meta["evidence"])):
        values["evidence_fetched"] = len(evidence & set(held.fetched)) / len(evidence)
    return values


def hold(item: Item, players: Players) -> str:
    """Let the measured model answer the question of an item."""
    asked = json.loads(item.prompt)
    resources = _records(item.meta["records"])[asked["assignment"]["patient_id"]]
    return text_of(run_agent(Assignment(**asked["assignment"]), players.model, local_search(resources)))


def episode(item: Item, output: Output) -> Episode | None:
    """Return the session as an episode; its reward is `answer_correct`."""
    if not output.text:
        return None
    held = session_in(output.text)
    replies = [Reply(one.told, one.reply, one.thinking, tool_call_in(one)) for one in held.exchanges]
    ended = held.outcome not in ("out_of_calls", "out_of_context", "broken")
    reward = grade(item, output)["answer_correct"]
    return episode_of(item, output, replies, [], reward, ended, NAME, outcome=held.outcome)


def _of_each_kind(found: list[Item], most: int) -> list[Item]:
    taken: Counter[str] = Counter()
    kept = []
    for item in found:
        taken[item.meta["category"]] += 1
        if taken[item.meta["category"]] <= most:
            kept.append(item)
    return kept


def _item(folder: Path, split: Literal["train", "val"], question: RecordQuestion) -> Item:
    records = str(folder / f"{split}.bundles.jsonl.gz")
    prompt = {"assignment": asdict(assignment_of(question)), "record_sha256": _hashes(records)[question.patient_id]}
    return Item(
        item_id=question.item_id,
        files=(),
        prompt=json.dumps(prompt, ensure_ascii=False),
        reference=question.answer,
        kind="open",
        group=question.group,
        meta={
            "card": CARD,
            "category": question.category,
            "answer_type": question.answer_type,
            "answer_value": json.dumps(question.answer_value, ensure_ascii=False),
            "evidence": json.dumps(question.evidence),
            "records": records,
        },
    )


@lru_cache(maxsize=2)
def _records(path: str) -> Mapping[str, tuple[Resource, ...]]:
    split: Literal["train", "val"] = "train" if Path(path).name.startswith("train") else "val"
    return {bundle.patient_id: bundle.resources for bundle in read_synthea_bundles(Path(path).parent, split)}


@lru_cache(maxsize=2)
def _hashes(path: str) -> Mapping[str, str]:
    return {name: sha256(json.dumps(found).encode()).hexdigest()[:16] for name, found in _records(path).items()}


def _wording() -> list[str]:
    return [SYSTEM, MANIFEST, TYPES, FETCH, FACTS, ANSWER, ERROR, f"{MAX_CALLS} {MAX_ATTEMPTS} {PIECE_CHARACTERS}"]


ROWS = (
    Task(
        NAME,
        (CARD,),
        "answers about a patient's record, found with tools (manifest and fetch) in five steps",
        "dialogue",
        "short",
        items=of_side_and_seed(items),
        grade=grade,
        wording=_wording,
        sides=SIDES,
        main_metric="answer_correct",
        breakdown="category",
        max_new_tokens=256,
        dialogue=Dialogue(NAME, hold, episode, tool_call=call_in),
    ),
)
