"""The model's side of a conversation as an RLDS episode.

A transition is one reply: the observation is what the model was told since its last reply (`messages`), the action is
what it wrote, the reward follows it. N replies are N + 1 steps; the last holds only what came after the last reply. The
environment ends (`is_terminal`, discount 0) where the task does; an episode that ran out of a budget is truncated.
"""

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from data_cards.launch import DISTRIBUTION
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
    tool_call: Mapping[str, Any] | None = None
    """The call that the text makes: `tool`, and its arguments beside it."""


def episode_of(
    item: Item,
    output: Output,
    replies: Sequence[Reply],
    after: Sequence[Message],
    reward: float,
    ended: bool,
    environment: str,
    **further: Any,
) -> Episode | None:
    """Return the episode of one output.

    Args:
        item: What was played.
        output: Of the item; one with an error makes an `invalid` episode, to be dropped at read time.
        replies: The model's, in order.
        after: What the model was told after its last reply.
        reward: For the last reply; those before it get 0.
        ended: Whether the task came to its end; else the episode was cut off.
        environment: Name of what was played.
        further: More metadata of the episode: its outcome.

    Returns:
        None if there is no reply.
    """
    if not replies:
        return None
    terminal = ended and not output.error
    last = len(replies) - 1
    steps = [
        Step(
            observation=observation_of(reply.told),
            action=reply_of(reply.text, reply.thinking, reply.tool_call),
            reward=reward if number == last and not output.error else 0.0,
            discount=0.0 if number == last and terminal else 1.0,
            is_first=number == 0,
        )
        for number, reply in enumerate(replies)
    ]
    steps.append(Step(observation=observation_of(after), is_last=True, is_terminal=terminal))
    metadata = {**metadata_of(item, output.model, environment), "invalid": bool(output.error), **further}
    said = sha256(json.dumps([reply.text for reply in replies]).encode()).hexdigest()[:16]
    return Episode(tuple(steps), f"{environment}/{item.item_id}/{output.item_sha256[:16]}/{said}", metadata)


def metadata_of(item: Item, agent_id: str, environment: str) -> dict[str, Any]:
    """Return what is known of an episode before it begins."""
    return {"agent_id": agent_id, "environment": environment, "item_id": item.item_id, "group": item.group}


def provenance(folder: Path) -> dict[str, Any]:
    """Return what the record of a run says of where its episodes come from; nothing where there is no record."""
    if not (folder / "run.json").is_file():
        return {}
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    told = ("task", "task_version", "side", "generation", "prompts_sha256", "data_sha256")
    return {
        "environment_config": json.dumps({name: record[name] for name in told}, sort_keys=True),
        "code_version": record["commit"] or record["versions"][DISTRIBUTION],
        "seed": record["seed"],
    }


def observation_of(told: Sequence[Message]) -> dict[str, Any]:
    """Return what the model sees."""
    return {"messages": [dict(message) for message in told]}


def reply_of(text: str, thinking: str | None, tool_call: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what the model does."""
    return {"text": text, "thinking": thinking, "tool_calls": _tool_calls(tool_call)}


def _tool_calls(call: Mapping[str, Any] | None) -> list[dict[str, str]]:
    """Calls as OpenAI writes them: the arguments are a text of JSON."""
    if call is None:
        return []
    arguments = {name: value for name, value in call.items() if name != "tool"}
    return [{"name": str(call.get("tool")), "arguments": json.dumps(arguments, ensure_ascii=False)}]
