"""Run lm-evaluation-harness's own tasks over local files, offline; for its own environment, apart from ours.

Usage: run_lm_eval.py PLAN.json OUT.json.
PLAN: model (folder), batch_size, jobs: name, yaml (path inside lm_eval/tasks), files (split to JSONL of rows as the
Hub's data set has them), num_fewshot.
OUT: versions, and for each job acc, acc_norm, seconds, model_seconds and model_processor_seconds (of `loglikelihood`
alone), and its samples: row, prompt, choices, log_likelihoods, acc, acc_norm.
"""

import json
import os
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

import lm_eval
import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager


def main(plan_path: Path, out_path: Path) -> None:
    """Run every job on one loaded model."""
    plan = json.loads(plan_path.read_text(encoding="utf-8"))
    if threads := os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(int(threads))
    model = HFLM(pretrained=plan["model"], device="cpu", dtype="float32", batch_size=plan["batch_size"])
    timed = Timed(model.loglikelihood)
    model.loglikelihood = timed
    found = {job["name"]: run_job(job, model, timed) for job in plan["jobs"]}
    versions = {name: version(name) for name in ("lm_eval", "torch", "transformers")}
    out_path.write_text(json.dumps({"versions": versions, "jobs": found}), encoding="utf-8")


class Timed:
    """A call that adds up its seconds: what tokenising and computing take, without data sets and figures."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self.seconds = self.processor_seconds = 0.0

    def __call__(self, *given: Any, **named: Any) -> Any:
        """Call and time."""
        started, before = time.perf_counter(), time.process_time()
        try:
            return self._call(*given, **named)
        finally:
            self.seconds += time.perf_counter() - started
            self.processor_seconds += time.process_time() - before


def run_job(job: dict[str, Any], model: HFLM, timed: Timed) -> dict[str, Any]:
    """Run one task of lm-evaluation-harness, its data set replaced by local files."""
    with tempfile.TemporaryDirectory() as folder:
        name = f"local_{job['name']}"
        source = Path(lm_eval.__file__).parent / "tasks" / job["yaml"]
        splits = {kind: None for kind in ("training_split", "validation_split") if kind not in job.get("keep", ())}
        settings = {
            "include": str(source),
            "task": name,
            "dataset_path": "json",
            "dataset_name": None,
            "dataset_kwargs": {"data_files": job["files"]},
            **splits,
        }
        (Path(folder) / f"{name}.yaml").write_text(json.dumps(settings), encoding="utf-8")
        manager = TaskManager(include_path=folder, include_defaults=False)
        started, before, used = time.perf_counter(), timed.seconds, timed.processor_seconds
        result = lm_eval.simple_evaluate(
            model, tasks=[name], num_fewshot=job["num_fewshot"], task_manager=manager, bootstrap_iters=0
        )
        seconds = time.perf_counter() - started
    figures = result["results"][name]
    return {
        "acc": figures["acc,none"],
        "acc_norm": figures.get("acc_norm,none"),
        "seconds": seconds,
        "model_seconds": timed.seconds - before,
        "model_processor_seconds": timed.processor_seconds - used,
        "samples": [sample_of(sample) for sample in result["samples"][name]],
    }


def sample_of(sample: dict[str, Any]) -> dict[str, Any]:
    """Keep what is compared."""
    arguments = [
        request if isinstance(request, list | tuple) else [request["arg_0"], request["arg_1"]]
        for request in _requests(sample["arguments"])
    ]
    return {
        "row": sample["doc"],
        "prompt": arguments[0][0],
        "choices": [argument[1] for argument in arguments],
        "log_likelihoods": [float(response[0]) for response in sample["filtered_resps"]],
        "acc": float(sample["acc"]),
        "acc_norm": float(sample["acc_norm"]) if "acc_norm" in sample else None,
    }


def _requests(arguments: Any) -> list[Any]:
    return list(arguments.values()) if isinstance(arguments, dict) else list(arguments)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
