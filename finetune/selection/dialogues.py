"""Conversations and tool sessions without their rewards: what a model had been told before each reply, and the reply.

An observation is {"messages": [...]}, what was told since the last reply; an action is {"text": ...}, as
`evals.clinic.episodes` and `finetune.on_policy.episodes` write them. A system turn begins a new prompt.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from experience.unrewarded import read_unrewarded
from finetune.selection.demonstrations import Demonstrations

Message = Mapping[str, Any]
Embed = Callable[[Sequence[str]], NDArray[np.float32]]
"""Texts to (N, d) vectors, by a model that is the same for every policy that is compared."""


class Reply(NamedTuple):
    """One reply."""

    messages: tuple[Message, ...]
    """All that stood before it."""
    text: str
    episode: int
    """Its number."""


@dataclass(frozen=True)
class Dialogues:
    """The replies of some episodes."""

    replies: tuple[Reply, ...]
    episode_ids: tuple[str, ...]
    groups: tuple[str, ...]
    """One an episode: the patient, the scenario."""

    def of_episodes(self, chosen: Sequence[int]) -> "Dialogues":
        """Those episodes alone, in the order of this."""
        kept = {one: number for number, one in enumerate(sorted(chosen))}
        return Dialogues(
            tuple(r._replace(episode=kept[r.episode]) for r in self.replies if r.episode in kept),
            tuple(self.episode_ids[one] for one in kept),
            tuple(self.groups[one] for one in kept),
        )


def read_dialogues(folder: Path, group: str | None = None) -> Dialogues:
    """Read the replies of a data set of episodes; its rewards are not read, and cut episodes are left out.

    Args:
        folder: Of the data set.
        group: see `experience.unrewarded.read_unrewarded`.

    Raises:
        ValueError: There is no data set, or its episodes are no conversations.
    """
    episodes = [episode for episode in read_unrewarded(folder, group) if episode.actions]
    if not episodes:
        raise ValueError(f"{folder}: holds no episode with an action; record or import some")
    replies: list[Reply] = []
    for number, episode in enumerate(episodes):
        before: list[Message] = []
        for observation, action in zip(episode.observations, episode.actions, strict=False):
            told, text = _told(folder, observation), _text(folder, action)
            before = told if told and told[0].get("role") == "system" else before + told
            replies.append(Reply(tuple(before), text, number))
            before = [*before, {"role": "assistant", "content": text}]
    ids, groups = (tuple(getattr(one, name) for one in episodes) for name in ("episode_id", "group"))
    return Dialogues(tuple(replies), ids, groups)


def embedded(dialogues: Dialogues, embed: Embed) -> Demonstrations:
    """A state as the vector of what had been said until then, an action as that of the reply."""
    states = [said(reply.messages) for reply in dialogues.replies]
    return Demonstrations(
        np.asarray(embed(states), np.float32),
        np.asarray(embed([reply.text for reply in dialogues.replies]), np.float32),
        np.array([reply.episode for reply in dialogues.replies]),
        dialogues.episode_ids,
        dialogues.groups,
    )


def said(messages: Sequence[Message]) -> str:
    """Messages as one text, a line a turn; pictures in it are not read."""
    return "\n".join(f"{message['role']}: {_content(message['content'])}" for message in messages)


def _content(content: Any) -> str:
    if isinstance(content, str):
        return content
    return " ".join(part["text"] if part.get("type") == "text" else f"<{part.get('type')}>" for part in content)


def _told(folder: Path, observation: Any) -> list[Message]:
    told = observation.get("messages") if isinstance(observation, Mapping) else None
    if isinstance(told, str):
        return [{"role": "user", "content": told}]
    if not isinstance(told, list | tuple):
        raise ValueError(
            f"{folder}: an observation is no conversation; expected {{'messages': "
            "[{'role': ..., 'content': ...}, ...]}, as medgemma-eval records them"
        )
    if any(not isinstance(one, Mapping) or not {"role", "content"} <= one.keys() for one in told):
        raise ValueError(f"{folder}: a message without a role or content; expected both in each of an observation's")
    return list(told)


def _text(folder: Path, action: Any) -> str:
    text = action.get("text") if isinstance(action, Mapping) else action
    if not isinstance(text, str):
        raise ValueError(f"{folder}: an action is no reply; expected {{'text': ...}}, as medgemma-eval records them")
    return text
