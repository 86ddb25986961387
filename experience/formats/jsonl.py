"""Episodes as JSON, one a line: what this package wrote before it had data sets of episodes. Read to migrate them."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from experience.episode import Episode, Step


def read_jsonl(path: Path) -> Iterator[Episode]:
    """Yield the episodes of a file, one at a time.

    Raises:
        ValueError: The file is missing, or a line is no episode.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected episodes, one JSON object a line")
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
                yield Episode(tuple(map(_step, row["steps"])), row["episode_id"], row["metadata"])
            except (json.JSONDecodeError, KeyError, TypeError, ValueError) as fault:
                raise ValueError(f"{path}: line {number} is no episode ({fault}); write the file again") from fault


def _step(row: Mapping[str, Any]) -> Step:
    if not row["is_last"] and not all(isinstance(row[name], float | int) for name in ("reward", "discount")):
        raise ValueError("a step before the last has no reward or discount")
    return Step(**row)
