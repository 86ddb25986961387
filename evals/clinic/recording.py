"""Recording a conversation while it is held: what the model is told, and every reply, is in the journal at once.

A conversation that comes to its end is dropped there, because its output holds it, and its episode is made of that. One
that a crash or a stop cut stays, as an `invalid` episode with what was said until then.
"""

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

from evals.clinic.dialogue import Backend, Dialogue, Message, without_thinking
from evals.clinic.episodes import metadata_of, observation_of, reply_of
from evals.items import Item
from experience import EpisodeWriter, Step


class ConversationJournal:
    """The conversations of a run that have not come to their end; for use from threads."""

    def __init__(self, writer: EpisodeWriter, dialogue: Dialogue, known: Mapping[str, Any]) -> None:
        """Record into a writer.

        Args:
            writer: Of the data set of the run; taken over.
            dialogue: How the items are played.
            known: Metadata of every episode.
        """
        self._writer = writer
        self._dialogue = dialogue
        self._known = known
        self._open: dict[str, str] = {}
        """Item id to episode id."""

    def recorded(self, item: Item, agent_id: str, model: Backend) -> Backend:
        """Return the model of one conversation, which records what it is told and what it says."""
        episode_id = f"{self._dialogue.environment}/{item.item_id}/{uuid4().hex}"
        metadata = {**self._known, **metadata_of(item, agent_id, self._dialogue.environment)}
        self._writer.begin(episode_id, metadata)
        self._open[item.item_id] = episode_id
        held: list[Message] = []
        steps = 0

        def answer(messages: Sequence[Message]) -> str:
            nonlocal steps
            new = messages[len(held) :] if list(messages[: len(held)]) == held else messages
            observation = observation_of([message for message in new if message["role"] != "assistant"])
            self._writer.seen(episode_id, Step(observation, is_first=steps == 0))
            reply = model(messages)
            said = without_thinking(reply)
            action = reply_of(said.text, said.thinking, self._dialogue.tool_call(said.text))
            self._writer.step(episode_id, Step(observation, action, 0.0, 1.0, is_first=steps == 0))
            held[:] = [*messages, {"role": "assistant", "content": said.text}]
            steps += 1
            return reply

        return answer

    def done(self, item_id: str) -> None:
        """Forget a conversation: its output is written."""
        if episode_id := self._open.pop(item_id, None):
            self._writer.drop(episode_id)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take what is left into the data set, as cut."""
        self._writer.close()
