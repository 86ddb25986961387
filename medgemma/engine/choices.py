"""How likely given continuations are, token by token, from the hidden states of one pass.

Letters: K tokens of all continuations, H decoder width, V vocabulary.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from medgemma.engine.network import Network
from medgemma.engine.request import ChoiceScore

LOGITS_BYTES = 256 << 20
"""Of the logits that exist at once: 256 tokens of Gemma's vocabulary."""


class TokenScores(NamedTuple):
    """Of one continuation."""

    logprobs: tuple[float, ...]
    """Natural log-probability of each token."""
    likeliest: tuple[bool, ...]
    """Whether each token is the likeliest one."""

    @property
    def choice(self) -> ChoiceScore:
        """Of the whole."""
        return ChoiceScore(sum(self.logprobs), len(self.logprobs), all(self.likeliest))


def longest_choice(choices: Sequence[Sequence[int]]) -> int:
    """Tokens of the longest choice.

    Raises:
        ValueError: there is no choice, or one is empty.
    """
    if not choices or not all(map(len, choices)):
        empty = sum(not len(choice) for choice in choices)
        raise ValueError(f"{len(choices)} choices, {empty} of them empty; give at least one token for each")
    return max(map(len, choices))


def token_scores(
    network: Network,
    last: torch.Tensor,
    behind: Sequence[torch.Tensor],
    choices: Sequence[Sequence[int]],
    temperature: float = 1.0,
) -> list[TokenScores]:
    """Score every token of every choice behind one prompt; the head runs over a few tokens at a time.

    Args:
        network: for its output head.
        last: (H,) hidden state of the prompt's last token, which says how likely each first token is.
        behind: (tokens - 1, H) hidden states of each choice's own tokens but the last.
        choices: token ids of each.
        temperature: that logits are divided by.
    """
    hidden = torch.cat([part for rest in behind for part in (last[None], rest)])  # (K, H)
    targets = torch.tensor([token for choice in choices for token in choice], device=hidden.device)
    rows = max(1, LOGITS_BYTES // (4 * network.config.vocab_size))
    said: list[float] = []
    likeliest: list[bool] = []
    for part, wanted in zip(torch.split(hidden, rows), torch.split(targets, rows), strict=True):
        logits = network.logits(part).float().div_(temperature)  # (rows, V)
        found = logits.gather(1, wanted[:, None])[:, 0] - logits.logsumexp(-1)
        said += found.double().tolist()
        likeliest += (logits.argmax(-1) == wanted).tolist()
    scores, first = [], 0
    for choice in choices:
        part_of = slice(first, first + len(choice))
        scores.append(TokenScores(tuple(said[part_of]), tuple(likeliest[part_of])))
        first += len(choice)
    return scores
