"""Answers kept over runs (`--cache DIR`), so that the same question to the same model is not computed twice.

The key holds all that an answer depends on: the model's identity (weights, tokenizer, template, pixels, settings,
adapter), device and dtype, this package's version, the task's version,
the bytes of the pictures, the prompt and the settings. Only greedy answers are kept, and none of a server, whose
weights may change behind its name.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from types import TracebackType

from data_cards.launch import DISTRIBUTION
from evals.items import Item, item_sha256
from evals.outputs import Output
from evals.running.record import RunRecord


class AnswerCache:
    """One SQLite file in a folder; several runs may use it at once. Use it in a `with` block.

    Raises:
        ValueError: The folder holds a file of that name that is no cache.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "answers.sqlite"
        self._database = sqlite3.connect(self._path, timeout=60, isolation_level=None)
        try:
            self._database.execute("CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, output TEXT NOT NULL)")
        except sqlite3.DatabaseError as fault:
            self._database.close()
            raise ValueError(f"{self._path}: is no cache of answers ({fault}); delete it, or name another") from fault
        self._file_sha256 = lru_cache(maxsize=4096)(file_sha256)

    def __enter__(self) -> "AnswerCache":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database.close()

    def known(self, items: Iterable[Item], record: RunRecord) -> Iterator[Output]:
        """Yield the outputs of the items that are in the cache, as outputs of this run."""
        for item in items:
            key = self._key(item, record)
            row = key and self._database.execute("SELECT output FROM answers WHERE key = ?", (key,)).fetchone()
            if row:
                kept = Output(**json.loads(row[0]))
                yield replace(
                    kept,
                    item_id=item.item_id,
                    item_sha256=item_sha256(item),
                    settings=record.settings,
                    seconds=0.0,
                    cached=True,
                )

    def keep(self, item: Item, output: Output, record: RunRecord) -> None:
        """Keep an answer; one that failed is not kept."""
        key = self._key(item, record)
        if key and not output.error:
            row = (key, json.dumps(asdict(output), ensure_ascii=False))
            self._database.execute("INSERT OR REPLACE INTO answers VALUES (?, ?)", row)

    def _key(self, item: Item, record: RunRecord) -> str:
        """Return the key of an item; empty if a picture of it cannot be read."""
        try:
            pictures = [self._file_sha256(file) for file in item.files]
        except OSError:
            return ""
        made_by = [record.model_identity, record.computed_on, record.versions[DISTRIBUTION]]
        asked = [record.task, record.task_version, pictures, item.prompt, list(item.choices), record.generation]
        asked.append(item.meta.get("label_set", ""))
        return sha256(json.dumps([made_by, asked], ensure_ascii=False, sort_keys=True).encode()).hexdigest()


def file_sha256(file: str) -> str:
    """Return the SHA-256 of a file's bytes."""
    return sha256(Path(file).read_bytes()).hexdigest()
