"""JSON objects and lists in prose, in the loose syntax that models write too: single quotes, comments, Python words."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_OPENS = re.compile(r"[{\[]")
_IS_JSON = re.compile(r"[{\[]\s*(?:[\"'{\[]|\w+\s*:)")
_STRING = re.compile(r"\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.|'(?=\w))*'(?=\s*(?:[,:}\]]|//|#|$))", re.DOTALL)
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/|#[^\n]*", re.DOTALL)
_PYTHON = {"True": "true", "False": "false", "None": "null", "NaN": "null", "undefined": "null"}


@dataclass(frozen=True)
class JsonFound:
    """One outermost value in a text."""

    value: Any
    start: int
    end: int


def json_values(text: str) -> list[JsonFound]:
    """Return the objects and lists that stand in a text and are inside no other; what is cut off ends the search."""
    if '"' not in text:
        text = text.translate(str.maketrans("“”„", '"""'))
    found, at = [], 0
    while opening := _OPENS.search(text, at):
        end = _closing(text, opening.start())
        if end is None:
            if _IS_JSON.match(text, opening.start()):
                break
            at = opening.end()
            continue
        try:
            found.append(JsonFound(parsed(text[opening.start() : end]), opening.start(), end))
            at = end
        except (ValueError, RecursionError):
            at = opening.end()
    return found


def parsed(text: str) -> Any:
    """Return the value of a JSON text, strict or loose.

    Raises:
        ValueError: It is neither.
    """
    for written in (text, _strict(text)):
        try:
            return json.loads(written, strict=False, parse_constant=lambda _: None)
        except ValueError:
            continue
    raise ValueError("neither JSON nor what is meant as JSON")


def _strict(text: str) -> str:
    pieces, at = [], 0
    for string in [*_STRING.finditer(text), None]:
        outside = text[at : string.start() if string else len(text)]
        if string and _comment_is_open(outside):
            continue
        pieces.append(_outside(outside))
        if string:
            inner = string.group(0)
            pieces.append(inner if inner[0] == '"' else json.dumps(inner[1:-1].replace("\\'", "'"), ensure_ascii=False))
            at = string.end()
    return re.sub(r",(\s*[}\]])", r"\1", "".join(pieces))


def _comment_is_open(outside: str) -> bool:
    return re.search(r"(?://|#)[^\n]*\Z", outside) is not None


def _outside(text: str) -> str:
    bare = _COMMENT.sub(" ", text)
    bare = re.sub(r"(?<=[{,])(\s*)([A-Za-z_]\w*)(\s*):", r'\1"\2"\3:', bare)
    return re.sub(r"\b(?:True|False|None|NaN|undefined)\b", lambda word: _PYTHON[word.group(0)], bare)


def _closing(text: str, start: int) -> int | None:
    """Where the value that opens at `start` ends; None if it does not."""
    depth, at = 0, start
    while at < len(text):
        if string := _STRING.match(text, at):
            at = string.end()
            continue
        depth += (text[at] in "{[") - (text[at] in "}]")
        at += 1
        if depth == 0:
            return at
    return None


def fits(value: Any, schema: Mapping[str, Any]) -> bool:
    """Say whether a value fits a JSON schema of types, properties, required, items and enum."""
    if "enum" in schema and not any(value == allowed and type(value) is type(allowed) for allowed in schema["enum"]):
        return False
    kinds = schema.get("type")
    if kinds and not any(_is(value, kind) for kind in ([kinds] if isinstance(kinds, str) else kinds)):
        return False
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        if not set(schema.get("required", ())) <= value.keys():
            return False
        if schema.get("additionalProperties") is False and not value.keys() <= properties.keys():
            return False
        return all(fits(value[key], inner) for key, inner in properties.items() if key in value)
    return (
        all(fits(inner, schema["items"]) for inner in value) if isinstance(value, list) and "items" in schema else True
    )


def _is(value: Any, kind: str) -> bool:
    if kind in ("number", "integer"):
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number and (kind == "number" or float(value).is_integer())
    return isinstance(value, {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}[kind])
