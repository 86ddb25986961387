"""The two tokenizers of a small pair, trained on a text corpus: SigLIP's kind and Gemma's kind."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

GEMMA_CONTROL_TOKENS = (
    "<pad>",
    "<eos>",
    "<bos>",
    "<unk>",
    "<mask>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<start_of_image>",
    "<end_of_image>",
    "<image_soft_token>",
)
"""Gemma 3's names; the first five keep Gemma's ids."""

GEMMA_NAMED_TOKENS = {
    "boi_token": "<start_of_image>",
    "eoi_token": "<end_of_image>",
    "image_token": "<image_soft_token>",
}
"""The tokens that Gemma's tokenizer has as attributes; those around a turn are special and have no name."""

CHAT_TEMPLATE = """\
{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- set content = messages[0]['content'] -%}
    {%- set opening = (content if content is string else content[0]['text']) + '\\n\\n' -%}
    {%- set turns = messages[1:] -%}
{%- else -%}
    {%- set opening = '' -%}
    {%- set turns = messages -%}
{%- endif -%}
{%- for turn in turns -%}
    {%- if (turn['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception('user and assistant turns must alternate, starting with the user') }}
    {%- endif -%}
    {{ '<start_of_turn>' + ('model' if turn['role'] == 'assistant' else turn['role']) + '\\n' }}
    {{- opening if loop.first -}}
    {%- if turn['content'] is string -%}
        {{ turn['content'] | trim }}
    {%- else -%}
        {%- for part in turn['content'] -%}
            {{ '<start_of_image>' if part['type'] == 'image' else part['text'] | trim }}
        {%- endfor -%}
    {%- endif -%}
    {{ '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{ '<start_of_turn>model\\n' }}
{%- endif -%}
"""
"""Gemma 3's turns: bos, the system text at the head of the first user turn, roles user and model, trimmed parts."""


def train_siglip_tokenizer(texts: Iterable[str], vocab_size: int, folder: Path) -> Any:
    """Train a SentencePiece unigram model over SigLIP's canonical text and save it as a SiglipTokenizer.

    Ids as in SigLIP: `</s>` is 1 and pads, `<unk>` is 2; lower case, no punctuation, 64 tokens.
    """
    import io

    import sentencepiece
    from transformers import SiglipTokenizer

    trained = io.BytesIO()  # not model_prefix: the file would then hold this machine's path
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=_canonical(texts),
        model_writer=trained,
        vocab_size=vocab_size,
        model_type="unigram",
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "spiece.model").write_bytes(trained.getvalue())
    # SigLIP was trained without an attention mask: a tokenizer that hands one out makes pipelines pass it on
    tokenizer = SiglipTokenizer(str(folder / "spiece.model"), model_max_length=64, model_input_names=["input_ids"])
    tokenizer.save_pretrained(folder)
    name_special_tokens(folder)
    return tokenizer


def train_gemma_tokenizer(texts: Iterable[str], vocab_size: int, folder: Path) -> Any:
    """Train a BPE model with byte fallback and save it as a GemmaTokenizer with Gemma's control tokens and template."""
    from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import GemmaTokenizer

    fixed = [*GEMMA_CONTROL_TOKENS, *(f"<0x{byte:02X}>" for byte in range(256)), "\n"]
    learner = Tokenizer(models.BPE())
    learner.normalizer = normalizers.Replace(" ", "▁")
    words = pre_tokenizers.Split("▁", behavior="merged_with_next")
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("\n", "isolated"), words, pre_tokenizers.Digits(individual_digits=True)]
    )
    size = vocab_size - len(fixed) + 1  # the newline is learned too
    learner.train_from_iterator(
        texts,
        trainers.BpeTrainer(vocab_size=size, limit_alphabet=160, show_progress=False, special_tokens=[]),
    )
    vocab, merges = _vocab_and_merges(learner, fixed)
    tokenizer = GemmaTokenizer(
        vocab=vocab,
        merges=merges,
        extra_special_tokens=GEMMA_NAMED_TOKENS,
        model_max_length=2048,
        add_bos_token=True,
    )
    turns = (AddedToken(token, normalized=False, special=True) for token in ("<start_of_turn>", "<end_of_turn>"))
    tokenizer.add_tokens(list(turns), special_tokens=True)
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    name_special_tokens(folder)
    return tokenizer


def name_special_tokens(folder: Path) -> None:
    """Write a saved tokenizer_config.json as the Hub's are, which every transformers version reads.

    transformers 5 writes `extra_special_tokens` as a list, over which 4.57 fails, and leaves the flags of added tokens
    to tokenizer.json.
    """
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["extra_special_tokens"] = {k: v for k, v in GEMMA_NAMED_TOKENS.items() if config.get(k) == v}
    if (folder / "tokenizer.json").is_file():
        added = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["added_tokens"]
        config["added_tokens_decoder"] = {
            str(token["id"]): {flag: token[flag] for flag in sorted(token) if flag != "id"} for token in added
        }
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _canonical(texts: Iterable[str]) -> Iterator[str]:
    import string

    for text in texts:
        for line in text.lower().translate(str.maketrans("", "", string.punctuation)).splitlines():
            if line.strip():
                yield " ".join(line.split())[:2000]


def _vocab_and_merges(learner: Any, fixed: list[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    learned = json.loads(learner.to_str())["model"]
    pieces = [piece for piece, _ in sorted(learned["vocab"].items(), key=lambda pair: pair[1]) if piece not in fixed]
    return {piece: i for i, piece in enumerate([*fixed, *pieces])}, [tuple(m) for m in learned["merges"]]
