"""A patient and a measurement reader without a model: they look up what the case says.

They make a run repeatable and free of a second model's mood, at a price: words are compared, not meanings, so a
question in other words than the case's gets no answer. Figures with them compare only with figures with them.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from evals.clinic.dialogue import Message
from evals.metrics.fields import parse_document

VERSION = "rules-1"
"""One more whenever what they answer changes."""

NOT_KNOWN = "I am not sure about that."
NORMAL = "RESULTS: NORMAL READINGS"
MOST_SENTENCES = 3
MOST_RESULTS = 12

_PLAIN = frozenset(
    re.findall(
        r"\w+",
        """a an and any are as at been by can could did do does for from had has have having how i in is it many me more
        much my not of on or please request results some tell test tests that the there these they this to was were
        what when where which who why will with would you your""",
    )
)


def patient(messages: Sequence[Message]) -> str:
    """Answer the last question with up to three recorded sentences that share a word with it and were not said yet.

    The first answer falls back to the primary symptom, any other to NOT_KNOWN. The system message holds what the
    patient knows as a JSON object.
    """
    facts = list(_facts(_known(messages)))
    said = " ".join(m["content"] for m in messages if m["role"] == "assistant")
    asked = _words(messages[-1]["content"])
    ranked = [(len(asked & (_words(path) | _words(sentence))), sentence) for path, sentence in facts]
    fitting = [pair for pair in ranked if pair[0] and pair[1] not in said]
    best = sorted(fitting, key=lambda pair: -pair[0])[:MOST_SENTENCES]
    if best:
        return " ".join(sentence for _, sentence in best)
    first = [sentence for path, sentence in facts if "Primary" in path or "History" in path]
    return first[0] if first and not said else NOT_KNOWN


def measurement(messages: Sequence[Message]) -> str:
    """Return the findings whose name shares most words with the order, or NORMAL if none shares any.

    The system message holds the examination and the tests as a JSON object.
    """
    order = _words(re.split(r"request\s+test\s*:?", messages[-1]["content"], flags=re.IGNORECASE)[-1])
    ranked = [(len(order & _words(path)), path, value) for path, value in _facts(_known(messages), whole=True)]
    most = max((shared for shared, _, _ in ranked), default=0)
    if not most:
        return NORMAL
    found = [f"{path.removeprefix('tests ')}: {value}" for shared, path, value in ranked if shared == most]
    return "RESULTS: " + "; ".join(found[:MOST_RESULTS])


def _known(messages: Sequence[Message]) -> Mapping[str, Any]:
    system = messages[0]["content"]
    document = parse_document(system[system.find("{") : system.rfind("}") + 1])
    if not isinstance(document, dict):
        raise ValueError("the system message holds no JSON object of facts; the rules answer from nothing else")
    return document


def _facts(value: Any, path: str = "", whole: bool = False) -> Iterator[tuple[str, str]]:
    """Yield (path of keys, text) of every leaf, a sentence at a time unless whole."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _facts(part, f"{path} {key}".strip().replace("_", " "), whole)
    elif isinstance(value, list) and not whole:
        for part in value:
            yield from _facts(part, path, whole)
    else:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        sentences = [text] if whole else re.split(r"(?<=[.!?])\s+", text)
        yield from ((path, sentence) for sentence in sentences if sentence.strip())


def _words(text: str) -> set[str]:
    """Return the content words, cut to five letters so that most endings fall away."""
    words = re.findall(r"[a-z0-9]+", text.lower())
    return {
        word[:5] for word in words if word not in _PLAIN and (len(word) > 2 or word.isdigit() or word in ("ct", "mr"))
    }
