"""What is asked of a policy, and what it said: a prompt's row, and one sample of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from finetune.collate import Example
from medgemma.prompts.chat import Message, Prompt


@dataclass(frozen=True)
class PromptRow:
    """One prompt that is sampled from, with what rewards may know of it."""

    prompt: Prompt
    messages: str | Sequence[Message]
    """As rewards are given it: messages, or the text of a plain prompt."""
    pictures: tuple[int, ...] = ()
    """Numbers of its pictures, in the order of their slots."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """Further values that rewards take by name, such as the right answer."""
    place: str = ""
    """Where it stands, such as "films.csv:17"."""


@dataclass(frozen=True)
class Rollout:
    """One sample of a policy. Its log-probabilities are natural, one a token of the completion."""

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    """The token that ended it included, if one did."""
    pictures: tuple[int, ...]
    place: str
    """Of its prompt."""
    group: int
    """The number of its prompt among those of the step; samples of one prompt are a group."""
    ended: bool
    """A stop token ended it; False where the limit of tokens cut it."""
    logprobs: tuple[float, ...]
    """Under the whole distribution at the sampling temperature."""
    sampled_logprobs: tuple[float, ...]
    """Under the distribution that it was drawn from: cut by top-k, top-p and min-p, changed by penalties."""
    policy_version: str
    """Names the weights that said it."""
    text: str = ""
    """Without the token that ended it."""

    def example(self, weights: Sequence[float] | float = 1.0, *, corrected: bool = False) -> Example:
        """What is learned from it.

        Args:
            weights: of its tokens' losses, one each, or one for all.
            corrected: give the loss `sampled_logprobs`, to weigh each token by what its sampler was.
        """
        each = (float(weights),) * len(self.completion_ids) if isinstance(weights, int | float) else tuple(weights)
        sampled = self.sampled_logprobs if corrected else None
        return Example(
            self.prompt_ids, self.completion_ids, self.pictures, self.place, each, sampled, completion_is_text=True
        )


def groups_of(rollouts: Sequence[Rollout]) -> list[list[int]]:
    """Places of the rollouts of each group, in the order in which the groups begin."""
    places: dict[int, list[int]] = {}
    for place, rollout in enumerate(rollouts):
        places.setdefault(rollout.group, []).append(place)
    return list(places.values())
