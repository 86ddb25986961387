"""Episodes as JSON, one a line.

What means nothing on a last step (action, reward, discount) is written as null, so that no reader takes it for data,
and is read back as the fields' defaults. Whatever an observation or an action holds must be JSON.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from experience.episode import Episode, Step

INVALID_ON_LAST = ("action", "reward", "discount")


def write_episodes(path: Path, episodes: Iterable[Episode]) -> int:
    """Write episodes, the file whole or not at all, and return how many.

    Raises:
        ValueError: An id is there twice, or a step holds what JSON cannot (a NaN, an object).
    """
    draft = path.with_name(path.name + ".partial")
    seen: set[str] = set()
    with draft.open("w", encoding="utf-8") as file:
        for episode in episodes:
            if episode.episode_id in seen:
                raise ValueError(f"{path}: got the episode {episode.episode_id!r} twice; expected unique ids")
            seen.add(episode.episode_id)
            file.write(to_json(episode) + "\n")
    draft.replace(path)
    return len(seen)


def read_episodes(path: Path) -> Iterator[Episode]:
    """Read what `write_episodes` wrote, one episode at a time.

    Raises:
        ValueError: The file is missing, or a line is no episode.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected episodes, one JSON object a line")
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                yield from_json(line)
            except (json.JSONDecodeError, KeyError, TypeError, ValueError) as fault:
                raise ValueError(f"{path}: line {number} is no episode ({fault}); write the file again") from fault


def to_json(episode: Episode) -> str:
    """Return one line of JSON.

    Raises:
        ValueError: A step holds what JSON cannot.
    """
    row = {
        "episode_id": episode.episode_id,
        "metadata": dict(episode.metadata),
        "steps": [_row(step) for step in episode.steps],
    }
    try:
        return json.dumps(row, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as fault:
        raise ValueError(
            f"episode {episode.episode_id!r} cannot be written as JSON ({fault}); use plain values"
        ) from fault


def from_json(line: str) -> Episode:
    """Return the episode of one line.

    Raises:
        ValueError: It breaks a rule of episodes.
        KeyError: A field is missing.
        TypeError: A field is of another kind.
    """
    row = json.loads(line)
    return Episode(tuple(_step(step) for step in row["steps"]), row["episode_id"], row["metadata"])


def _row(step: Step) -> dict[str, Any]:
    row = asdict(step)
    if step.is_last:
        row.update(dict.fromkeys(INVALID_ON_LAST))
    return row


def _step(row: Mapping[str, Any]) -> Step:
    if row["is_last"]:
        return Step(**{name: value for name, value in row.items() if name not in INVALID_ON_LAST})
    if not all(isinstance(row[name], float | int) and math.isfinite(row[name]) for name in ("reward", "discount")):
        raise ValueError("a step before the last has no reward or discount")
    return Step(**row)
