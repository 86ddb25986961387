"""What the engine is asked for, and what it gives back."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from medgemma.prompts.chat import Prompt
from medsiglip.imaging import Picture

if TYPE_CHECKING:
    import torch

FinishReason = Literal["stop", "length", "loop", "cancelled", "error"]
"""A stop token or finished constraint; the limit of tokens; `Sampling.loop_guard`; the caller; `Completion.error`."""

TopLogprobs = tuple[tuple[int, float], ...]
"""The likeliest tokens of one place with their natural log-probabilities, the likeliest first."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen.

    Raises:
        ValueError: a value outside its range; it is named.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    """0 is greedy; otherwise logits are divided by it."""
    top_k: int | None = None
    """Keep the k likeliest tokens; None keeps all."""
    top_p: float = 1.0
    """Keep the likeliest tokens up to this probability together, in (0, 1]."""
    seed: int = 0
    """Sample i of a request draws from a stream of its own, made of the seed and i: the batch does not matter."""
    num_samples: int = 1
    stop_ids: frozenset[int] = frozenset()
    """Tokens that end an answer, besides the checkpoint's own."""
    min_p: float = 0.0
    """Of the sampled tokens, keep those at least this times as likely as the likeliest, in [0, 1]."""
    repetition_penalty: float = 1.0
    """Logits of tokens that prompt or answer hold are divided by it, negative ones multiplied; greedy ones too."""
    frequency_penalty: float = 0.0
    """Taken from a token's logit for each time the answer holds it."""
    presence_penalty: float = 0.0
    """Taken once from the logits of tokens that the answer holds."""
    top_logprobs: int = 0
    """How many of the likeliest tokens are told at each place."""
    loop_guard: int | None = None
    """An answer ends once it has said the same so many times in a row; None lets it."""

    @property
    def has_penalty(self) -> bool:
        """Whether what was said changes what comes."""
        return self.repetition_penalty != 1 or self.frequency_penalty != 0 or self.presence_penalty != 0

    def __post_init__(self) -> None:
        checks = {
            "max_new_tokens": (self.max_new_tokens >= 1, "1 or more"),
            "temperature": (self.temperature >= 0, "0 or more"),
            "top_k": (self.top_k is None or self.top_k >= 1, "1 or more, or None"),
            "top_p": (0 < self.top_p <= 1, "in (0, 1]"),
            "num_samples": (self.num_samples >= 1, "1 or more"),
            "min_p": (0 <= self.min_p <= 1, "in [0, 1]"),
            "repetition_penalty": (self.repetition_penalty > 0, "above 0"),
            "top_logprobs": (self.top_logprobs >= 0, "0 or more"),
            "loop_guard": (self.loop_guard is None or self.loop_guard >= 2, "2 or more, or None"),
        }
        for name, (holds, expected) in checks.items():
            if not holds:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be {expected}")


class ConstraintState(Protocol):
    """Where one answer stands in its grammar."""

    def allowed(self) -> "torch.Tensor | None":
        """The tokens that may come next, (vocabulary,) bool on the CPU; None allows all."""
        ...

    def advance(self, token_id: int) -> None:
        """Take the token that was chosen."""
        ...

    def finished(self) -> bool:
        """True when the grammar accepts no further token: the answer ends here."""
        ...


class Constraint(Protocol):
    """What an answer must look like: choices, a regular expression, a JSON schema, a thinking budget."""

    def start(self) -> ConstraintState:
        """A fresh state, one for each sample."""
        ...


@dataclass(frozen=True)
class Request:
    """One prompt with its pictures, in the order of its image slots."""

    prompt: Prompt
    pictures: tuple[Picture, ...] = ()
    sampling: Sampling = Sampling()
    constraint: Constraint | None = None
    adapter: str | None = None
    """The name of a loaded adapter; None is the bare model."""
    continues: bool = False
    """More turns will follow: the prompt is held for them."""


@dataclass(frozen=True)
class Completion:
    """One sample of an answer."""

    token_ids: tuple[int, ...]
    """What was generated, a closing stop token included."""
    logprobs: tuple[float, ...]
    """Natural log-probability of each token under the model at temperature 1, before top-k, top-p and constraint."""
    finish_reason: FinishReason
    error: str | None = None
    """Why this request alone failed, with `finish_reason` "error"."""
    top_logprobs: tuple[TopLogprobs, ...] = ()
    """Of each token's place, as `logprobs`; empty unless `Sampling.top_logprobs` asks for them."""
    tempered_logprobs: tuple[float, ...] = ()
    """As `logprobs`, at the sampling temperature."""
    sampled_logprobs: tuple[float, ...] = ()
    """Under the distribution that each token was drawn from: after temperature, penalties, constraint, top-k, top-p and
    min-p; 0 for greedy ones."""


@dataclass(frozen=True)
class ChoiceScore:
    """How likely the model finds one choice as the continuation of a prompt."""

    logprob: float
    """Natural log-probability of the whole choice: the sum over its tokens."""
    num_tokens: int
    greedy: bool
    """True when each token of it is the likeliest one."""


def likeliest(scores: Sequence[ChoiceScore]) -> int:
    """The index of the choice with the highest log-probability, the first of equals."""
    return max(range(len(scores)), key=lambda i: scores[i].logprob)
