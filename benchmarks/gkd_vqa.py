"""The recipe gkd_vqa over seeds: on-policy GKD beside SFT and supervised KD, on questions that nobody learned from.

    medgemma-finetune run gkd_vqa --data ../shared/data --out runs/gkd-0 --set seed=0       (and 1, 2)
    python -m benchmarks.gkd_vqa runs/gkd-0 runs/gkd-1 runs/gkd-2

Every arm of every run becomes a line of results/studies.jsonl, and the means over the runs a line an arm; the plots go
to ../docs. Intervals resample cases of items whose values are means over the seeds; the seeds' own values stand beside.
"""

import argparse
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.measure import append, machine, provenance
from evals.report.over_steps import curve, plot
from finetune.configuration import load_config
from finetune.recipes.gkd_vqa import TASK, Config, write_runs
from medsiglip.command import whole_file

METRICS = ("closed_accuracy", "open_token_f1_squad", "same_as_teacher")


def main() -> None:
    """Read the runs, append their lines, draw, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "studies.jsonl")
    parser.add_argument("--plots", type=Path, default=Path(__file__).parents[1] / "docs")
    options = parser.parse_args()
    facts = {"benchmark": "gkd_vqa", **provenance(), "machine": machine()}
    seeds: dict[str, list[Any]] = {}
    for run in options.runs:
        for line in map(json.loads, (run / "runs.jsonl").read_text(encoding="utf-8").splitlines()):
            append({**facts, **line}, options.out)
            seeds.setdefault(line["arm"], []).append(line)
    config = load_config(Config, [options.runs[0] / "config.yaml"], [])
    seconds = {arm: sum(line["seconds"] for line in of) for arm, of in seeds.items()}
    with TemporaryDirectory() as folder:
        write_runs(options.runs, config, seconds, Path(folder))
        lines = [json.loads(line) for line in (Path(folder) / "runs.jsonl").read_text(encoding="utf-8").splitlines()]
    for line in lines:
        append({**facts, **line}, options.out)
    print(table(lines, seeds))
    for metric in METRICS:
        with whole_file(options.plots / f"gkd_vqa_{metric}.svg") as file:
            file.write(plot({arm: curve(TASK, options.runs, arm)[metric] for arm in seeds}, metric))


def table(lines: list[Any], seeds: dict[str, list[Any]]) -> str:
    """Markdown: last figures, the seeds' own, and the last arm minus the others."""
    said = ["| arm | metric | mean of seeds (95 %) | each seed |", "|---|---|---|---|"]
    for line in lines:
        for metric in METRICS:
            each = ", ".join(f"{of['curve'][metric][-1]['value']:.3f}" for of in seeds[line["arm"]])
            said.append(f"| {line['arm']} | {metric} | {_figure(line['curve'][metric][-1])} | {each} |")
    said += ["", f"| {lines[-1]['arm']} minus | metric | difference (95 %) | p |", "|---|---|---|---|"]
    for other, differences in lines[-1]["minus"].items():
        for metric in METRICS:
            found = differences[metric]
            said.append(f"| {other} | {metric} | {_figure(found)} | {found['p']:.3f} |")
    return "\n".join(said)


def _figure(said: Any) -> str:
    low, high = said["ci95"]
    return f"{said['value']:.3f} ({low:.3f} to {high:.3f})"


if __name__ == "__main__":
    main()
