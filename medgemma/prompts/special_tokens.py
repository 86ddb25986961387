"""A checkpoint's tokenizer, and which of its tokens are no text: by its own flags, never by their names.

MedGemma's tokenizer_config.json names neither of its turn markers; that they are special is said by the flags of the
added tokens, and which of them ends a turn by the chat template.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from medsiglip.checkpoints.folders import read_json

TEMPLATE_FILES = ("processor_config.json", "chat_template.json")
"""Where a processor's chat template may be and the tokenizer does not look; the first that has one counts."""
_SAID = "zqx"
"""A text that no template writes itself."""


class TurnTokens(NamedTuple):
    """The added tokens that a chat template puts around what is said; None where it writes plain text."""

    begin: int | None
    end: int | None


def read_tokenizer(folder: Path) -> Any:
    """Read a checkpoint's tokenizer with its chat template, wherever transformers finds one.

    Raises:
        ValueError: its files are missing or damaged, or it has several chat templates and none is the default.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # tokenizers raises bare Exceptions
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"model {folder}: its tokenizer does not load ({reason}); fetch its files again") from error
    found = [read_json(folder / name).get("chat_template") for name in TEMPLATE_FILES if (folder / name).is_file()]
    template = next((given for given in [*found, tokenizer.chat_template] if given), None)
    if isinstance(template, Mapping):
        if "default" not in template and len(template) > 1:
            names = ", ".join(sorted(template))
            raise ValueError(f"model {folder}: chat templates {names} and no default; name one of them `default`")
        template = template.get("default") or next(iter(template.values()))
    tokenizer.chat_template = template
    return tokenizer


def turn_tokens(tokenizer: Any) -> TurnTokens:
    """Have the chat template write a conversation, and look what stands before and after a reply."""
    if not tokenizer.chat_template:
        return TurnTokens(None, None)
    user = {"role": "user", "content": _SAID}
    try:
        asked, opened, answered = (
            tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=opens)
            for messages, opens in (
                ([user], False),
                ([user], True),
                ([user, {"role": "assistant", "content": _SAID}], False),
            )
        )
    except Exception:  # jinja2 has many; `render` reports what is wrong with a template
        return TurnTokens(None, None)
    texts = opened.removeprefix(asked), answered.rpartition(_SAID)[2]
    return TurnTokens(*(_first_added(tokenizer, text) for text in texts))


def special_ids(tokenizer: Any) -> frozenset[int]:
    """The tokens that are never part of a text: flagged special, named, or around a turn."""
    flagged = (number for number, token in tokenizer.added_tokens_decoder.items() if token.special)
    return frozenset(i for i in (*flagged, *tokenizer.all_special_ids, *turn_tokens(tokenizer)) if i is not None)


def stop_ids(tokenizer: Any, *settings: Any) -> frozenset[int]:
    """The tokens that end an answer: what any of several configs says, the tokenizer's own, and the turn's end.

    Args:
        tokenizer: see `read_tokenizer`.
        settings: generation config and config, or what their files hold; `eos_token_id` is read.
    """
    said: list[int | None] = [tokenizer.eos_token_id, turn_tokens(tokenizer).end]
    for config in settings:
        ids = config.get("eos_token_id") if isinstance(config, Mapping) else getattr(config, "eos_token_id", None)
        said += ids if isinstance(ids, Sequence) else [ids]
    return frozenset(i for i in said if i is not None)


def control_texts(tokenizer: Any, ids: Iterable[int]) -> tuple[str, ...]:
    """How the special tokens, and such of other tokens as are written like them, read in a text.

    Args:
        tokenizer: see `read_tokenizer`.
        ids: further tokens, such as those that end an answer; blanks and words among them stay allowed.
    """
    added = tokenizer.added_tokens_decoder
    known = special_ids(tokenizer)
    texts = [added[i].content if i in added else tokenizer.convert_ids_to_tokens(i) for i in sorted({*known, *ids})
             if i in known or i in added]  # fmt: skip
    return tuple(text for text in texts if text and not text.isspace())


def with_one_bos(tokenizer: Any, ids: Sequence[int]) -> tuple[int, ...]:
    """The ids behind exactly one bos, whether template or tokenizer wrote none, one or two."""
    bos = tokenizer.bos_token_id
    start = next((place for place, token in enumerate(ids) if token != bos), len(ids))
    return (*([] if bos is None else [bos]), *ids[start:])


def _first_added(tokenizer: Any, text: str) -> int | None:
    ids = tokenizer(text, add_special_tokens=False).input_ids
    added = tokenizer.added_tokens_decoder
    return ids[0] if ids and ids[0] in added and not added[ids[0]].content.isspace() else None
