"""Rollouts as episodes: one action each, its reward, and what is known of it; into a data set, or a replay table."""

from collections.abc import Callable, Iterator
from hashlib import sha256
from typing import Any

from experience import Episode, Step
from experience.replay import Fields, Replay
from experience.storage.writer import EpisodeWriter
from finetune.on_policy.rounds import Round


def episodes_of(round: Round) -> Iterator[Episode]:
    """The samples of the policy in a step; an interrupted run that makes a step again gives the same episodes again."""
    graded, name = round.graded, round.tools.name
    for place, rollout in enumerate(round.rollouts):
        row = round.rows[rollout.group]
        told = row.messages if isinstance(row.messages, str) else [dict(message) for message in row.messages]
        action = {
            "text": rollout.text,
            "token_ids": list(rollout.completion_ids),
            "logprobs": list(rollout.logprobs),
            "sampled_logprobs": list(rollout.sampled_logprobs),
        }
        reward = graded.total[place] if graded else None
        steps = (
            Step({"messages": told}, action, reward, 0.0 if rollout.ended else 1.0, is_first=True),
            Step({"messages": []}, is_last=True, is_terminal=rollout.ended),
        )
        said = sha256(repr((action, reward)).encode()).hexdigest()[:16]
        metadata: dict[str, Any] = {
            "agent_id": rollout.policy_version,
            "group": rollout.place or f"{name}-{round.number}-{rollout.group}",
            "training_step": round.number,
            **{f"reward.{key}": values[place] for key, values in (graded.by_name if graded else {}).items()},
        }
        yield Episode(steps, f"{name}/{round.number}/{place}/{said}", metadata)


def writing(writer: EpisodeWriter) -> Callable[[Round], None]:
    """An `on_round` that writes a step's episodes."""

    def write(round: Round) -> None:
        for episode in episodes_of(round):
            writer.write(episode)

    return write


def replaying(replay: Replay, table: str) -> Callable[[Round], None]:
    """An `on_round` that inserts each sample into a replay table, with priority 1.

    Its fields are the number of updates that its policy had seen, the prompt's group in this step, and the tokens of
    prompt and completion: the table may have a `group_size`, a `max_age`, and a limiter that counts tokens.
    """

    def insert(round: Round) -> None:
        for rollout, episode in zip(round.rollouts, episodes_of(round), strict=True):
            first = episode.steps[0]
            data = {
                "prompt": first.observation["messages"],
                "completion": first.action,
                "reward": first.reward,
                "training_step": round.number,
            }
            updates = rollout.policy_version.rpartition("-")[2]
            fields = Fields(
                policy_version=int(updates) if updates.isdecimal() else None,
                group=f"{round.tools.name}-{round.number}-{rollout.group}",
                tokens=len(rollout.prompt_ids) + len(rollout.completion_ids),
            )
            replay.insert(data, priorities={table: 1.0}, fields=fields)

    return insert
