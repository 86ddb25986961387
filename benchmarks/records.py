"""How many answers stand in a condensed record, by the tokens it may have: what a perfect reader could reach.

    python -m benchmarks.records --data DATA

Held-out patients of synthea-fhir-r4; only kinds of question whose answer is written in the record (dates, names,
quantities, lists): a count, a trend, yes or no is not. Beside it what looking at nothing reaches: each kind's commonest
answer on the training side. No model is asked.
"""

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import append, machine, provenance
from evals.items import Item
from evals.results.scores import as_json
from finetune.recipes.ehr_retrieval import kind, questions, reward, right_answer
from finetune.tables.scoring import CommonestAnswer
from medsiglip.metrics.statistics import grouped_bootstrap_ci

RESULTS = Path(__file__).parent / "results" / "records.jsonl"
TOKENS = (120, 250, 1000, 4000)
WRITTEN = frozenset({"date", "string", "quantity", "bp", "date+string", "list"})
"""Types of answer that a record holds word for word, or as a number before rounding."""


def stands_in_record(item: Item) -> bool:
    """Whether all that the answer says is among the facts of the prompt."""
    record = item.prompt.partition("--- end of the record")[0]
    value = json.loads(item.meta["answer_value"])
    numbers = [float(number) for number in re.findall(r"(?<![\d.-])-?\d+(?:\.\d+)?(?![\d-])", record)]
    match item.meta["answer_type"]:
        case "quantity":
            is_there = any(abs(number - value["value"]) <= 0.0501 for number in numbers)
            return is_there and value.get("date", "") in record
        case "bp":
            return all(any(abs(number - value[part]) <= 0.501 for number in numbers) for part in value)
        case "list":
            return all(text in record for text in value)
        case "date+string":
            return value["date"] in record and value["type"] in record
        case _:
            return str(value) in record


def figure(values: Sequence[float], items: Sequence[Item]) -> dict[str, Any]:
    """The mean with its interval over patients."""
    return as_json(grouped_bootstrap_ci(list(values), [item.group for item in items], 0))


def main() -> None:
    """Measure, print and append a line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    reach, by_kind = {}, {}
    for tokens in TOKENS:
        items = [i for i in questions(asked.data, "held-out", tokens) if i.meta["answer_type"] in WRITTEN]
        there = [float(stands_in_record(item)) for item in items]
        reach[tokens] = figure(there, items)
        kinds = sorted({kind(item) for item in items})
        of_kind = {name: [t for t, item in zip(there, items, strict=True) if kind(item) == name] for name in kinds}
        by_kind[tokens] = {name: sum(values) / len(values) for name, values in of_kind.items()}
        print(tokens, reach[tokens]["value"], reach[tokens]["ci95"], reach[tokens]["n"])
    items = questions(asked.data, "held-out", TOKENS[0])
    commonest = CommonestAnswer.of(questions(asked.data, "train", TOKENS[0]), right_answer, kind, items)
    replies = commonest.ask_each([((), item.prompt) for item in items], max_new_tokens=8)
    right = figure([reward(item, reply.text) for item, reply in zip(items, replies, strict=True)], items)
    print("commonest answer", right["value"], right["ci95"], right["n"])
    record = {"benchmark": "records", **provenance(), "machine": machine(), "seed": 0}
    append({**record, "in_record": reach, "by_kind": by_kind, "commonest_answer": right}, asked.out)


if __name__ == "__main__":
    main()
