"""Do proxies choose hyper-parameters of an agent that writes? nano clones a scripted expert on a small task with tools.

    pip install -e '.[dev]'
    python -m benchmarks.choosing_ehr demonstrate --data DATA --out ehr  # the expert's episodes
    python -m benchmarks.choosing_ehr run --data DATA --out ehr          # clones and judges; goes on where it was
    python -m benchmarks.choosing_ehr reveal --out ehr                   # adds what the clones got right, not before
    python -m benchmarks.choosing_ehr table                              # from benchmarks/results/choosing_ehr.jsonl

The agent is `evals.clinic.record_agent`'s over Synthea's records, thinned to the patient and the conditions, with short
prompts and short ids, so that nano can learn it at all: figures compare with no others. Questions are of five kinds.
"""

import argparse
import hashlib
import json
import re
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.choosing_table import table_of
from data_cards.readers.records import read_synthea_bundles
from data_cards.readers.tables import find_set
from evals.clinic.backends import local
from evals.clinic.dialogue import Backend, Message, Meter
from evals.clinic.episodes import Reply, episode_of
from evals.clinic.record_agent import Assignment, Session, run_agent, tool_call_in
from evals.generation import Generation
from evals.items import Item
from evals.outputs import Output
from evals.tasks import ehr_tools
from evals.tasks.record_answers import is_right
from experience import write_episodes
from finetune.adapters import AdapterSection
from finetune.configuration import load_config
from finetune.recipes import clone
from finetune.selection.dialogues import embedded, read_dialogues
from finetune.selection.embedding import decoder_embedding
from finetune.selection.holding_out import hold_out
from finetune.selection.ranking import normalised_regret, spearman
from finetune.selection.state_distance import state_distance
from finetune.training.draws import seed_of
from medgemma import MedGemma
from medgemma.records.elements import Resource
from medgemma.records.tools import local_search

RESULTS = Path(__file__).parent / "results" / "choosing_ehr.jsonl"
KINDS = ("birth_date", "city", "cond_present", "cond_absent", "cond_status")
NUM_DEMONSTRATED, NUM_ASKED = 80, 40
"""Questions of training patients that the expert answers, and of held-out patients that a clone is asked."""
MOST_CONDITIONS = 8
DRAWS = 12
LONGER_FROM = 6
"""The first draws hardly learned, as their successes showed; those from here on learn longer."""


class Case(NamedTuple):
    """A question with its thinned record."""

    item: Item
    assignment: Assignment
    resources: tuple[Resource, ...]


def cases(data: Path, side: str, count: int) -> list[Case]:
    """The first so many questions of the five kinds, in the task's seeded order."""
    folder = find_set(data, ehr_tools.CARD)
    records = {
        bundle.patient_id: bundle.resources
        for split in ehr_tools.SPLITS
        for bundle in read_synthea_bundles(folder, split)
    }
    found = [item for item in ehr_tools.items(data, side) if item.meta["category"] in KINDS]
    return [_case(item, records, number) for number, item in enumerate(found[:count])]


def _case(item: Item, records: dict[str, Any], number: int) -> Case:
    asked = json.loads(item.prompt)["assignment"]
    patient = f"p{number % 10}"
    thin = _thinned(records[asked["patient_id"]], asked["question"], patient)
    return Case(item, _assignment(patient, asked["question"]), tuple(thin))


def _assignment(patient: str, question: str) -> Assignment:
    return Assignment(
        patient_id=patient,
        question=question,
        system="Answer from the record.",
        manifest='Patient {patient_id}: {question}\nAsk for the manifest: {{"tool": "manifest", "patient_id": "..."}}',
        types='{question}\nThe record: {manifest}\nWhich types? A JSON list, such as ["Condition"].',
        fetch=(
            'Patient {patient_id}: {question}\nFetch {resource_type}: {{"tool": "fetch", "patient_id": "...", '
            '"resource_type": "{resource_type}", "codes": []}}'
        ),
        facts="{question}\n{resource_type}:\n{resources}\nNote what matters, or none.",
        answer="{question}\nFacts:\n{facts}\nAnswer shortly.",
        error="Wrong: {error}. Again.",
        max_calls=10,
        max_attempts=2,
        piece_characters=4_000,
    )


def _thinned(resources: Sequence[Resource], question: str, patient: str) -> list[dict[str, Any]]:
    """The patient and the conditions, with what the questions ask of them; those in the question first."""
    (person,) = [one for one in resources if one["resourceType"] == "Patient"]
    dated = sorted((r for r in resources if r["resourceType"] == "Condition"), key=lambda r: str(r["onsetDateTime"]))
    latest = {_display(one): one for one in dated}  # of each condition the last
    conditions = sorted(latest.values(), key=lambda one: _display(one) not in question)
    kept = [{"resourceType": "Patient", "id": patient, "birthDate": person["birthDate"], "city": _city(person)}]
    for number, one in enumerate(reversed(conditions[:MOST_CONDITIONS])):
        code = {"coding": [{"code": f"c{number}", "display": _display(one)}]}
        status = one["clinicalStatus"]["coding"][0]["code"]
        kept.append({"resourceType": "Condition", "id": f"c{number}", "code": code, "status": status})
    return kept


def _display(condition: Resource) -> str:
    return str(condition["code"]["coding"][0]["display"])


def _city(person: Resource) -> str:
    return str(person["address"][0]["city"])


class Expert:
    """Replies to the five steps as it should be done, from nothing but the prompt."""

    def __call__(self, messages: Sequence[Message]) -> str:
        """Return the reply."""
        prompt = str(messages[-1]["content"])
        patient = re.match(r"Patient (p\d)", prompt)
        if "Ask for the manifest" in prompt:
            return json.dumps({"tool": "manifest", "patient_id": patient and patient[1]})
        if "Which types?" in prompt:
            return json.dumps(["Patient" if _about_person(prompt.split("\n")[0]) else "Condition"])
        if "\nFetch " in prompt:
            kind = prompt.split("\nFetch ")[1].split(":")[0]
            asked = {"tool": "fetch", "patient_id": patient and patient[1], "resource_type": kind, "codes": []}
            return json.dumps(asked)
        if "Note what matters" in prompt:
            return _facts(prompt)
        return _answer(prompt)


def _about_person(question: str) -> bool:
    return bool(re.search("birth|born|city|live", question))


def _facts(prompt: str) -> str:
    question = prompt.split("\n")[0]
    for line in prompt.split("\n")[2:-1]:
        one = json.loads(line)
        if one["resourceType"] == "Patient":
            return str(one["birthDate"] if re.search("birth|born", question) else one["city"])
        if _display(one) in question:
            return f"{_display(one)}: {one['status']}"
    return "none"


def _answer(prompt: str) -> str:
    question, facts = prompt.split("\n")[0], prompt.split("Facts:\n")[1].split("\nAnswer")[0]
    if _about_person(question):
        return facts
    if re.search("active|resolved|status", question):
        return facts.rsplit(": ", 1)[-1]
    return "no" if facts == "none" else "yes"


def held(one: Case, model: Backend) -> Session:
    """Let a model answer a question."""
    return run_agent(one.assignment, model, local_search(one.resources))


def is_answered(one: Case, session: Session) -> bool:
    """Whether the answer is right."""
    value = json.loads(one.item.meta["answer_value"])
    return session.outcome == "answered" and is_right(session.answer, one.item.meta["answer_type"], value)


def episodes_of(asked: Sequence[Case], model: Backend, agent_id: str, folder: Path) -> list[bool]:
    """Hold sessions and write them as episodes, without a reward; return which were right."""
    with ThreadPoolExecutor(16) as pool:  # a local model answers them together
        sessions = list(pool.map(lambda one: held(one, model), asked))
    episodes = []
    for one, session in zip(asked, sessions, strict=True):
        replies = [Reply(said.told, said.reply, said.thinking, tool_call_in(said)) for said in session.exchanges]
        output = Output(one.item.item_id, agent_id, agent_id, text=session.answer or "none")
        episode = episode_of(one.item, output, replies, [], float("nan"), True, "ehr-small")
        assert episode is not None
        episodes.append(episode)
    write_episodes(folder, episodes)
    return [is_answered(one, session) for one, session in zip(asked, sessions, strict=True)]


def drawn(number: int) -> dict[str, Any]:
    """The hyper-parameters of a draw; 0 are the recipe's own."""
    generator = np.random.default_rng(seed_of(0, "clone", number))

    def one(*values: Any) -> Any:
        return values[int(generator.integers(len(values)))]

    if number == 0:
        return {}
    full = one(True, False)
    slowest, epochs = (1e-5, (1.0, 2.0, 3.0)) if number < LONGER_FROM else (1e-4, (4.0, 6.0, 10.0))
    rate = float(f"{np.exp(generator.uniform(np.log(slowest), np.log(3e-3))):.3g}")
    adapter = AdapterSection(method="full") if full else AdapterSection(rank=one(4, 16, 64))
    return {
        "adapter": adapter,
        "learning_rate": rate,
        "epochs": one(*epochs),
        "examples_per_step": one(4, 8, 16),
    }


def run(data: Path, out: Path, draws: int) -> None:
    """Clone with each draw, judge every checkpoint, and write a line and what is sealed."""
    path, asked = out / "proxies.jsonl", cases(data, "held-out", NUM_ASKED)
    done = {json.loads(line)["draw"] for line in path.read_text().splitlines()} if path.is_file() else set()
    demonstrations = out / "demonstrations"
    base = load_config(clone.Config, [Path(clone.__file__).with_suffix(".yaml")], ["device=cpu", "checkpoints=2"])
    embed = decoder_embedding(MedGemma.from_pretrained("nano", device="cpu"))
    sides = hold_out(read_dialogues(demonstrations), base.held_out_share, base.division_seed)
    held_out = embedded(sides.held_out, embed)
    for number in sorted(set(range(draws)) - done):
        config, start = base.model_copy(update=drawn(number)), time.process_time()
        folder = out / "runs" / f"draw-{number:02}"
        clone.run(config, demonstrations, folder, quiet=True)
        proxies, right = {}, {}
        for step, nll in _losses(folder).items():
            rollouts = folder / "rollouts" / f"{step:07}"
            right[str(step)] = [bool(one) for one in episodes_of(asked, _loaded(folder, step), f"{step}", rollouts)]
            distance = state_distance(embedded(read_dialogues(rollouts), embed), held_out).value
            proxies[str(step)] = {"token_nll": nll, "state_distance": float(f"{distance:.6g}")}
        sealed = json.dumps(right)
        (out / "sealed").mkdir(exist_ok=True)
        (out / "sealed" / f"draw-{number:02}.json").write_text(sealed, encoding="utf-8")
        line = {"draw": number, "settings": json.loads(config.model_dump_json()), "proxies": proxies}
        line |= {"core_s": round(time.process_time() - start), "sealed_sha256": _sha256(sealed.encode())}
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _losses(folder: Path) -> dict[int, float]:
    """Checkpoint to the NLL of a held-out token, which the recipe has logged."""
    lines = (folder / "stages" / "clone" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    found = [line for line in map(json.loads, lines) if "held_out_token_nll" in line]
    return {line["step"] + 1: round(line["held_out_token_nll"], 5) for line in found}


def _loaded(folder: Path, step: int) -> Backend:
    checkpoint = folder / "checkpoints" / f"{step:07}"
    if (checkpoint / "adapter").is_dir():
        gemma = MedGemma.from_pretrained("nano", device="cpu", adapter=checkpoint / "adapter")
    else:
        gemma = MedGemma.from_pretrained(checkpoint / "model", device="cpu")
    return local(gemma, Generation(max_new_tokens=64), Meter())


def reveal(out: Path) -> None:
    """Write the results: every line of proxies with the share of questions that the clone got right."""
    proxies = (out / "proxies.jsonl").read_bytes()
    lines = [json.loads(line) for line in proxies.splitlines()]
    for line in lines:
        sealed = (out / "sealed" / f"draw-{line['draw']:02}.json").read_bytes()
        if _sha256(sealed) != line.pop("sealed_sha256"):
            raise SystemExit(f"draw {line['draw']}: the successes are not those that were sealed")
        line["success"] = {step: round(float(np.mean(of)), 4) for step, of in json.loads(sealed).items()}
    facts = {"proxies_sha256": _sha256(proxies), "questions": NUM_ASKED, "kinds": KINDS}
    RESULTS.write_text("".join(json.dumps(line) + "\n" for line in [facts, *lines]), encoding="utf-8")
    print(f"{len(lines)} runs in {RESULTS}; the proxies' SHA-256 is {facts['proxies_sha256']}")


def page(path: Path = RESULTS) -> str:
    """Return the table as Markdown."""
    facts, *lines = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    groups = [str(line["draw"]) for line in lines]
    success = np.array([_last(line["success"]) for line in lines])
    rows = []
    for name in ("token_nll", "state_distance"):
        said = -np.array([_last(line["proxies"])[name] for line in lines])
        measured = (spearman(said, success, groups), normalised_regret(said, success, groups))
        intervals = [f"{one.value:.2f} [{one.ci95[0]:.2f}, {one.ci95[1]:.2f}]" for one in measured]
        stopped = np.mean([line["success"][_least(line["proxies"], name)] for line in lines])
        rows.append([name, *intervals, f"{success[int(np.argmax(said))]:.2f}", f"{stopped:.2f}"])
    head = ["proxy", "Spearman", "normalised regret", "success of the chosen", "mean of the chosen checkpoints"]
    most = np.mean([max(line["success"].values()) for line in lines])
    said = (
        f"{len(lines)} settings, {facts['questions']} questions; success {success.min():.2f} to {success.max():.2f}, "
        f"mean {success.mean():.2f} (a random choice), default {success[groups.index('0')]:.2f}; each run's best "
        f"checkpoint {most:.2f}. Proxies' SHA-256 before: `{facts['proxies_sha256']}`."
    )
    return f"{said}\n\n{table_of(head, rows)}"


def _least(by_step: dict[str, Any], name: str) -> str:
    return min(by_step, key=lambda step: by_step[step][name])


def _last(by_step: dict[str, Any]) -> Any:
    return by_step[max(by_step, key=int)]


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def main() -> None:
    """Read the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["demonstrate", "run", "reveal", "table"])
    parser.add_argument("--data", type=Path, help="Folder with synthea-fhir-r4.")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--draws", type=int, default=DRAWS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.command == "demonstrate":
        asked = cases(given.data, "train", NUM_DEMONSTRATED)
        right = episodes_of(asked, Expert(), "expert", given.out / "demonstrations")
        print(f"{len(right)} episodes, {sum(right)} answered rightly")
    elif given.command == "run":
        run(given.data, given.out, given.draws)
    elif given.command == "reveal":
        reveal(given.out)
    else:
        print(page())


if __name__ == "__main__":
    main()
