"""The on-policy run: sampling and learning in turns, on the one training loop."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from finetune.collate import Batch
from finetune.on_policy.models import Frozen, Network
from finetune.on_policy.normalising import counted, normalised
from finetune.on_policy.rewards import Reward
from finetune.on_policy.rollouts import PromptRow
from finetune.on_policy.rounds import Algorithm, Round, Tools
from finetune.on_policy.sampling import Sampler
from finetune.packing import Layout
from finetune.training import Evaluation, Loop, Part, Schedule, Turn, rows_of_step, train
from medgemma.engine import Sampling


@dataclass(frozen=True)
class OnPolicy:
    """How a run samples and how its examples become parts."""

    prompts_a_step: int
    sampling: Sampling
    """Temperature above 0, cuts, and how long a completion may be."""
    layout: Layout
    """Packed with shared prompts: a group's prompt is then computed once in the update."""


def train_on_policy(
    policy: Network,
    algorithm: Algorithm,
    rows: Sequence[PromptRow],
    sampler: Sampler,
    rewards: Sequence[Reward],
    reference: Frozen,
    schedule: Schedule,
    folder: Path,
    loop: Loop,
    *,
    how: OnPolicy,
    settings: Mapping[str, Any],
    evaluation: Evaluation | None = None,
) -> None:
    """Sample, grade, learn and tell the sampler, step by step; resumes to the same bits.

    Args:
        policy: its model's parameters that want a gradient are trained.
        algorithm: see `Algorithm`.
        rows: prompts; every one once an epoch.
        sampler: of the policy.
        rewards: that the algorithm learns from, or that are only logged.
        reference: the original model, to which the KL is always told.
        schedule: learning rates and length.
        folder: of the stage; its name also seeds.
        loop: how it runs, on how many ranks.
        how: see `OnPolicy`.
        settings: what else decides the result.
        evaluation: measures the weights as they are and keeps the best.

    Raises:
        ValueError: a reward has a fault, or nothing can be learned.
        LostSampler: the sampler gives no samples; a checkpoint is kept.
    """
    if how.sampling.temperature <= 0:
        raise ValueError("sampling.temperature is 0: greedy answers are no samples of a policy; give one above 0")
    tools = Tools(policy, sampler, rewards, reference, how.sampling, how.layout, loop.ranks, loop.seed, folder.name)
    pending: dict[str, float] = {}

    def draw(step: int) -> list[Part[Batch]]:
        policy.model.eval()
        sampler.weights_changed(f"{folder.name}-{step}")
        drawn = rows_of_step(len(rows), how.prompts_a_step, loop.seed, step)
        round = Round(tools, step, [rows[n] for n in drawn])
        examples = normalised(algorithm.examples(round), algorithm.normalisation)
        pending.update(summary(round))
        parts = how.layout.parts(examples, loop.ranks)
        return [replace(p, weight=counted(p.drawn, algorithm.normalisation) if p.weight else 0.0) for p in parts]

    def loss_of(batch: Batch, turn: Turn) -> torch.Tensor:
        if loop.ranks.rank == 0:
            for name, value in pending.items():
                turn.log(name, value)
            pending.clear()
        return algorithm.loss(policy, batch.to(policy.device), turn, how.sampling.temperature)

    made = {
        "sampling": {**asdict(how.sampling), "stop_ids": sorted(how.sampling.stop_ids)},
        "prompts_a_step": how.prompts_a_step,
        "max_tokens": how.layout.max_tokens,
        "normalisation": algorithm.normalisation,
        "rewards": {reward.called: reward.weight for reward in rewards},
        **settings,
    }
    on_policy_loop = replace(loop, draw_ahead=False)
    train(
        policy.model,
        draw,
        loss_of,
        schedule,
        folder,
        on_policy_loop,
        settings=made,
        evaluation=evaluation,
        kept=algorithm.kept,
    )


def summary(round: Round) -> dict[str, float]:
    """What is told of a step's samples; nothing where none was taken."""
    rollouts = round.rollouts
    if not rollouts:
        return {}
    told = {
        "kl": sum(round.log_ratios(rollouts)) / len(rollouts),
        "completion_tokens": sum(len(rollout.completion_ids) for rollout in rollouts) / len(rollouts),
        "ended": sum(rollout.ended for rollout in rollouts) / len(rollouts),
    }
    if round.tools.rewards:
        grades = round.graded or round.grade(rollouts)
        told["reward"] = sum(grades.total) / len(rollouts)
        told |= {f"reward.{name}": mean for name, mean in grades.means().items()}
    return told
