"""One step of an on-policy algorithm: what it may ask for while it makes its examples, and what is said of it."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

import torch

from finetune.collate import Batch, Example
from finetune.on_policy.models import Frozen, Network
from finetune.on_policy.normalising import Normalisation
from finetune.on_policy.rewards import Graded, Reward, graded
from finetune.on_policy.rollouts import PromptRow, Rollout, groups_of
from finetune.on_policy.sampling import LostSampler, Sampler
from finetune.packing import Layout
from finetune.training import Kept, Ranks, Turn, named_places
from finetune.training.draws import seed_of
from finetune.training.ranks import gathered
from medgemma.engine import Sampling
from medsiglip.command import say

Work = TypeVar("Work")


class Algorithm(Protocol):
    """What a paper's box says; the rest is the core's."""

    @property
    def normalisation(self) -> Normalisation:
        """How the losses of tokens become that of a step."""

    @property
    def kept(self) -> Kept | None:
        """Its anchor, or what else it keeps over steps."""

    def examples(self, round: "Round") -> Sequence[Example]:
        """What this step learns from, with weights; the same on every rank."""

    def loss(self, policy: Network, batch: Batch, turn: Turn, temperature: float) -> torch.Tensor:
        """A part's share of the loss: its weighted sum over `turn.denominator`; the temperature is the sampling's."""


@dataclass(frozen=True)
class Tools:
    """What all steps of a run share."""

    policy: Network
    sampler: Sampler
    rewards: Sequence[Reward]
    reference: Frozen
    sampling: Sampling
    layout: Layout
    ranks: Ranks
    seed: int
    name: str
    """Of the stage, for seeds."""


@dataclass
class Round:
    """One step: its prompts, and what may be asked about them. Every rank asks alike and is answered alike."""

    tools: Tools
    number: int
    """Of the step."""
    rows: Sequence[PromptRow]
    rollouts: list[Rollout] = field(default_factory=list)
    """All samples of the policy so far."""
    graded: Graded | None = None
    """Of `rollouts`, once asked for."""
    ratios: list[float] | None = None
    """`log_ratios` of `rollouts`, once asked for."""
    calls: int = 0

    @property
    def rng(self) -> random.Random:
        """The same for the same step, from its beginning."""
        return random.Random(f"{self.tools.seed}:{self.tools.name}:{self.number}")

    @property
    def is_exact(self) -> bool:
        """See `Sampler`; where it is not, give examples `corrected`."""
        return self.tools.sampler.is_exact

    def sample(self, num_samples: int, *, of: Frozen | None = None) -> list[Rollout]:
        """So many samples of every prompt, by the policy or `of` another model; every rank samples its share.

        Raises:
            LostSampler: a prompt has no sample.
        """
        tools, call = self.tools, self.calls
        self.calls += 1
        mine = tools.ranks.share(range(len(self.rows)))

        def work() -> list[Rollout]:
            seeds = [seed_of(tools.seed, tools.name, self.number, call, group) for group in mine]
            rows = [self.rows[group] for group in mine]
            said = tools.sampler.sample(rows, seeds, num_samples, tools.sampling, of=of) if rows else []
            return [replace(rollout, group=mine[rollout.group]) for rollout in said]

        found = [rollout for share in together(tools.ranks, work) for rollout in share]
        found.sort(key=lambda rollout: rollout.group)
        if of is None:
            self.rollouts += found
        return found

    def grade(self, rollouts: Sequence[Rollout]) -> Graded:
        """What they earn; every rank asks the rewards about its share.

        Raises:
            ValueError: see `finetune.on_policy.rewards.graded`.
        """
        ranks, rewards = self.tools.ranks, self.tools.rewards
        shares = together(ranks, lambda: graded(rewards, self.rows, rollouts[ranks.rank :: ranks.world]))
        total = [0.0] * len(rollouts)
        by_name: dict[str, list[float | None]] = {reward.called: [None] * len(rollouts) for reward in rewards}
        for rank, share in enumerate(shares):
            total[rank :: ranks.world] = share.total
            for name, values in share.by_name.items():
                by_name[name][rank :: ranks.world] = values
        found = Graded(tuple(total), {name: tuple(values) for name, values in by_name.items()})
        if list(rollouts) == self.rollouts:
            self.graded = found
        return found

    def learnable(self, rollouts: Sequence[Rollout]) -> list[Rollout]:
        """Those with a token; empty ones, which a server may give, are named and left out of their groups.

        Raises:
            ValueError: all are empty.
        """
        empty = [rollout.place or f"prompt {rollout.group}" for rollout in rollouts if not rollout.completion_ids]
        if empty:
            said = f"step {self.number}: {len(empty)} of {len(rollouts)} completions are empty ({named_places(empty)})"
            if len(empty) == len(rollouts):
                raise ValueError(f"{said}; look at the sampler")
            say(f"{said}; they are left out")
            self.rollouts = [rollout for rollout in self.rollouts if rollout.completion_ids]
        return [rollout for rollout in rollouts if rollout.completion_ids]

    def logprobs(self, rollouts: Sequence[Rollout], of: Frozen | Network) -> list[tuple[float, ...]]:
        """Log-probability of each token of each rollout, by the trainer's forward pass at the sampling temperature."""
        tools = self.tools
        return scored(of, rollouts, tools.layout, tools.sampling.temperature, tools.ranks)

    def per_token(
        self, rollouts: Sequence[Rollout], compute: Callable[[Batch], torch.Tensor]
    ) -> list[tuple[float, ...]]:
        """What `compute` gives for the tokens of each rollout, (K,) a batch; each rank computes its share."""
        return per_token(compute, rollouts, self.tools.layout, self.tools.ranks)

    def policy_logprobs(self, rollouts: Sequence[Rollout]) -> list[tuple[float, ...]]:
        """Those of the policy as it is: what the engine has told, or a forward pass where the sampler is not exact."""
        if self.tools.sampler.is_exact:
            return [rollout.logprobs for rollout in rollouts]
        return self.logprobs(rollouts, self.tools.policy)

    def log_ratios(self, rollouts: Sequence[Rollout]) -> list[float]:
        """Log π(y) - log π_ref(y) of each rollout, summed over its tokens: estimates of KL(π‖π_ref)."""
        return [sum(ratios) for ratios in self.token_log_ratios(rollouts)]

    def token_log_ratios(self, rollouts: Sequence[Rollout]) -> list[tuple[float, ...]]:
        """Log π - log π_ref of each token of each rollout."""
        reference = self.logprobs(rollouts, self.tools.reference)
        policy = self.policy_logprobs(rollouts)
        found = [
            tuple(a - b for a, b in zip(ours, theirs, strict=True))
            for ours, theirs in zip(policy, reference, strict=True)
        ]
        if list(rollouts) == self.rollouts:
            self.ratios = [sum(ratios) for ratios in found]
        return found

    def summary(self) -> dict[str, float]:
        """What is told of the policy's samples; nothing where none was taken. All is asked for that was not yet."""
        rollouts = self.rollouts
        if not rollouts:
            return {}
        ratios = self.ratios or self.log_ratios(rollouts)
        told = {
            "kl": sum(ratios) / len(ratios),
            "completion_tokens": float(sum(len(rollout.completion_ids) for rollout in rollouts)),
            "mean_tokens": sum(len(rollout.completion_ids) for rollout in rollouts) / len(rollouts),
            "ended": sum(rollout.ended for rollout in rollouts) / len(rollouts),
        }
        if self.tools.rewards:
            graded = self.graded or self.grade(rollouts)
            told["reward"] = sum(graded.total) / len(rollouts)
            told |= {f"reward.{name}": mean for name, mean in graded.means().items()}
            told["equal_groups"] = len(self.equal_groups()) / len(groups_of(rollouts))
        return told

    def equal_groups(self) -> list[int]:
        """The groups whose samples, two or more, have all earned the same."""
        if self.graded is None:
            return []
        totals = {self.rollouts[g[0]].group: [self.graded.total[n] for n in g] for g in groups_of(self.rollouts)}
        return [group for group, earned in totals.items() if len(earned) > 1 and min(earned) == max(earned)]


def scored(
    model: Frozen | Network, rollouts: Sequence[Rollout], layout: Layout, temperature: float, ranks: Ranks
) -> list[tuple[float, ...]]:
    """Log-probabilities of the tokens of rollouts under a model, each rank computing its share."""
    return per_token(lambda batch: model.logprobs(batch, temperature), rollouts, layout, ranks)


def per_token(
    compute: Callable[[Batch], torch.Tensor], rollouts: Sequence[Rollout], layout: Layout, ranks: Ranks
) -> list[tuple[float, ...]]:
    """A value of each token of each rollout, by batches whose order is the layout's; none for an empty rollout."""
    examples = [rollout.example() for rollout in rollouts if rollout.completion_ids]

    def work() -> dict[int, tuple[float, ...]]:
        place_of = {id(example): place for place, example in enumerate(examples)}
        found: dict[int, tuple[float, ...]] = {}
        for part in layout.parts(examples, ranks) if examples else []:
            said = compute(part.drawn).tolist()
            for example in part.drawn.examples:
                count = len(example.completion_ids)
                found[place_of[id(example)]] = tuple(said[:count])
                said = said[count:]
        return found

    together_found = {place: values for share in together(ranks, work) for place, values in share.items()}
    with_tokens = iter(together_found[place] for place in range(len(examples)))
    return [next(with_tokens) if rollout.completion_ids else () for rollout in rollouts]


def together(ranks: Ranks, work: Callable[[], Work]) -> list[Work]:
    """What the work of every rank has given; where it fails on one, all of them stop with its words.

    Raises:
        LostSampler, ValueError, RuntimeError: as the first rank that failed.
    """
    if ranks.world == 1:
        return [work()]
    result: Work | None = None
    fault: tuple[str, str] | None = None
    try:
        result = work()
    except Exception as error:  # the other ranks wait for this one's share
        fault = type(error).__name__, str(error)
    found = gathered((result, fault), ranks)
    for rank, (_, failed) in enumerate(found):
        if failed is not None:
            kinds: dict[str, type[Exception]] = {"LostSampler": LostSampler, "ValueError": ValueError}
            raise kinds.get(failed[0], RuntimeError)(f"rank {rank}: {failed[1]}")
    return [share for share, _ in found]  # type: ignore[misc]
