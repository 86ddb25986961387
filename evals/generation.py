"""How answers are generated: part of every result, and of every key under which an answer is kept."""

from dataclasses import dataclass

from medgemma.engine.request import Sampling
from medgemma.prompts.thinking import THINKING_SYSTEM_TEXT


@dataclass(frozen=True)
class Generation:
    """Settings of one run's generation."""

    max_new_tokens: int = 32
    """Longest answer, the thinking not counted."""
    system: str = ""
    """The system turn, apart from THINKING_SYSTEM_TEXT; empty for none."""
    thinking: bool = False
    """Put THINKING_SYSTEM_TEXT into the system turn."""
    thinking_tokens: int = 0
    """Longest trace of thoughts, in tokens."""
    n_samples: int = 1
    """Answers drawn an item; the most frequent parsed answer counts."""
    temperature: float = 0.0
    """0 is greedy."""
    seed: int = 0
    """Of the draws and orders; greedy answers to the given order do not depend on it."""
    vote_orders: int = 0
    """Orders of its options that each item is asked in, the most frequent answer counts; 0 for the given one alone."""

    def __post_init__(self) -> None:
        if self.n_samples > 1 and self.temperature == 0:
            raise ValueError(
                f"got {self.n_samples} samples at temperature 0, which are all alike; expected a temperature above 0"
            )
        if self.n_samples > 1 and self.vote_orders:
            raise ValueError("got several samples and several orders to vote over; give one of them")
        if self.thinking != bool(self.thinking_tokens):
            raise ValueError(
                f"got thinking={self.thinking} and {self.thinking_tokens} tokens for it; give both or neither"
            )

    @property
    def is_greedy(self) -> bool:
        """Whether the same model gives the same answer again."""
        return self.temperature == 0

    @property
    def system_turn(self) -> str:
        """The whole system turn; empty for none."""
        return " ".join(part for part in (THINKING_SYSTEM_TEXT if self.thinking else "", self.system) if part)

    @property
    def max_tokens(self) -> int:
        """Thoughts and answer together."""
        return self.max_new_tokens + self.thinking_tokens

    @property
    def sampling(self) -> Sampling:
        """As the engine and the client of a server take it."""
        return Sampling(self.max_tokens, self.temperature, seed=self.seed, num_samples=self.n_samples)
