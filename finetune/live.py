"""The weights in training as a model that answers: through the evaluations, under an identity of their own."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from evals.results.scores import measures, read_answered, value_of
from evals.running.options import RunOptions
from evals.running.runner import condition_folder, run_task
from evals.tasks.task import Task
from medgemma import MedGemma


def task_metric(gemma: MedGemma, task: Task, data: Path, out: Path, options: RunOptions) -> Callable[[int], float]:
    """The metric of `finetune.training.Evaluation`: a task's main one, on its data, of the weights as they are.

    Items are answered by the engine, a few at a time and token by token, so no logits of whole conversations are held.

    Args:
        gemma: its network is the one in training.
        task: with one answer an item; see `evals.tasks.catalogue`.
        data: holds one folder a card name, or is that folder.
        out: each evaluation's items, outputs and record go to a folder of its own here; a stopped one goes on.
        options: which items (a limit of some hundred), and how; of a side neither trained on nor reported at the end.
    """

    def metric(steps: int) -> float:
        into = out / f"step-{steps}"
        run_task(task, options, data, into, live(gemma), f"{gemma.name} after {steps} steps", "medgemma-finetune run")
        answered = read_answered(task, condition_folder(into, task.name, options.condition))
        return value_of(measures(task, answered)[task.main_metric])

    return metric


def live(gemma: MedGemma) -> MedGemma:
    """The same network with an empty engine, and a fingerprint of the weights as they are now.

    Ask it before the next update, in eval mode; then take another. A MedGemma remembers what its folder's weights gave,
    and caches keep its answers under their fingerprint; these weights are no longer those.
    """
    return replace(gemma, weights=f"{gemma.fingerprint}-live-{weights_sha256(gemma.model)[:16]}")


def weights_sha256(modules: nn.Module) -> str:
    """Of every parameter that is trained, by name and bits."""
    digest = hashlib.sha256()
    for name, parameter in sorted(modules.named_parameters()):
        if parameter.requires_grad:
            digest.update(name.encode())
            digest.update(parameter.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
