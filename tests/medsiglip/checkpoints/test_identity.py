"""What makes cached answers and embeddings stale: any file beside the weights, and nothing else but the weights."""

import hashlib
from pathlib import Path

import pytest

from medsiglip.checkpoints.identity import fingerprint, free_name, identity, is_mended

FILES = (
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "additional_chat_templates/tool_use.jinja",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "additional_chat_templates").mkdir()
    for name in (*FILES, "model.safetensors", "README.md"):
        (tmp_path / name).write_text(f"{name} as it was")
    return tmp_path


@pytest.mark.parametrize("name", FILES)
def test_every_file_that_is_read_beside_the_weights_counts(folder: Path, name: str) -> None:
    before = identity("weights", folder)
    (folder / name).write_text("mended")
    after = identity("weights", folder)
    assert before != after and is_mended(before, after)
    (folder / name).unlink()
    assert identity("weights", folder) not in (before, after)


def test_no_weight_is_read_and_what_no_model_reads_does_not_count(folder: Path) -> None:
    before = identity("weights", folder)
    (folder / "README.md").write_text("other words")
    (folder / "model.safetensors").unlink()
    assert identity("weights", folder) == before


def test_the_fingerprint_is_of_config_and_weights_as_cards_print_it(folder: Path) -> None:
    """A weight that changes without a change of size is seen."""
    parts = b"config.json" + b"config.json as it was" + b"model.safetensors" + b"model.safetensors as it was"
    assert fingerprint(folder) == hashlib.sha256(parts).hexdigest()[:16]
    (folder / "model.safetensors").write_text("model.safetensors as it Was")
    assert fingerprint(folder) != hashlib.sha256(parts).hexdigest()[:16]


def test_only_the_same_weights_used_alike_are_mended() -> None:
    one, two = (f"+{letter * 16}" for letter in "ab")
    assert is_mended(f"w{one}", f"w{two}") and is_mended("w", f"w{one}")
    assert is_mended(f"w{one} patient=rules 1", f"w{two} patient=rules 1")
    assert not is_mended(f"w{one}", f"w{one}") and not is_mended(f"v{one}", f"w{two}")
    assert not is_mended(f"w{one}", f"w-int8{two}") and not is_mended("a+b at http://h", "a+c at http://h")
    assert not is_mended(f"w{one} patient=rules 1", f"w{two} patient=rules 2")


def test_stale_files_get_names_of_their_own(tmp_path: Path) -> None:
    out = tmp_path / "v.parquet"
    assert free_name(out) == tmp_path / "v.before-1.parquet"
    (tmp_path / "v.before-1.parquet").touch()
    assert free_name(out) == tmp_path / "v.before-2.parquet"
