"""One question put to a model: what every task makes, the runner asks and the graders read."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

Kind = Literal["closed", "open", "class"]
"""closed: yes/no or a named choice; open: free text; class: zero-shot label, no text is generated."""


@dataclass(frozen=True)
class Item:
    """One item of an evaluation."""

    item_id: str
    """Unique in its task and the same in every run."""
    files: tuple[str, ...]
    """The pictures of the prompt."""
    prompt: str
    """The text of the prompt; for `class` the captions of all classes, one class a line."""
    reference: str
    kind: Kind
    group: str
    """What dependent items share (patient, case, source tile); confidence intervals resample groups."""
    meta: Mapping[str, str] = field(default_factory=dict)
    """`card`, the data set that the item comes from, and what else the task tells apart."""
    choices: tuple[str, ...] = ()
    """The continuations whose likelihoods are compared, white space before them included; empty if text is wanted."""
    fault: str = ""
    """Why the item cannot be asked (a row that cannot be read): it fails without being put to the model, and counts."""


def item_sha256(item: Item) -> str:
    """Return the hash of all that is put to the model: an output belongs to an item only if this is equal."""
    asked = [item.item_id, list(item.files), item.prompt, *([list(item.choices)] if item.choices else [])]
    return hashlib.sha256(json.dumps(asked, ensure_ascii=False).encode()).hexdigest()


def prompts_sha256(items: Iterable[Item]) -> str:
    """Return the hash of all prompts in order."""
    return hashlib.sha256(json.dumps([item.prompt for item in items], ensure_ascii=False).encode()).hexdigest()


def write_items(path: Path, items: Sequence[Item]) -> None:
    """Write one JSON object a line, all or nothing."""
    lines = [json.dumps(asdict(item), ensure_ascii=False) + "\n" for item in items]
    draft = path.with_suffix(".tmp")
    draft.write_text("".join(lines), encoding="utf-8")
    draft.replace(path)


def read_items(path: Path) -> list[Item]:
    """Read what `write_items` wrote.

    Raises:
        ValueError: The file is missing or a line is no item.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; run the task first: medgemma-eval run {path.parent.name} ...")
    items = []
    lines = path.read_bytes().decode("utf-8", errors="replace").split("\n")  # never splitlines: texts may hold U+2028
    for number, line in enumerate(lines[:-1] if lines[-1] == "" else lines, start=1):
        try:
            row = json.loads(line)
            items.append(Item(**{**row, "files": tuple(row["files"]), "choices": tuple(row.get("choices", ()))}))
        except (json.JSONDecodeError, KeyError, TypeError) as fault:
            raise ValueError(f"{path}: line {number} is no item ({fault}); run the task again") from fault
    return items
