"""How likely given continuations are: choice scoring from the hidden states of one pass.

Letters: H decoder width.
"""

from collections.abc import Sequence

import torch

from medgemma.engine.network import Network
from medgemma.engine.request import ChoiceScore


def longest_choice(choices: Sequence[Sequence[int]]) -> int:
    """Tokens of the longest choice.

    Raises:
        ValueError: there is no choice, or one is empty.
    """
    if not choices or not all(map(len, choices)):
        empty = sum(not len(choice) for choice in choices)
        raise ValueError(f"{len(choices)} choices, {empty} of them empty; give at least one token for each")
    return max(map(len, choices))


def choice_scores(
    network: Network, last: torch.Tensor, behind: Sequence[torch.Tensor], choices: Sequence[Sequence[int]]
) -> list[ChoiceScore]:
    """Score every choice behind one prompt.

    Args:
        network: for its output head.
        last: (H,) hidden state of the prompt's last token, which says how likely each first token is.
        behind: (tokens - 1, H) hidden states of each choice's own tokens but the last.
        choices: token ids of each.
    """
    hidden = torch.cat([part for rest in behind for part in (last[None], rest)])
    logprobs = network.logits(hidden).float().log_softmax(-1)
    targets = torch.tensor([token for choice in choices for token in choice], device=logprobs.device)
    said = logprobs.gather(1, targets[:, None])[:, 0].double().tolist()
    likeliest = (logprobs.argmax(-1) == targets).tolist()
    scores, first = [], 0
    for choice in choices:
        part = slice(first, first + len(choice))
        scores.append(ChoiceScore(sum(said[part]), len(choice), all(likeliest[part])))
        first += len(choice)
    return scores
