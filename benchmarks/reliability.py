"""What `medgemma-eval reliability` costs beside one run of the same items, in processor time of one process.

    OMP_NUM_THREADS=1 python -m benchmarks.reliability --data ../shared/data --tasks vqa-rad picture-questions kit-medqa

Both take turns, with empty caches, from items to answers; loading the model and counting the figures are in neither.
The third case asks every probe at once, as if no answer decided what is asked next.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks.measure import Neighbours, append, machine, provenance
from evals.generation import Generation
from evals.items import Item
from evals.reliability.probes import probes
from evals.reliability.quadrants import due, item_reliability
from evals.reliability.running import ROUNDS
from evals.running.answering import side_by_side
from evals.running.local import answer_on_engine
from evals.tasks.catalogue import TASKS
from evals.tasks.task import ItemOptions, Task
from medgemma import MedGemma

TARGET = 2.5


def main() -> None:
    """Measure, print a table, append a record."""
    options = _options()
    model = MedGemma.from_pretrained(options.model, device="cpu", dtype="float32")
    neighbours, found = Neighbours(), {}
    print("| task | items | probes asked, all | run, s | reliability / run | all probes / run | target | |")
    print("|---|---|---|---|---|---|---|---|")
    for name in options.tasks:
        found[name] = cost(TASKS[name], options.data, options.items, model, options.max_new_tokens, options.repeats)
        print(_row(name, found[name]), flush=True)
    append(
        {
            "benchmark": "reliability",
            **provenance(),
            "machine": machine(),
            "share_of_other_programs": neighbours.share(),
            "model": options.model,
            "fingerprint": model.fingerprint,
            "jobs": found,
        },
        options.out,
    )


def cost(
    task: Task, data: Path, num_items: int, model: MedGemma, max_new_tokens: int, repeats: int
) -> dict[str, object]:
    """Return seconds of the processor of each case and round, and how many probes were asked."""
    items = task.items(data, ItemOptions(task.checked_side("")))[:num_items]
    generation = Generation(max_new_tokens=max_new_tokens)

    def ask(asked: Sequence[Item]) -> dict[str, str | None]:
        return {output.item_id: output.text for output in answer_on_engine(side_by_side(asked), model, generation)}

    def reliability() -> int:
        with TemporaryDirectory() as folder:
            made, texts = probes(items, Path(folder)), dict[str, str | None]()
            for _ in range(ROUNDS):
                asked = due(made, texts, task)
                texts |= ask([probe for probe in asked if probe.item_id not in texts])
            item_reliability(asked, texts, task)
            return len(texts)

    def everything() -> int:
        with TemporaryDirectory() as folder:
            made = probes(items, Path(folder))
            item_reliability(made, ask(made), task)
            return len(made)

    ask(items[:4])
    cases: dict[str, Callable[[], int]] = {
        "run": lambda: len(ask(items)),
        "reliability": reliability,
        "all": everything,
    }
    rounds: dict[str, list[float]] = {name: [] for name in cases}
    counts = {}
    for turn in range(repeats):
        for name in list(cases) if turn % 2 == 0 else reversed(cases):
            model.engine.weights_changed()
            before = time.process_time()
            counts[name] = cases[name]()
            rounds[name].append(time.process_time() - before)
    return {"rounds": rounds, "counts": counts, "target": TARGET}


def _row(name: str, job: dict[str, object]) -> str:
    rounds, counts = job["rounds"], job["counts"]
    assert isinstance(rounds, dict) and isinstance(counts, dict)
    run = median(rounds["run"])
    ratio, whole = (
        median(a / b for a, b in zip(rounds[case], rounds["run"], strict=True)) for case in ("reliability", "all")
    )
    met = "met" if ratio <= TARGET else "missed"
    asked = f"{counts['reliability']}, {counts['all']}"
    return f"| {name} | {counts['run']} | {asked} | {run:.2f} | {ratio:.2f} | {whole:.2f} | {TARGET} | {met} |"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--model", default="nano")
    parser.add_argument("--tasks", nargs="+", default=["vqa-rad", "picture-questions", "kit-medqa"])
    parser.add_argument("--items", type=int, default=60)
    parser.add_argument("--max-new-tokens", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "reliability.jsonl")
    return parser.parse_args()


if __name__ == "__main__":
    main()
