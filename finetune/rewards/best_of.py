"""Best-of-N at inference: N answers are sampled, and the one that earns most is taken. What BOND distils."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from finetune.algorithms.best_of_n import best_of, best_of_n_kl_bound
from finetune.on_policy.rewards import Reward, RewardFunction, graded
from finetune.on_policy.rollouts import PromptRow, Rollout
from medgemma.prompts.chat import Prompt

if TYPE_CHECKING:
    from medgemma import MedGemma
    from medgemma.answers import Answer
    from medgemma.asking import AnswerOptions
    from medgemma.prompts.content import Part


@dataclass(frozen=True)
class BestOf:
    """N answers to one question and what they earn."""

    answers: "tuple[Answer, ...]"
    rewards: tuple[float, ...]
    best: int
    """The place of the highest reward, the first of equals."""

    @property
    def kl_bound(self) -> float:
        """Nats that the KL to single samples is at most; less wherever equal answers are drawn."""
        return best_of_n_kl_bound(len(self.answers))


def best_of_answers(
    gemma: "MedGemma",
    parts: "Sequence[Part]",
    question: str,
    reward: RewardFunction,
    options: "AnswerOptions",
    max_new_tokens: int,
    columns: Mapping[str, Any] | None = None,
) -> BestOf:
    """Sample `options.sampling.num_samples` answers and grade them.

    Args:
        gemma: who answers.
        parts: of the prompt, as `medgemma.prompts.content` makes them.
        question: one.
        reward: with TRL's signature.
        options: with a temperature above 0.
        max_new_tokens: an answer is cut here.
        columns: what the reward takes by name beside prompts and completions; one value for all.

    Raises:
        ValueError: greedy sampling, one sample, or a fault of the reward.
    """
    sampling = options.sampling
    if sampling.temperature <= 0 or sampling.num_samples < 2:
        raise ValueError("the best of equal answers: give -n 2 or more and a --temperature above 0")
    answers = tuple(gemma.ask_parts([(parts, question)], max_new_tokens, 1, options))
    row = PromptRow(Prompt((), (), 0), [{"role": "user", "content": question}], (), columns or {}, "the question")
    said = [Rollout((), (), (), "the question", 0, True, (), (), "", answer.text) for answer in answers]
    rewards = graded([Reward(reward)], [row], said).total
    return BestOf(answers, rewards, best_of(rewards))
