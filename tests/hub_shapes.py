"""Nano in the clothes of the released checkpoints, and any folder as the installed transformers saves it.

Nano's own files hide what the Hub's have: 262,208 rows and 6,415 added tokens of which seven are special, turn markers
that no config names, a tokenizer that writes its own bos, sharded weights, and processor files of transformers 4.
Names, ids and flags are those of google/medgemma-4b-it 1.0.1; where bytes and words lie is made up.
"""

import gzip
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from medgemma.nano import NANO_FOLDER as DECODER
from medsiglip.nano import NANO_FOLDER as ENCODER

ROWS, PIECES = 262_208, 262_144
NEWLINES, SPACES, TABS = range(107, 138), range(138, 168), range(255_968, 255_999)
IMAGE = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
ENDS = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
SPECIAL = {*ENDS.values(), "<start_of_turn>", "<end_of_turn>", "<image_soft_token>"}
TAGS = (
    "table caption thead tbody tfoot tr th td",
    "h1 h2 h3 h4 h5 h6 blockquote",
    "strong em b i u s sub sup code",
    "a html body img span bbox ul li div iframe footer",
)
"""HTML tags in the order of their ids from 168 on: those of a line, then those that close them."""
FIRST_BYTE, FIRST_WORD = 238, 494
EMBEDDINGS = "language_model.model.embed_tokens.weight"
DECODER_CONFIG_5 = ("bos_token_id", "eos_token_id", "pad_token_id", "rope_parameters", "tie_word_embeddings",
                    "use_bidirectional_attention", "_sliding_window_pattern")  # fmt: skip
"""Settings that transformers 5 adds to a text_config."""


def added_tokens() -> dict[int, str]:
    """Id to text of MedGemma's added tokens."""
    named = {
        0: "<pad>", 1: "<eos>", 2: "<bos>", 3: "<unk>", 4: "<mask>", 5: "[multimodal]",
        105: "<start_of_turn>", 106: "<end_of_turn>",
        255_999: "<start_of_image>", 256_000: "<end_of_image>", 262_144: "<image_soft_token>",
    }  # fmt: skip
    tags = [mark.format(tag) for line in TAGS for mark in ("<{}>", "</{}>") for tag in line.split()]
    named |= {168 + place: tag for place, tag in enumerate(tags)}
    for ids, mark, least in ((NEWLINES, "\n", 1), (SPACES, "▁", 2), (TABS, "\t", 1)):
        named |= {number: mark * (place + least) for place, number in enumerate(ids)}
    unused = [*range(6, 105), *range(256_001, PIECES)]
    return named | {number: f"<unused{place}>" for place, number in enumerate(unused)}


def medgemma_folder(out: Path) -> Path:
    """Nano's weights, words and pixels under the ids and files of google/medgemma-4b-it."""
    out.mkdir(parents=True)
    place_of = _write_tokenizer(out)
    _write_decoder_settings(out)
    tensors = load_file(DECODER / "model.safetensors")
    old = tensors[EMBEDDINGS]
    rows = old[0].repeat(ROWS, 1)  # what nano has no word for is its <pad>, which it never says
    rows[list(place_of.values())] = old[list(place_of)]
    newline = next(number for number, place in place_of.items() if place == NEWLINES[0])
    rows[list(NEWLINES)] = old[newline]
    _write_shards(out, tensors | {EMBEDDINGS: rows})
    return out


def medsiglip_folder(out: Path, tokenizer: Path) -> Path:
    """Nano's towers with the real tokenizer of google/medsiglip-448, 32,000 pieces; random rows for its words.

    Args:
        out: new folder.
        tokenizer: the kit's folder medsiglip-tokenizer.
    """
    out.mkdir(parents=True)
    for name in ("spiece.model", "tokenizer_config.json", "special_tokens_map.json"):
        (out / name).write_bytes((tokenizer / name).read_bytes())
    (out / "tokenizer.json").write_bytes(gzip.decompress((tokenizer / "tokenizer.json.gz").read_bytes()))
    config = _read(ENCODER / "config.json")
    config["text_config"]["vocab_size"] = 32_000
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        config["text_config"].pop(name, None)  # the class fills in CLIP's
    del config["dtype"]
    _write(out / "config.json", config | {"torch_dtype": "float32", "transformers_version": "4.52.0"})
    pixels = _read(ENCODER / "preprocessor_config.json")
    _write(out / "preprocessor_config.json", pixels | {"do_convert_rgb": None, "processor_class": "SiglipProcessor"})
    tensors = load_file(ENCODER / "model.safetensors")
    words = "text_model.embeddings.token_embedding.weight"
    random = torch.randn(32_000, tensors[words].shape[1], generator=torch.Generator().manual_seed(0))
    tensors[words] = (random * tensors[words].float().std()).to(tensors[words].dtype)
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    return out


def saved_by_transformers(source: Path, out: Path) -> Path:
    """A folder as the installed transformers saves it: other key names, no preprocessor_config.json."""
    import transformers

    kind = _read(source / "config.json")["model_type"]
    network = {"gemma3": transformers.Gemma3ForConditionalGeneration, "siglip": transformers.SiglipModel}[kind]
    network.from_pretrained(source, dtype="auto").save_pretrained(out)
    transformers.AutoProcessor.from_pretrained(source).save_pretrained(out)
    return out


def linked(source: Path, out: Path) -> Path:
    """A copy whose JSON and template files may be edited; its weights are links."""
    out.mkdir(parents=True)
    for path in source.iterdir():
        if path.suffix == ".safetensors":
            (out / path.name).hardlink_to(path)
        elif path.is_file() and path.suffix in (".json", ".jinja", ".model"):
            shutil.copyfile(path, out / path.name)
    return out


def _write_tokenizer(out: Path) -> dict[int, int]:
    """The tokenizer's files; nano's ids to the new ones."""
    raw = _read(DECODER / "tokenizer.json")
    added = added_tokens()
    id_of = {text: number for number, text in added.items()}
    vacant = iter(number for number in range(FIRST_WORD, PIECES) if number not in added)
    place_of: dict[int, int] = {}
    pieces: dict[int, str] = dict(added)
    for text, number in sorted(raw["model"]["vocab"].items(), key=lambda pair: pair[1]):
        if len(text) == 6 and text.startswith("<0x"):
            place = FIRST_BYTE + int(text[3:5], 16)
        else:
            place = id_of.get(text) or (0 if text == "<pad>" else next(vacant))
        place_of[number], pieces[place] = place, text
    raw["model"]["vocab"] = {pieces.get(number, f"\ue000{number}"): number for number in range(PIECES)}
    plain = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    flags = {number: {"content": text, **plain, "special": text in SPECIAL} for number, text in sorted(added.items())}
    raw["added_tokens"] = [{"id": number, **token} for number, token in flags.items()]
    raw["post_processor"] = bos_first(2)
    (out / "tokenizer.json").write_text(json.dumps(raw, ensure_ascii=False), encoding="utf-8")
    settings = {
        "add_bos_token": True,
        "add_eos_token": False,
        "added_tokens_decoder": {str(number): token for number, token in flags.items()},
        **ENDS,
        **IMAGE,
        "clean_up_tokenization_spaces": False,
        "extra_special_tokens": IMAGE,
        "model_max_length": 10**30,
        "processor_class": "Gemma3Processor",
        "tokenizer_class": "GemmaTokenizer",
    }
    _write(out / "tokenizer_config.json", settings)
    _write(out / "special_tokens_map.json", IMAGE | {name: {"content": text, **plain} for name, text in ENDS.items()})
    _write(out / "added_tokens.json", {"<image_soft_token>": 262_144})
    return place_of


def bos_first(number: int) -> dict[str, Any]:
    """A post-processor that writes the bos before every text, as Gemma's does."""

    def sequence(name: str, kind: int) -> list[dict[str, Any]]:
        return [{"SpecialToken": {"id": "<bos>", "type_id": kind}}, {"Sequence": {"id": name, "type_id": kind}}]

    return {
        "type": "TemplateProcessing",
        "single": sequence("A", 0),
        "pair": [*sequence("A", 0), *sequence("B", 1)],
        "special_tokens": {"<bos>": {"id": "<bos>", "ids": [number], "tokens": ["<bos>"]}},
    }


def _write_decoder_settings(out: Path) -> None:
    config = _read(DECODER / "config.json")
    written = {"torch_dtype": "bfloat16"}
    text = {name: value for name, value in config["text_config"].items() if name not in DECODER_CONFIG_5}
    _write(
        out / "config.json",
        {
            "architectures": config["architectures"],
            "boi_token_index": 255_999,
            "eoi_token_index": 256_000,
            "eos_token_id": [1, 106],
            "image_token_index": 262_144,
            "initializer_range": 0.02,
            "mm_tokens_per_image": config["mm_tokens_per_image"],
            "model_type": "gemma3",
            "text_config": text | {"vocab_size": ROWS} | written,
            "transformers_version": "4.54.0.dev0",
            "vision_config": config["vision_config"] | written,
            **written,
        },
    )
    ends = {"bos_token_id": 2, "eos_token_id": [1, 106], "pad_token_id": 0, "transformers_version": "4.54.0.dev0"}
    _write(out / "generation_config.json", {"_from_model_config": True, **ends})
    processor = {"image_seq_length": config["mm_tokens_per_image"], "processor_class": "Gemma3Processor"}
    _write(out / "processor_config.json", processor)
    crops = ("pan_and_scan_max_num_crops", "pan_and_scan_min_crop_size", "pan_and_scan_min_ratio_to_activate")
    unset = dict.fromkeys(("do_convert_rgb", "do_pan_and_scan", *crops))
    pixels = _read(DECODER / "preprocessor_config.json")
    _write(out / "preprocessor_config.json", pixels | unset | processor)
    shutil.copyfile(DECODER / "chat_template.jinja", out / "chat_template.jinja")


def _write_shards(out: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    names = [f"model-{number:05}-of-00002.safetensors" for number in (1, 2)]
    weight_map = {key: names[not key.startswith("language_model")] for key in sorted(tensors)}
    for name in names:
        part = {key: tensors[key] for key, file in weight_map.items() if file == name}
        save_file(part, out / name, metadata={"format": "pt"})
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    _write(out / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map})


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _write(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
