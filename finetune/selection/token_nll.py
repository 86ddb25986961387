"""Token NLL: the mean negative log-likelihood of a token of held-out demonstrations. Smaller is better.

The action error of policies that write. The loss is the supervised core's (`finetune.supervised.batch_loss`).
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from finetune.collate import Conversations, Example, fitting
from finetune.packing import Layout
from finetune.selection.dialogues import Dialogues
from finetune.selection.scores import Score
from finetune.supervised import batch_loss


def token_nll(
    model: Any,
    examples: Sequence[Example],
    groups: Sequence[str],
    layout: Layout,
    see: Callable[[int], torch.Tensor] | None = None,
) -> Score:
    """Score a decoder on demonstrations that it has not learned from.

    Args:
        model: Gemma3ForConditionalGeneration, or Gemma3ForCausalLM where no example has pictures.
        examples: Prompts and the replies that were demonstrated.
        groups: Of each example.
        layout: How many go through at once; what it says of length is kept to.
        see: A picture's number to pixel values (3, S, S).

    Raises:
        ValueError: No example fits `layout.max_tokens`.
    """
    fit = fitting(examples, layout.max_tokens)
    if not fit.kept:
        raise ValueError(f"no reply fits {layout.max_tokens} tokens with its prompt; allow more")
    group_of = dict(zip(map(id, examples), groups, strict=True))
    totals, counts = np.zeros(len(fit.kept)), np.zeros(len(fit.kept))
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        for number, example in enumerate(fit.kept):
            (part,) = Layout(layout.pad_id, layout.image_id, layout.max_tokens).parts([example])
            pictures = torch.stack([see(one) for one in part.drawn.pictures]) if see and part.drawn.pictures else None
            totals[number] = float(batch_loss(model, part.drawn.to(model.device), 1.0, pictures))
            counts[number] = part.weight
    model.train(was_training)
    return Score(totals, counts, tuple(group_of[id(one)] for one in fit.kept), larger_is_better=False)


def examples_of_dialogues(dialogues: Dialogues, conversations: Conversations) -> list[Example]:
    """Each reply as an example: what was said before it is given.

    Raises:
        ValueError: A conversation has pictures or turns that the model's template refuses; its episode is named.
    """
    examples = []
    for reply in dialogues.replies:
        episode_id = dialogues.episode_ids[reply.episode]
        try:
            examples.append(conversations.example(reply.messages, reply.text, place=f"episode {episode_id}"))
        except ValueError as fault:
            raise ValueError(f"episode {episode_id!r}: {fault}") from fault
    return examples
