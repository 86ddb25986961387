"""Conversations in a table, in the forms of OpenAI, transformers, TRL and LLaVA, to one form."""

import base64
import binascii
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_cards.table.files import Fault, Files
from data_cards.table.rows import Message
from data_cards.table.values import list_in

_ROLES = {"system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}
_ROLES |= {"model": "assistant", "bot": "assistant", "developer": "system"}
_PLACEHOLDER = re.compile(r"\s*<image>\s*")


@dataclass(frozen=True)
class Conversation:
    """Messages as `rows.Message` says, and the pictures of their image parts, in order."""

    messages: tuple[Message, ...]
    files: tuple[Path, ...]


def is_conversation(cell: Any) -> bool:
    """Whether a cell is a list of messages."""
    return isinstance(cell, list) and bool(cell) and all(isinstance(m, Mapping) and _role(m) for m in cell)


def conversation_of(cell: Any, pictures: Sequence[Path], files: Files, *, answered: bool = True) -> Conversation:
    """Read one conversation.

    Args:
        cell: A list of {"role", "content"} or {"from", "value"}, or such a list as JSON text. Pictures are image parts
            with or without a name, or `<image>` in a text (LLaVA).
        pictures: Of the row's files columns; they fill the image parts without a name. Without any such part they come
            before the first user's words.
        files: Finds the pictures that parts name.
        answered: Whether the last message must be the assistant's.

    Raises:
        Fault: It is no conversation, a part is of a kind that is not known here, or pictures and image parts do not
            match.
    """
    turns: Any = list_in(cell) if isinstance(cell, str) else cell
    if not is_conversation(turns):
        raise Fault('is no list of messages; expected [{"role": "user", "content": ...}, {"role": "assistant", ...}]')
    content = [(_role(turn), list(_parts(turn.get("content", turn.get("value"))))) for turn in turns]
    slots = [part for _, parts in content for part in parts if part["type"] == "image"]
    if pictures and not slots:
        first = next((parts for role, parts in content if role == "user"), content[0][1])
        slots = [{"type": "image", "named": None} for _ in pictures]
        first[:0] = slots
    unnamed = sum(part["named"] is None for part in slots)
    if unnamed != (len(pictures) if unnamed else 0):
        raise Fault(
            f"has {unnamed} image parts without a picture and {len(pictures)} pictures; expected as many of each"
        )
    if answered and content[-1][0] != "assistant":
        raise Fault("its last message is not the assistant's, so there is nothing to learn or to compare with")
    left = iter(pictures)
    found = [path for part in slots for path in ([next(left)] if part["named"] is None else files.of(part["named"]))]
    messages = [{"role": role, "content": [_as_said(part) for part in parts]} for role, parts in content]
    return Conversation(tuple(messages), tuple(found))


def words_of(messages: Sequence[Message], role: str) -> str:
    """All texts of one role."""
    return "\n".join(
        part["text"]
        for message in messages
        if message["role"] == role
        for part in message["content"]
        if part["type"] == "text"
    )


def _role(message: Mapping[str, Any]) -> str:
    return _ROLES.get(str(message.get("role") or message.get("from") or "").lower(), "")


def _parts(content: Any) -> Iterator[dict[str, Any]]:
    for part in [content] if isinstance(content, str | Mapping) else content or []:
        if isinstance(part, str):
            yield from _parts_of_text(part)
        elif part.get("type") in ("text", "input_text"):
            yield {"type": "text", "text": str(part.get("text") or "")}
        elif part.get("type") in ("image", "image_url", "input_image"):
            yield {"type": "image", "named": _named(part)}
        else:
            raise Fault(f"has a part of type {part.get('type')!r}; expected text or image")


def _parts_of_text(text: str) -> Iterator[dict[str, Any]]:
    pieces = _PLACEHOLDER.split(text)
    for number, piece in enumerate(pieces):
        if number:
            yield {"type": "image", "named": None}
        if piece or len(pieces) == 1:
            yield {"type": "text", "text": piece}


def _named(part: Mapping[str, Any]) -> Any:
    """What an image part names: a path or bytes; None for a placeholder."""
    found = next((part[key] for key in ("image", "image_url", "path", "url", "base64") if part.get(key)), None)
    if isinstance(found, Mapping):
        found = found.get("url") or found
    if isinstance(found, str) and found.startswith("data:"):
        try:
            return {"bytes": base64.b64decode(found.partition(",")[2], validate=True)}
        except binascii.Error as fault:
            raise Fault(f"has a data: picture that is no base64 ({fault})") from fault
    if isinstance(found, str) and found.startswith(("http://", "https://")):
        raise Fault("names a picture by its web address; nothing is fetched here: download it and name the file")
    return found


def _as_said(part: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "image"} if part["type"] == "image" else dict(part)
