"""One answer, with what it takes to say how it came about."""

from dataclasses import dataclass

from medgemma.engine.request import FinishReason


@dataclass(frozen=True)
class Answer:
    """One answer to one question about one prompt's pictures."""

    files: tuple[str, ...]
    question: str
    text: str
    thinking: str | None
    """The reasoning trace, None if there was none."""
    tokens: int
    """Generated tokens, the stop token included."""
    seconds: float
    """Wall-clock time of the batch that this answer was made in."""
    finish_reason: FinishReason
    policies: tuple[str, ...] = ()
    """How stored values became RGB, each policy of the prompt's pictures once."""
    resize: str = ""
    """The resize policy; "" without pictures."""
    sample: int = 0
    """Which of several samples of one prompt."""
    logprob: float | None = None
    """Natural log-probability of all its tokens together, under the model at temperature 1."""
    findings: tuple[str, ...] = ()
    """What a user should know of the pictures: missing slices, what was left out, tags that contradict the pixels."""
