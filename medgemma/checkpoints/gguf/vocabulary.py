"""Gemma's tokenizer in GGUF's words: pieces with scores and types, which llama.cpp merges as SentencePiece does.

transformers keeps the order of merges, SentencePiece a score of what comes out of them: the lower the rank, the higher
the score. Only the order of scores counts.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from gguf import GGUFWriter

SPACE = "▁"
BYTE = re.compile(r"<0x[0-9A-F]{2}>")
SCORE_OF_NONE = -1e6
"""Of pieces that no merge makes."""


class Vocabulary(NamedTuple):
    """One entry a row of the embeddings."""

    tokens: list[bytes]
    scores: list[float]
    types: list[int]
    """Numbers of `gguf.TokenType`."""


def add_tokenizer(writer: "GGUFWriter", folder: Path, rows: int, end_ids: list[int]) -> None:
    """Write a folder's tokenizer and chat template into a file's keys.

    Args:
        writer: of the file.
        folder: with the tokenizer's files.
        rows: of the embeddings: rows without a token get an unused one.
        end_ids: the tokens that end an answer.

    Raises:
        ValueError: a tokenizer of another kind than Gemma's, or with tokens past the embeddings.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    vocabulary = vocabulary_of(json.loads(tokenizer.backend_tokenizer.to_str()), rows, folder)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_scores(vocabulary.scores)
    writer.add_token_types(vocabulary.types)
    for name in ("bos", "eos", "unk", "pad"):
        number = getattr(tokenizer, f"{name}_token_id")
        if number is not None:
            getattr(writer, f"add_{name}_token_id")(number)
    for number in [number for number in end_ids if number != tokenizer.eos_token_id][:1]:
        writer.add_eot_token_id(number)
    writer.add_add_bos_token(tokenizer("").input_ids == [tokenizer.bos_token_id])
    writer.add_add_space_prefix(False)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)


def vocabulary_of(tokenizer: Mapping[str, Any], rows: int, where: Path) -> Vocabulary:
    """The pieces of a tokenizer.json.

    Args:
        tokenizer: its content.
        rows: of the embeddings.
        where: the folder, for messages.

    Raises:
        ValueError: as in `add_tokenizer`.
    """
    from gguf import TokenType

    model = tokenizer["model"]
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    if model.get("type") != "BPE" or not model.get("byte_fallback") or tokenizer.get("normalizer") != spaces:
        raise ValueError(
            f"model {where}: its tokenizer is of another kind than Gemma's; llama.cpp would read it otherwise"
        )
    added = {token["id"]: token for token in tokenizer["added_tokens"]}
    pieces = {number: piece for piece, number in model["vocab"].items()}
    pieces |= {number: token["content"] for number, token in added.items()}
    if max(pieces) >= rows:
        raise ValueError(
            f"model {where}: token {max(pieces)} of {rows} rows of embeddings; fetch tokenizer and model again"
        )
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(model["merges"]):
        ranks.setdefault("".join(merge.split(" ") if isinstance(merge, str) else merge), rank)
    found = Vocabulary([], [], [])
    for number in range(rows):
        piece = pieces.get(number, f"[PAD{number}]")
        kind = TokenType.NORMAL
        if number not in pieces:
            kind = TokenType.UNUSED
        elif piece == model["unk_token"]:
            kind = TokenType.UNKNOWN
        elif number in added:
            kind = TokenType.CONTROL if added[number]["special"] else TokenType.USER_DEFINED
        elif BYTE.fullmatch(piece):
            kind = TokenType.BYTE
        # Tokens of the user's are sought in the text before its spaces are replaced.
        text = piece.replace(SPACE, " ") if kind == TokenType.USER_DEFINED else piece
        found.tokens.append(text.encode())
        found.scores.append(-float(ranks[piece]) if piece in ranks else SCORE_OF_NONE)
        found.types.append(int(kind))
    return found
