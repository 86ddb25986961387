"""Gemma's kind and SigLIP's kind: ids, template, round trips, files that older transformers read."""

import json
from pathlib import Path
from typing import Any

import pytest
from jinja2.exceptions import TemplateError

from finetune.tokenizers import GEMMA_CONTROL_TOKENS, GEMMA_NAMED_TOKENS, train_siglip_tokenizer
from tests import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tokenizers")


@pytest.fixture(scope="module")
def gemma(folder: Path) -> Any:
    """As a user loads it."""
    from transformers import AutoTokenizer

    tiny.gemma_tokenizer(folder / "gemma")
    return AutoTokenizer.from_pretrained(folder / "gemma")


@pytest.fixture(scope="module")
def siglip(folder: Path) -> Any:
    from transformers import SiglipTokenizer

    train_siglip_tokenizer(tiny.SENTENCES * 8, 64, folder / "siglip")
    return SiglipTokenizer.from_pretrained(folder / "siglip")


def test_control_tokens(gemma: Any) -> None:
    assert gemma.convert_ids_to_tokens(range(5)) == ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]  # Gemma's ids
    assert (gemma.pad_token_id, gemma.eos_token_id, gemma.bos_token_id, gemma.unk_token_id) == (0, 1, 2, 3)
    for token in GEMMA_CONTROL_TOKENS:
        assert gemma(f"a{token}b", add_special_tokens=False).input_ids.count(gemma.convert_tokens_to_ids(token)) == 1
        assert gemma.added_tokens_decoder[gemma.convert_tokens_to_ids(token)].special
    assert {name: getattr(gemma, name) for name in GEMMA_NAMED_TOKENS} == GEMMA_NAMED_TOKENS
    assert not {"<start_of_turn>", "<end_of_turn>"} & set(gemma.all_special_tokens)  # special, and named nowhere
    assert gemma("a").input_ids[0] == gemma.bos_token_id and len(gemma("").input_ids) == 1  # it writes its own bos


@pytest.mark.parametrize(
    "text",
    [
        "Is there a pneumothorax?",
        "  two  spaces,\ttabs\n\n\nand newlines \n",
        "Schilddrüse, œdème, Ωμέγα, 肺炎, ندبة, 🫁👩‍⚕️",
        "\u0301combining e\u0301, zero\u200bwidth, \ufeff, \x01, \x7f",
        "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 \U0010fffd \ue000",
        "<b>not</b> <a token>",
        "12.5 mg/dL ± 3 %",
        "",
    ],
)
def test_any_text_makes_the_round_trip(gemma: Any, text: str) -> None:
    ids = gemma(text, add_special_tokens=False).input_ids
    assert gemma.decode(ids) == text
    assert gemma.unk_token_id not in ids


def test_every_character_makes_the_round_trip(gemma: Any) -> None:
    """One of every 97 code points, surrogates left out."""
    text = "".join(chr(c) for c in range(1, 0x110000, 97) if not 0xD800 <= c <= 0xDFFF and chr(c) != "\u2581")
    assert gemma.decode(gemma(text, add_special_tokens=False).input_ids) == text


def test_digits_stand_alone_and_words_are_learned(gemma: Any) -> None:
    tokens = gemma.tokenize("seen in 2019.")
    assert [t for t in tokens if t.strip("▁").isdigit()] == ["2", "0", "1", "9"]
    assert len(tokens) < len("seen in 2019.") and len(gemma) == tiny.DECODER.vocabulary


def templated(gemma: Any, messages: list[Any], generate: bool = True) -> str:
    text = gemma.apply_chat_template(messages, tokenize=False, add_generation_prompt=generate)
    assert isinstance(text, str)
    return text


def test_the_template_is_gemmas(gemma: Any) -> None:
    """The form of google/medgemma-4b-it's chat_template.jinja."""
    image, text = {"type": "image"}, {"type": "text", "text": "  Which view?\n"}
    assert templated(gemma, [{"role": "user", "content": " hello "}]) == (
        "<bos><start_of_turn>user\nhello<end_of_turn>\n<start_of_turn>model\n"
    )
    assert templated(gemma, [{"role": "user", "content": [image, text, image]}]) == (
        "<bos><start_of_turn>user\n<start_of_image>Which view?<start_of_image><end_of_turn>\n<start_of_turn>model\n"
    )
    conversation = [
        {"role": "system", "content": [{"type": "text", "text": "You are a radiologist."}]},
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": [{"type": "text", "text": "second "}]},
        {"role": "user", "content": "third"},
    ]
    whole = (
        "<bos><start_of_turn>user\nYou are a radiologist.\n\nfirst<end_of_turn>\n"
        "<start_of_turn>model\nsecond<end_of_turn>\n<start_of_turn>user\nthird<end_of_turn>\n"
    )
    assert templated(gemma, conversation, generate=False) == whole
    assert templated(gemma, conversation) == whole + "<start_of_turn>model\n"
    conversation[0]["content"] = "You are a radiologist."
    assert templated(gemma, conversation, generate=False) == whole


def test_the_template_wants_turns_to_alternate(gemma: Any) -> None:
    user, model = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
    for messages in ([model], [user, user], [user, model, model]):
        with pytest.raises(TemplateError, match="must alternate, starting with the user"):
            templated(gemma, messages)


def test_siglips_ids(siglip: Any) -> None:
    assert (siglip.pad_token_id, siglip.eos_token_id, siglip.unk_token_id) == (1, 1, 2)
    ids = siglip(["clear lungs", "x"], padding="max_length", truncation=True, max_length=64).input_ids
    assert all(len(row) == 64 and row[-1] == 1 for row in ids)
    assert siglip.model_max_length == 64
    assert 2 in siglip("肺").input_ids


def test_siglip_ignores_case_and_punctuation(siglip: Any) -> None:
    plain = siglip("a chest xray of a 54 year old patient with cough").input_ids
    assert siglip("A CHEST X-ray, of a (54) year old patient; with cough!").input_ids == plain
    assert siglip("a chest xray of a 55 year old patient with cough").input_ids != plain
    assert not any(c.isupper() for token in siglip.get_vocab() for c in token if token not in ("</s>", "<unk>"))


def test_training_again_gives_the_same_files(folder: Path, gemma: Any, siglip: Any, tmp_path: Path) -> None:
    tiny.gemma_tokenizer(tmp_path / "gemma")
    train_siglip_tokenizer(tiny.SENTENCES * 8, 64, tmp_path / "siglip")
    for name in ("gemma/tokenizer.json", "gemma/tokenizer_config.json", "siglip/tokenizer_config.json"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
    assert {p.name for p in (folder / "siglip").iterdir()} == {"spiece.model", "tokenizer_config.json"}
    from transformers import SiglipTokenizer

    again = SiglipTokenizer.from_pretrained(tmp_path / "siglip")
    assert again.get_vocab() == siglip.get_vocab()


def test_extra_tokens_are_named_as_older_transformers_want(tmp_path: Path, folder: Path, gemma: Any) -> None:
    """transformers 4.57 fails over the list that 5 writes."""
    decoder = tiny.decoder_folder(tmp_path)
    for place in (folder / "gemma", decoder):
        config = json.loads((place / "tokenizer_config.json").read_text())
        assert config["extra_special_tokens"] == GEMMA_NAMED_TOKENS
        assert config["added_tokens_decoder"]["6"]["content"] == "<end_of_turn>"
        assert config["added_tokens_decoder"]["6"]["special"] and "eot_token" not in config
