"""The model's side of a conversation as an RLDS episode.

A transition is one reply: the observation is what the model was told since its last reply, the action is what it wrote,
the reward follows it. N replies are N + 1 steps; the last holds only what came after the last reply. The environment
ends (`is_terminal`, discount 0) where the task does; an episode that ran out of a budget is truncated.
"""

from collections.abc import Mapping, Sequence
from hashlib import sha256
from json import dumps
from typing import Any, NamedTuple

from evals.clinic.dialogue import Message
from evals.items import Item
from evals.outputs import Output
from experience import Episode, Step


class Reply(NamedTuple):
    """One reply of the model."""

    told: Sequence[Message]
    """What the model was told since its last reply."""
    text: str
    thinking: str | None


def episode_of(
    item: Item, output: Output, replies: Sequence[Reply], after: Any, reward: float, ended: bool, environment: str
) -> Episode | None:
    """Return the episode of one output.

    Args:
        item: What was played.
        output: Of the item; one with an error makes an `invalid` episode, to be dropped at read time.
        replies: The model's, in order.
        after: The last observation.
        reward: For the last reply; those before it get 0.
        ended: Whether the task came to its end; else the episode was cut off.
        environment: Name of what was played.

    Returns:
        None if there is no reply.
    """
    if not replies:
        return None
    terminal = ended and not output.error
    last = len(replies) - 1
    steps = [
        Step(
            observation=[dict(message) for message in reply.told],
            action={"text": reply.text, "thinking": reply.thinking},
            reward=reward if number == last and not output.error else 0.0,
            discount=0.0 if number == last and terminal else 1.0,
            is_first=number == 0,
        )
        for number, reply in enumerate(replies)
    ]
    steps.append(Step(observation=after, is_last=True, is_terminal=terminal))
    metadata: Mapping[str, Any] = {
        "agent_id": output.model,
        "environment": environment,
        "item_id": item.item_id,
        "group": item.group,
        "invalid": bool(output.error),
    }
    said = sha256(dumps([reply.text for reply in replies]).encode()).hexdigest()[:16]
    return Episode(tuple(steps), f"{environment}/{item.item_id}/{output.item_sha256[:16]}/{said}", metadata)
