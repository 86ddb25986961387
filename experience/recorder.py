"""Recording episodes while an agent acts, from anything that resets and answers actions.

What the recorder was told is on disk before it returns. The reward is put on the step that earned it by
`experience.alignment`, here and nowhere else.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

from experience.alignment import First, Transition
from experience.storage.writer import EpisodeWriter


@dataclass(frozen=True)
class Provenance:
    """Where episodes come from; RLDS' names where it has them."""

    agent_id: str
    """Who acted: the fingerprint of the weights, the name of a policy."""
    environment_config: Mapping[str, Any]
    """What it acted in, and how that was set up."""
    code_version: str = ""
    """Commit or version of the code."""
    seed: int | None = None
    experiment_id: str = ""

    def metadata(self) -> dict[str, Any]:
        """Return it as metadata of an episode; the configuration as JSON, so that every episode has one column."""
        config = json.dumps(self.environment_config, sort_keys=True, ensure_ascii=False)
        return asdict(self) | {"environment_config": config}


class EpisodeRecorder:
    """Records one episode at a time; for environments side by side take one each over one writer."""

    def __init__(self, writer: EpisodeWriter, provenance: Provenance) -> None:
        self.writer = writer
        self.provenance = provenance
        self.episode_id = ""
        """Of the episode being recorded; empty between episodes."""

    def reset(self, observation: Any, **metadata: Any) -> str:
        """Begin an episode and return its id; one that has not ended is closed as truncated.

        Args:
            observation: The first.
            metadata: Of the episode, beside the provenance: seed, group, ...
        """
        self.truncate()
        self.episode_id = uuid4().hex
        self.writer.begin(self.episode_id, {**self.provenance.metadata(), **metadata})
        self.writer.first(self.episode_id, First(observation))
        return self.episode_id

    def step(
        self, action: Any, reward: Any, discount: Any, observation: Any, *, terminal: bool = False, last: bool = False
    ) -> None:
        """Record an action and what came of it.

        Args:
            action: What the agent did on the observation before.
            reward: What followed.
            discount: Goes with the reward; 0 where the environment ended.
            observation: The next one.
            terminal: The environment ended.
            last: The episode is over; without `terminal` it was truncated.

        Raises:
            ValueError: No episode has begun.
        """
        if not self.episode_id:
            raise ValueError("got a step outside an episode; expected reset() first")
        said = Transition(action, reward, discount, observation, last or terminal, terminal)
        self.writer.transition(self.episode_id, said)
        if last or terminal:
            self._end()

    def truncate(self) -> None:
        """Close the episode being recorded, if there is one, as cut off at its last observation."""
        if self.episode_id:
            self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the episode being recorded as truncated; after an exception leave it, to be marked `invalid`."""
        if kind is None:
            self.truncate()

    def _end(self) -> None:
        self.writer.end(self.episode_id)
        self.episode_id = ""
