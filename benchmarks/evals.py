"""Evaluations against lm-evaluation-harness (likelihoods of choices) and plain transformers (questions about films).

    LM_EVAL_PYTHON=.venv-lm-eval/bin/python python -m benchmarks.evals --data ../shared/data --repeats 3

`make test-lm-eval` builds the environment that LM_EVAL_PYTHON names. Both sides get the same items and weights, take
turns, start with empty caches in every round, and must agree item by item. lm-evaluation-harness runs in a process of
its own; of it only the seconds of `HFLM.loglikelihood` count (tokenising and computing), not loading, data sets or
figures. Of its batch sizes the best counts.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, TypeVar

from benchmarks.measure import Neighbours, append, machine, provenance
from evals.generation import Generation
from evals.items import Item
from evals.outputs import Output
from evals.running.answering import side_by_side
from evals.running.choosing import choose_items
from evals.running.local import answer_on_engine
from evals.tasks.catalogue import TASKS
from evals.tasks.question_sets import SETS
from evals.tasks.task import ItemOptions
from medgemma import MedGemma
from tests.lm_eval import jobs

Found = TypeVar("Found")

SUBJECTS = ("anatomy", "college_biology", "medical_genetics")
"""The subjects of MMLU of which the kit has five worked examples that fit nano's context."""
LIKELIHOOD_ROWS = ("kit-mmlu-medical-likelihood-5-shot", "kit-mmlu-medical-likelihood")
FILMS = "kit-cxr-conditions"
FILM_TOKENS = 8
BATCH_SIZES = ("auto", "16")
LONGEST = 6000
"""Characters of a prompt."""
TARGETS = {"kit-mmlu-medical-likelihood-5-shot": 2.0, "kit-mmlu-medical-likelihood": 1.0, FILMS: 5.0}
"""Items a second, as a multiple of the peer's."""
LARGEST_DIFFERENCE = 1e-3
"""Of a log-likelihood."""


def main() -> None:
    """Measure, print a table, append a record; the exit status is 1 if the two sides disagree."""
    options = _options()
    model = MedGemma.from_pretrained(options.model, device="cpu", dtype="float32")
    neighbours = Neighbours()
    found = {}
    for name in LIKELIHOOD_ROWS if (python := os.environ.get("LM_EVAL_PYTHON")) else ():
        if name in options.jobs:
            found[name] = likelihoods(model, name, options, python)
    if FILMS in options.jobs:
        found[FILMS] = films(model, options.data, options.films, options.repeats)
    record = {
        "benchmark": "evals",
        **provenance(),
        "machine": machine(),
        "share_of_other_programs": neighbours.share(),
        "model": options.model,
        "fingerprint": model.fingerprint,
        "repeats": options.repeats,
        "jobs": found,
    }
    append(record, options.out)
    print(table(found))
    if not all(job["agrees"] for job in found.values()):
        sys.exit("the two sides disagree: their times do not compare")


class Spent(NamedTuple):
    """What one round took."""

    seconds: float
    """Of the clock."""
    processor_seconds: float
    """Of all cores, this program alone: what a busy machine changes least."""


def likelihoods(model: MedGemma, name: str, options: argparse.Namespace, python: str) -> dict[str, Any]:
    """Score the same questions here and in lm-evaluation-harness."""
    data, num_items, repeats = options.data, options.items, options.repeats
    by_subject = {subject: _items_of(name, data, subject, num_items // len(SUBJECTS)) for subject in SUBJECTS}
    items = [item for of_subject in by_subject.values() for item in of_subject]
    ours: dict[str, Output] = {}
    theirs: dict[str, Any] = {}

    def here() -> Spent:
        model.engine.weights_changed()
        spent, found = _timed(lambda: _scored(model, items))
        ours.update(found)
        return spent

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        jobs.write_decoder(model, folder / "decoder")
        planned = [_job(name, data, subject, of_subject, folder) for subject, of_subject in by_subject.items()]

        def there(size: str) -> Spent:
            batch = int(size) if size.isdigit() else size
            made = jobs.run(python, folder / "decoder", planned, folder, batch)["jobs"].values()
            theirs.update({sample["row"]["id"]: sample for job in made for sample in job["samples"]})
            return Spent(*(sum(job[key] for job in made) for key in ("model_seconds", "model_processor_seconds")))

        _scored(model, items[:8])
        cases = {"ours": here} | {f"lm-eval, batch {size}": partial(there, size) for size in options.batch_sizes}
        rounds = _in_turn(name, cases, repeats)
    differences = [
        abs(mine - other)
        for item in items
        for mine, other in zip(ours[item.item_id].log_likelihoods, theirs[item.item_id]["log_likelihoods"], strict=True)
    ]
    right = [_is_right(name, item, ours[item.item_id], theirs[item.item_id]) for item in items]
    return _job_record(name, len(items), rounds) | {
        "largest_difference": max(differences),
        "answers_that_differ": right.count(False),
        "agrees": max(differences) <= LARGEST_DIFFERENCE,
        "accuracy": sum(TASKS[name].grade(item, ours[item.item_id])["accuracy"] for item in items) / len(items),
    }


def films(model: MedGemma, data: Path, num_films: int, repeats: int) -> dict[str, Any]:
    """Ask 14 yes/no questions about each film, here and one at a time with transformers' processor and generate."""
    task = TASKS[FILMS]
    made = task.items(data, ItemOptions("all"))
    chosen = dict.fromkeys(item.files for item in made)
    first = set(list(chosen)[:num_films])
    items = side_by_side([item for item in made if item.files in first])
    generation = Generation(max_new_tokens=FILM_TOKENS)
    peer = _transformers(model)
    said: dict[str, dict[str, str]] = {}

    def ours() -> Spent:
        model.engine.weights_changed()
        spent, said["ours"] = _timed(lambda: {o.item_id: o.text for o in answer_on_engine(items, model, generation)})
        return spent

    def theirs() -> Spent:
        spent, said["theirs"] = _timed(lambda: {item.item_id: peer(item) for item in items})
        return spent

    peer(items[0])
    list(answer_on_engine(items[:2], model, generation))
    rounds = _in_turn(FILMS, {"ours": ours, "transformers, one question at a time": theirs}, repeats)
    differing = [name for name, text in said["ours"].items() if text != said["theirs"][name]]
    return _job_record(FILMS, len(items), rounds) | {
        "films": len(first),
        "answers_that_differ": len(differing),
        "agrees": len(differing) <= len(items) // 100,
    }


def table(found: dict[str, Any]) -> str:
    """One line a case, then one a goal."""
    lines = [
        "| job | case | seconds, median (range) | items/s | processor seconds, median |",
        "|---|---|---|---|---|",
    ]
    for name, job in found.items():
        for case, rounds in job["rounds"].items():
            clock, used = [spent[0] for spent in rounds], [spent[1] for spent in rounds]
            shown = f"{median(clock):.2f} ({min(clock):.2f} to {max(clock):.2f})"
            rate = f"{job['items'] / median(clock):.1f}"
            lines.append(f"| {name} | {case} | {shown} | {rate} | {median(used):.2f} |")
    lines += [
        "",
        "| job | peer's best setting | ours / peer | by processor time | target | | answers that differ |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, job in found.items():
        met = "met" if job["ratio"] >= job["target"] else "missed"
        differing = f"{job['answers_that_differ']} of {job['items']}"
        ratios = f"{job['ratio']:.2f} | {job['processor_ratio']:.2f}"
        lines.append(f"| {name} | {job['best_peer']} | {ratios} | {job['target']:g} | {met} | {differing} |")
    return "\n".join(lines)


def _timed(work: Callable[[], Found]) -> tuple[Spent, Found]:
    started, before = time.perf_counter(), time.process_time()
    found = work()
    return Spent(time.perf_counter() - started, time.process_time() - before), found


def _in_turn(name: str, cases: Mapping[str, Callable[[], Spent]], repeats: int) -> dict[str, list[Spent]]:
    """Run every case once a round, every second round in reverse order."""
    rounds: dict[str, list[Spent]] = {case: [] for case in cases}
    for turn in range(repeats):
        for case in list(cases) if turn % 2 == 0 else reversed(cases):
            rounds[case].append(cases[case]())
            last = rounds[case][-1]
            print(
                f"  round {turn + 1}/{repeats}  {name:36} {case:36} {last.seconds:8.2f} s, of processors "
                f"{last.processor_seconds:8.2f} s",
                file=sys.stderr,
            )
    return rounds


def _job_record(name: str, items: int, rounds: dict[str, list[Spent]]) -> dict[str, Any]:
    clock = {case: median(spent.seconds for spent in each) for case, each in rounds.items()}
    used = {case: median(spent.processor_seconds for spent in each) for case, each in rounds.items()}
    best = min((case for case in rounds if case != "ours"), key=clock.__getitem__)
    least = min(seconds for case, seconds in used.items() if case != "ours")
    return {
        "items": items,
        "rounds": rounds,
        "best_peer": best,
        "ratio": clock[best] / clock["ours"],
        "processor_ratio": least / used["ours"],
        "target": TARGETS[name],
    }


def _items_of(name: str, data: Path, subject: str, count: int) -> list[Item]:
    task = TASKS[name]
    made = task.items(data, ItemOptions(task.checked_side(""), 0, task.num_fewshot))
    return [item for item in made if item.meta["subject"] == subject and len(item.prompt) < LONGEST][:count]


def _job(name: str, data: Path, subject: str, items: Sequence[Item], folder: Path) -> dict[str, Any]:
    source = SETS["kit-mmlu-medical"]
    known = {question.asked.item_id: question for question in source.questions(data, "val")}
    pool = [question for question in source.examples(data, "val") if question.asked.subject == subject]
    asked = [known[item.item_id] for item in items]
    return jobs.job(subject, "mmlu", asked, folder, pool, TASKS[name].num_fewshot, subject)


def _scored(model: MedGemma, items: Sequence[Item]) -> dict[str, Output]:
    return {output.item_id: output for output in choose_items(items, model)}


def _is_right(name: str, item: Item, ours: Output, theirs: dict[str, Any]) -> bool:
    """Say whether both sides take the same answer for right."""
    return TASKS[name].grade(item, ours)["accuracy"] == theirs["acc"]


def _transformers(model: MedGemma) -> Callable[[Item], str]:
    """Return a user's plain loop body: open the film, apply the processor's chat template, generate, decode."""
    from PIL import Image
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(model.folder)

    def ask(item: Item) -> str:
        content = [{"type": "image", "image": Image.open(item.files[0]).convert("RGB")}]
        content.append({"type": "text", "text": item.prompt})
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
        made = model.model.generate(**inputs, max_new_tokens=FILM_TOKENS, do_sample=False)
        new = made[0, inputs["input_ids"].shape[1] :]
        return str(processor.tokenizer.decode(new, skip_special_tokens=True)).strip()

    return ask


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--model", default="nano")
    parser.add_argument("--items", type=int, default=150, help="questions of MMLU")
    parser.add_argument("--films", type=int, default=12)
    parser.add_argument("--jobs", nargs="+", choices=list(TARGETS), default=list(TARGETS))
    parser.add_argument("--batch-sizes", nargs="+", default=list(BATCH_SIZES), help="of lm-evaluation-harness")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "evals.jsonl")
    return parser.parse_args()


if __name__ == "__main__":
    main()
