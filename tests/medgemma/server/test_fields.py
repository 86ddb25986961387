"""The table of fields in docs/serving.md is true: a row for every field, and each does what its row says."""

import re
from pathlib import Path
from typing import Any

import pytest

from medgemma.openai_chat import BodyFault, ChatBody

CONTAINER = set(
    [
        "messages",
        "model",
        "max_tokens",
        "max_completion_tokens",
        "n",
        "best_of",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "frequency_penalty",
        "presence_penalty",
        "repetition_penalty",
        "seed",
        "stop",
        "include_stop_str_in_output",
        "ignore_eos",
        "min_tokens",
        "skip_special_tokens",
        "spaces_between_special_tokens",
        "truncate_prompt_tokens",
        "add_generation_prompt",
    ]
)
"""Fields of the request schema of Google's container."""
BODY: dict[str, Any] = {"messages": [{"role": "user", "content": "x"}]}


def rows(repository: Path) -> dict[str, tuple[str, str]]:
    text = (repository / "docs" / "serving.md").read_text(encoding="utf-8")
    part = text.split("## Fields of a chat request")[1].split("##")[0]
    return {name: (of, here) for name, of, here in re.findall(r"^\| `(\w+)` \| ([^|]*) \| ([^|]*) \|$", part, re.M)}


def test_every_field_has_its_row(repository: Path) -> None:
    table = rows(repository)
    kinds = {name: re.split("[;:( ,]", here)[0] for name, (_, here) in table.items()}
    read = {name for name, kind in kinds.items() if kind in ("honoured", "taken")}
    assert read == set(ChatBody.model_fields)
    assert {name for name, kind in kinds.items() if kind == "neutral"} == set(ChatBody.neutral)
    assert {name for name, (of, _) in table.items() if "container" in of} >= CONTAINER


def test_what_asks_for_nothing_is_taken_and_all_else_refused(repository: Path) -> None:
    for name, (_, here) in rows(repository).items():
        if here.startswith("neutral"):
            ChatBody.read({**BODY, name: ChatBody.neutral[name][0]})
        if here.startswith(("neutral", "refused")):
            with pytest.raises(BodyFault, match=f"{name}: is not supported") as refused:
                ChatBody.read({**BODY, name: {"a": 1}})
            assert refused.value.field == name
        ChatBody.read({**BODY, name: BODY["messages"] if name == "messages" else "" if name == "model" else None})
