"""What a recipe's runs showed, as one line of results/studies.jsonl: before and after, and real minus shuffled labels.

    medgemma-finetune run ehr_retrieval --data DATA --out runs/ehr
    medgemma-finetune run ehr_retrieval --data DATA --out runs/ehr-shuffled --set labels=shuffled
    python -m benchmarks.studies ehr_retrieval runs/ehr --shuffled runs/ehr-shuffled

Everything is read from the runs' folders; nothing is run.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import yaml

from benchmarks.measure import append, machine, provenance
from evals.results.compare import compare_dirs

RESULTS = Path(__file__).parent / "results" / "studies.jsonl"


def study(recipe: str, real: Path, shuffled: Path | None) -> dict[str, Any]:
    """Return the line of a finished run, and of its control if there is one.

    Raises:
        ValueError: A run is not finished, or the two differ in more than their labels.
    """
    config = _config(real)
    record = {
        "benchmark": "studies",
        "recipe": recipe,
        **provenance(),
        "machine": machine(),
        "config": config,
        "learned": _learned(real),
        "rows": _rows(real),
    }
    if shuffled is None:
        return record
    other = _config(shuffled)
    if differing := [key for key in config if key != "labels" and config[key] != other.get(key)]:
        raise ValueError(f"{shuffled}: differs from {real} in {', '.join(differing)}; repeat it with the same settings")
    control = [row for row in _rows(shuffled) if row["part"] == "learned"]
    compared = compare_dirs(shuffled / "scores" / "tuned", real / "scores" / "tuned")
    learned = {row["task"] for row in control}
    return record | {
        "shuffled_rows": control,
        "real_minus_shuffled": [
            {"task": metric.task, "metric": metric.metric, **metric.difference, "p": metric.p_bootstrap}
            for task in compared.tasks
            for metric in task.metrics
            if task.task in learned
        ],
    }


def main() -> None:
    """Append the line, and print the differences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("run", type=Path, help="--out of the finished run")
    parser.add_argument("--shuffled", type=Path, help="--out of the same with --set labels=shuffled")
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    record = study(asked.recipe, asked.run, asked.shuffled)
    append(record, asked.out)
    for row in record.get("real_minus_shuffled", []):
        print(f"real - shuffled  {row['task']}  {row['metric']}  {row['value']}  {row['ci95']}")


def _config(out: Path) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((out / "config.yaml").read_text(encoding="utf-8"))
    return config


def _learned(out: Path) -> str:
    """The line that names the data, with its hash."""
    return (out / "config.yaml").read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")


def _rows(out: Path) -> list[dict[str, Any]]:
    path = out / "scores" / "before_after.json"
    if not path.is_file():
        raise ValueError(f"{path}: is not there; the run is not finished: start it again with the same command")
    rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return rows


if __name__ == "__main__":
    main()
