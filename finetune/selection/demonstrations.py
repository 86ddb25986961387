"""States and actions of episodes, as arrays: an expert's demonstrations, or a policy's rollouts. No rewards.

Letters: N steps with an action, d numbers of a state, a of an action, E episodes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experience.unrewarded import read_unrewarded


@dataclass(frozen=True)
class Demonstrations:
    """What was seen and done in every step that had an action."""

    observations: NDArray[np.float32]
    """(N, d)."""
    actions: NDArray[np.float32] | NDArray[np.int64]
    """(N, a) float32, or (N,) int64 where one of several is chosen."""
    episodes: NDArray[np.int64]
    """(N,) the number of each step's episode, ascending from 0."""
    episode_ids: tuple[str, ...]
    """E."""
    groups: tuple[str, ...]
    """E: what episodes that are not independent have in common."""

    def __post_init__(self) -> None:
        if not len(self.observations):
            raise ValueError("got demonstrations without a step; expected episodes with actions")
        for name, values in (("observations", self.observations), ("actions", self.actions)):
            if not np.isfinite(values).all():
                place = int(np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))[0])
                episode = self.episode_ids[self.episodes[place]]
                raise ValueError(f"episode {episode!r} holds {name} that are not finite; leave it out")

    @property
    def is_discrete(self) -> bool:
        """Whether an action is one of several."""
        return self.actions.ndim == 1

    def of_episodes(self, chosen: Sequence[int]) -> "Demonstrations":
        """Those episodes alone, in the order of this."""
        kept = sorted(chosen)
        rows = np.isin(self.episodes, kept)
        return Demonstrations(
            self.observations[rows],
            self.actions[rows],
            np.searchsorted(np.array(kept), self.episodes[rows]),
            tuple(self.episode_ids[one] for one in kept),
            tuple(self.groups[one] for one in kept),
        )

    def sums(self, values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """(E,) sums over each episode's steps of (N,) values."""
        return np.bincount(self.episodes, values, len(self.episode_ids)).astype(np.float64)

    def num_steps(self) -> NDArray[np.float64]:
        """(E,) steps of each episode."""
        return self.sums(np.ones(len(self.episodes)))


def read_demonstrations(folder: Path, group: str | None = None) -> Demonstrations:
    """Read the states and actions of a data set of episodes; its rewards are not read.

    Observations and actions are numbers, arrays, or dicts of them, which are flattened in the order of their keys.
    An action that is an integer is one of several. Episodes that were cut are left out.

    Args:
        folder: Of the data set.
        group: see `experience.unrewarded.read_unrewarded`.

    Raises:
        ValueError: There is no data set, or it holds something else than numbers or states of several sizes.
    """
    episodes = [episode for episode in read_unrewarded(folder, group) if episode.actions]
    if not episodes:
        raise ValueError(f"{folder}: holds no episode with an action; record or import some")
    said = f"{folder}: observations"
    states = [_flat(one, said) for episode in episodes for one in episode.observations[:-1]]
    actions = [one for episode in episodes for one in episode.actions]
    return Demonstrations(
        _stacked(states, said),
        _actions(actions, f"{folder}: actions"),
        np.repeat(np.arange(len(episodes)), [len(episode.actions) for episode in episodes]),
        tuple(episode.episode_id for episode in episodes),
        tuple(episode.group for episode in episodes),
    )


def demand_same_space(one: Demonstrations, other: Demonstrations, name: str) -> None:
    """Refuse two that cannot be compared.

    Args:
        one: What is expected.
        other: What is judged.
        name: Of the latter, for the message.

    Raises:
        ValueError: Their states or actions differ in size or kind.
    """
    states = one.observations.shape[1], other.observations.shape[1]
    if states[0] != states[1]:
        raise ValueError(f"{name}: its states have {states[1]} numbers, the demonstrations' {states[0]}")
    if _space(one) != _space(other):
        raise ValueError(f"{name}: its actions are {_space(other)}, the demonstrations' {_space(one)}")


def _space(of: Demonstrations) -> str:
    return "one of several" if of.is_discrete else f"{of.actions.shape[1]} numbers"


def _actions(values: Sequence[Any], said: str) -> NDArray[np.float32] | NDArray[np.int64]:
    whole = [isinstance(one, int | np.integer) and not isinstance(one, bool) for one in values]
    if all(whole):
        return np.array(values, np.int64)
    return _stacked([_flat(one, said) for one in values], said)


def _flat(value: Any, said: str) -> NDArray[np.float32]:
    if isinstance(value, Mapping):
        return np.concatenate([_flat(value[key], said) for key in sorted(value)])
    if isinstance(value, bool | int | float | np.generic | np.ndarray) and np.asarray(value).dtype.kind in "biuf":
        return np.asarray(value, np.float32).reshape(-1)
    raise ValueError(f"{said} are no numbers but {type(value).__name__}; of conversations read `read_dialogues`")


def _stacked(rows: Sequence[NDArray[np.float32]], said: str) -> NDArray[np.float32]:
    sizes = sorted({len(row) for row in rows})
    if len(sizes) > 1:
        raise ValueError(f"{said} have {sizes[0]} to {sizes[-1]} numbers; expected as many in every step")
    return np.stack(rows)
