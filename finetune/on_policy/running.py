"""The on-policy run: sampling and learning in turns, on the one training loop."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from finetune.collate import Batch
from finetune.on_policy.models import Frozen, Network
from finetune.on_policy.normalising import counted, normalised
from finetune.on_policy.records import Records
from finetune.on_policy.rewards import Reward
from finetune.on_policy.rollouts import PromptRow
from finetune.on_policy.rounds import Algorithm, Round, Tools, together
from finetune.on_policy.sampling import Sampler
from finetune.packing import Layout
from finetune.training import ALONE, Evaluation, Loop, Part, Schedule, Turn, named_places, rows_of_step, train
from medgemma.engine import Sampling
from medsiglip.command import say


@dataclass(frozen=True)
class OnPolicy:
    """How a run samples and how its examples become parts."""

    prompts_a_step: int
    sampling: Sampling
    """Temperature above 0, cuts, and how long a completion may be."""
    layout: Layout
    """Packed with shared prompts: a group's prompt is then computed once in the update."""


@dataclass(frozen=True)
class HeldOut:
    """Prompts that are not learned from, and rewards that are not learned from either."""

    rows: Sequence[PromptRow]
    rewards: Sequence[Reward]
    every_steps: int
    """And after the last step."""
    name: str = "held_out_reward"
    """Of their weighted sum in the log; the best weights are those where it is highest."""


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
    held_out: HeldOut | Evaluation | None = None,
    on_round: Callable[[Round], object] | None = None,
) -> None:
    """Sample, grade, learn and tell the sampler, step by step; resumes to the same bits.

    FOLDER/reward_kl.jsonl gets a line a step and an evaluation, FOLDER/reward_kl.svg is drawn from it.

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
        held_out: keeps the best weights; an `Evaluation` measures something else than rewards of samples.
        on_round: called on rank 0 with every step that has sampled, before its update: see
            `finetune.on_policy.episodes`.

    Raises:
        ValueError: the configuration cannot be run, a reward has a fault, or nothing can be learned.
        LostSampler: the sampler gives no samples; a checkpoint is kept.
    """
    _refuse(rows, rewards, how, loop)
    rewarded = held_out if isinstance(held_out, HeldOut) else None
    run = _Run(policy, algorithm, rows, sampler, rewards, reference, folder, loop, how, rewarded, on_round)
    made = {
        "sampling": {**asdict(how.sampling), "stop_ids": sorted(how.sampling.stop_ids)},
        "prompts_a_step": how.prompts_a_step,
        "max_tokens": how.layout.max_tokens,
        "normalisation": algorithm.normalisation,
        "rewards": {reward.called: reward.weight for reward in rewards},
        **settings,
    }
    evaluation = held_out if isinstance(held_out, Evaluation) else None
    if rewarded:
        evaluation = Evaluation(run.evaluate, rewarded.name, rewarded.every_steps)
    try:
        train(
            policy.model,
            run.draw,
            run.loss,
            schedule,
            folder,
            replace(loop, draw_ahead=False),
            settings=made,
            evaluation=evaluation,
            kept=algorithm.kept,
        )
    finally:
        if loop.ranks.rank == 0:
            run.records.draw()


class _Run:
    def __init__(
        self,
        policy: Network,
        algorithm: Algorithm,
        rows: Sequence[PromptRow],
        sampler: Sampler,
        rewards: Sequence[Reward],
        reference: Frozen,
        folder: Path,
        loop: Loop,
        how: OnPolicy,
        held_out: HeldOut | None,
        on_round: Callable[[Round], object] | None,
    ) -> None:
        self.policy, self.algorithm, self.rows, self.loop, self.how = policy, algorithm, rows, loop, how
        self.held_out, self.on_round = held_out, on_round
        self.tools = Tools(
            policy, sampler, rewards, reference, how.sampling, how.layout, loop.ranks, loop.seed, folder.name
        )
        self.records = Records(folder)
        self.told: dict[str, float] = {}
        """Of the step that is being learned, until its log takes it."""
        self.told_equal = False

    def draw(self, step: int) -> list[Part[Batch]]:
        """Sample with the weights after the update before it."""
        self._tell_sampler(self.tools, step)
        numbers = rows_of_step(len(self.rows), self.how.prompts_a_step, self.loop.seed, step)
        round = Round(self.tools, step, [self.rows[number] for number in numbers])
        examples = normalised(self.algorithm.examples(round), self.algorithm.normalisation)
        self.told = round.summary()
        if self.loop.ranks.rank == 0 and self.told:
            self._tell_equal(round)
            self.records.write(step, "train", step, self.told)
            if self.on_round is not None:
                self.on_round(round)
        parts = self.how.layout.parts(examples, self.loop.ranks)
        kind = self.algorithm.normalisation
        return [replace(part, weight=counted(part.drawn, kind) if part.weight else 0.0) for part in parts]

    def loss(self, batch: Batch, turn: Turn) -> torch.Tensor:
        """A part's share; the first one of rank 0 takes the step's own values into the log."""
        if self.loop.ranks.rank == 0:
            for name, value in self.told.items():
                turn.log(name, value)
            self.told = {}
        return self.algorithm.loss(self.policy, batch.to(self.policy.device), turn, self.how.sampling.temperature)

    def evaluate(self, steps: int) -> float:
        """The held-out reward of one sample a prompt, by rank 0 alone."""
        assert self.held_out is not None
        name = f"{self.tools.name}-held-out"
        tools = replace(self.tools, rewards=self.held_out.rewards, ranks=ALONE, name=name)
        self._tell_sampler(tools, steps)
        round = Round(tools, steps, self.held_out.rows)
        round.learnable(round.sample(1))
        told = round.summary()
        self.records.write(steps - 1, "held-out", steps, told)
        self.records.draw()
        return told["reward"]

    def _tell_sampler(self, tools: Tools, steps: int) -> None:
        self.policy.model.eval()
        version = f"{self.tools.name}-{steps}"
        together(tools.ranks, lambda: tools.sampler.weights_changed(version))

    def _tell_equal(self, round: Round) -> None:
        """Say once that groups teach nothing; the share is in every line of the log."""
        if self.told_equal or not (equal := round.equal_groups()):
            return
        self.told_equal = True
        places = named_places([round.rows[group].place for group in equal])
        say(
            f"step {round.number}: in {len(equal)} of {len(round.rows)} groups all samples have one reward, and teach "
            f"nothing against each other ({places}); from now on see equal_groups in the log"
        )


def _refuse(rows: Sequence[PromptRow], rewards: Sequence[Reward], how: OnPolicy, loop: Loop) -> None:
    if how.sampling.temperature <= 0:
        raise ValueError("sampling.temperature is 0: greedy answers are no samples of a policy; give one above 0")
    if not rows:
        raise ValueError("no prompts to sample from; give some rows")
    names = [reward.called for reward in rewards]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"two rewards are called {twice[0]}; give each a name of its own")
    if loop.ranks.world > 1 and loop.parallel == "fully_shard":
        raise ValueError("fully_shard: no process holds all weights, to sample with; use ddp")
    longest = max(len(row.prompt.input_ids) for row in rows) + how.sampling.max_new_tokens
    if longest > how.layout.max_tokens:
        raise ValueError(
            f"a prompt and its completion may have {longest} tokens, and a row holds {how.layout.max_tokens}; allow "
            "more tokens, or ask for fewer"
        )
