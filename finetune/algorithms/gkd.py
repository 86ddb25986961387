"""GKD: a student learns a teacher's distribution over its own samples, or over written answers.

Algorithm 1:
    for every step:
        u ~ U(0, 1)
        if u < λ: prompts x, and y ~ p_S(·|x)            the student's own samples
        else: prompts x with their answers y              people's (supervised KD) or the teacher's (sequence KD)
        minimise the mean over (x, y) of D(p_T‖p_S)(y|x) = (1/|y|) Σ_n D(p_T(·|y_<n, x)‖p_S(·|y_<n, x))     eq. 3, 4

No gradient goes through the sampling. D is forward KL, reverse KL or JSD(β): `finetune.losses.divergence`.

With a reward (eq. 5), over the student's own samples alone:
    maximise E_x [ (1 - α) E_y~p_S r(y) - α E_y~p_S D(p_T‖p_S)(y|x) ]

Source: Agarwal et al., On-Policy Distillation of Language Models, arXiv:2306.13649 (ICLR 2024). The box has u ≤ λ,
which samples once in a while at λ = 0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from finetune.algorithms.reinforce import leave_one_out
from finetune.collate import Batch, Example
from finetune.losses.completion import completion_loss
from finetune.losses.divergence import divergence_loss
from finetune.losses.policy import CISPO, policy_loss
from finetune.on_policy import Frozen, Network, Normalisation, PromptRow, Round, Sampler
from finetune.on_policy.rollouts import groups_of
from finetune.training import Kept, Turn, named_places
from medgemma.engine import Sampling

LARGEST_RATIO = 2.0
"""Of the student to what a served sampler says the tokens of a reward were drawn from."""
Answers = Mapping[str, tuple[int, ...]]
"""Completion ids, the token that ends them included, by the place of their prompt."""


@dataclass(frozen=True)
class GKD:
    """See the head of this file."""

    teacher: Frozen
    student_fraction: float
    """λ."""
    beta: float
    """0: forward KL, 1: reverse KL, between: JSD(β)."""
    vocabulary: int
    """Tokens that both have: `shared_tokens`."""
    answers: Answers
    """Of every prompt; empty at λ = 1."""
    temperature: float = 1.0
    """Of both models in the divergence; that of sampling is another."""
    distilled: float = 1.0
    """α: at 1 rewards are only logged."""
    num_samples: int = 1
    """Of each prompt."""
    normalisation: Normalisation = "sequence-mean"
    """As the paper has it."""
    kept: Kept | None = None

    def __post_init__(self) -> None:
        for name, value in (("student_fraction", self.student_fraction), ("distilled", self.distilled)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is {value}; expected 0 to 1")
        if self.distilled < 1 and self.student_fraction < 1:
            raise ValueError(
                f"distilled is {self.distilled}: a reward is of the student's own samples; set student_fraction to 1"
            )

    def examples(self, round: Round) -> Sequence[Example]:
        """The student's samples or the written answers of this step's prompts: one draw a step, on all ranks alike."""
        if round.rng.random() < self.student_fraction:
            return self._sampled(round)
        return [answered(row, self.answers) for row in round.rows]

    def loss(self, policy: Network, batch: Batch, turn: Turn, temperature: float) -> torch.Tensor:
        """α D(p_T‖p_S), and of the reward (1 - α) · -Σ advantage · log p_S(y), over the sequences of the step."""
        states, weights = policy.states(batch), batch.weights
        if self.distilled < 1:  # what the core has normalised is the advantages
            weights = 1 / self._shares(batch)
        divergence = divergence_loss(
            states,
            policy.head(),
            self.teacher.states(batch).to(states.device),
            self.teacher.head().to(states.device),
            beta=self.beta,
            denominator=turn.denominator,
            weights=weights,
            temperature=self.temperature,
            soft_cap=policy.soft_cap,
            teacher_soft_cap=self.teacher.network.soft_cap,
            vocabulary=self.vocabulary,
        )
        if self.distilled == 1:
            return divergence
        assert batch.weights is not None
        gained = policy_loss(
            states,
            policy.head(),
            batch.targets,
            weights=batch.weights * self._shares(batch),
            denominator=turn.denominator,
            sampled_logprobs=batch.sampled_logprobs,
            clip=None if batch.sampled_logprobs is None else CISPO(LARGEST_RATIO - 1),
            temperature=temperature,
            soft_cap=policy.soft_cap,
        ).loss
        return self.distilled * divergence + (1 - self.distilled) * gained

    def _sampled(self, round: Round) -> list[Example]:
        rollouts = round.learnable(round.sample(self.num_samples))
        advantages = [1.0] * len(rollouts)
        if self.distilled < 1:
            rewards = round.grade(rollouts).total
            baselines = leave_one_out(rewards, groups_of(rollouts))
            advantages = [reward - baseline for reward, baseline in zip(rewards, baselines, strict=True)]
        corrected = self.distilled < 1 and not round.is_exact
        return [r.example(a, corrected=corrected) for r, a in zip(rollouts, advantages, strict=True)]

    def _shares(self, batch: Batch) -> torch.Tensor:
        """(K,) float32: what the core has divided each token's weight by, the length of its completion or 1."""
        lengths = torch.tensor([len(example.completion_ids) for example in batch.examples])
        of_tokens = lengths.repeat_interleave(lengths).to(batch.targets.device, torch.float32)
        assert len(of_tokens) == len(batch.targets), "an example without a prompt"
        return of_tokens if self.normalisation == "sequence-mean" else torch.ones_like(of_tokens)


def answered(row: PromptRow, answers: Answers) -> Example:
    """A prompt with its answer.

    Raises:
        ValueError: it has none, or an empty one.
    """
    if not answers.get(row.place):
        raise ValueError(f"{row.place or 'a prompt'}: no answer to learn; give one, or set student_fraction to 1")
    return Example(row.prompt.input_ids, answers[row.place], row.pictures, row.place, completion_is_text=True)


def shared_tokens(student: Any, teacher: Any, student_rows: int, teacher_rows: int) -> int:
    """How many tokens two models have in common: the vocabulary of their divergence.

    Tokens that only one has rows for, such as Gemma's image token in a head of 262,208, may only be special ones.

    Args:
        student: its tokenizer.
        teacher: the teacher's.
        student_rows: of its output head.
        teacher_rows: of the teacher's.

    Raises:
        ValueError: the vocabularies differ; the first token that does is named.
    """
    count = min(len(student), len(teacher), student_rows, teacher_rows)
    ours, theirs = (tokenizer.convert_ids_to_tokens(list(range(count))) for tokenizer in (student, teacher))
    for number, (own, other) in enumerate(zip(ours, theirs, strict=True)):
        if own != other:
            raise ValueError(
                f"token {number} is {own!r} for the student and {other!r} for the teacher: a divergence needs one "
                "vocabulary; take a teacher with the student's tokenizer"
            )
    for name, tokenizer, rows in (("student", student, student_rows), ("teacher", teacher, teacher_rows)):
        beyond = range(count, min(len(tokenizer), rows))
        if more := [n for n in beyond if n not in tokenizer.all_special_ids and not _is_special(tokenizer, n)]:
            raise ValueError(
                f"the {name} alone has token {more[0]}, {tokenizer.convert_ids_to_tokens(more[0])!r}, and "
                f"{len(more) - 1} more: a divergence needs one vocabulary; take a teacher with the student's tokenizer"
            )
    return count


def _is_special(tokenizer: Any, number: int) -> bool:
    token = tokenizer.added_tokens_decoder.get(number)
    return token is not None and token.special


@dataclass(frozen=True)
class MaximumLikelihood:
    """Written answers learned by cross-entropy: people's (SFT), or the teacher's (sequence KD, `written_by`)."""

    answers: Answers
    normalisation: Normalisation = "token"
    kept: Kept | None = None

    def examples(self, round: Round) -> Sequence[Example]:
        """The answers of this step's prompts."""
        return [answered(row, self.answers) for row in round.rows]

    def loss(self, policy: Network, batch: Batch, turn: Turn, temperature: float) -> torch.Tensor:
        """-Σ log p_S(y|x), over the tokens of the step."""
        return completion_loss(
            policy.states(batch),
            policy.head(),
            batch.targets,
            weights=batch.weights,
            denominator=turn.denominator,
            soft_cap=policy.soft_cap,
        )


def written_by(sampler: Sampler, rows: Sequence[PromptRow], sampling: Sampling) -> dict[str, tuple[int, ...]]:
    """What a teacher answers to every prompt: the data of sequence KD.

    Args:
        sampler: of the teacher.
        rows: prompts with places of their own.
        sampling: greedy, or drawn from streams seeded by each prompt's number.

    Raises:
        ValueError: an answer is empty, or two prompts stand at one place; they are named.
    """
    rollouts = sampler.sample(rows, range(len(rows)), 1, sampling)
    if empty := [rollout.place for rollout in rollouts if not rollout.completion_ids]:
        raise ValueError(f"the teacher's answer is empty: {named_places(empty)}; leave these prompts out")
    answers = {rollout.place: rollout.completion_ids for rollout in rollouts}
    if len(answers) < len(rows):
        raise ValueError(f"{len(rows)} prompts at {len(answers)} places; give each a place of its own")
    return answers
