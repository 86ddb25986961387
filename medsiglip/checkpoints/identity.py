"""Which model it is: the fingerprint of its weights, and the identity of all that decides what it gives."""

import hashlib
import re
from itertools import count
from pathlib import Path

OTHER_FILES = ("*.json", "*.model", "*.jinja", "*/*.jinja")
"""What transformers and PEFT read beside the weights: tokenizer, templates, and every config."""
_OTHER_FILES_HASH = re.compile(r"\+[0-9a-f]{16}(?= |$)")


def fingerprint(folder: Path) -> str:
    """First 16 hex digits of the sha256 over the configuration and every weight file, of a model or an adapter."""
    config = folder / "config.json"
    if not config.is_file():
        config = folder / "adapter_config.json"
    return _sha256([config, *sorted(folder.glob("*.safetensors"))])


def identity(weights: str, *folders: Path) -> str:
    """What answers and embeddings depend on, for caches and resumes: `weights`, and after a + all other files.

    Nothing of a weight file is read: its bytes are in the fingerprint, which takes them once.

    Args:
        weights: `fingerprint`, and how the weights are held and used where that was asked for.
        folders: of the model, and of its adapter.
    """
    files = [path for folder in folders for pattern in OTHER_FILES for path in sorted(folder.glob(pattern))]
    return f"{weights}+{_sha256(files)}"


def is_mended(old: str, new: str) -> bool:
    """Whether two identities are of the same weights, used alike, with other files beside them.

    What `old` made is then stale, not another model's.
    """
    return old != new and _OTHER_FILES_HASH.sub("", old) == _OTHER_FILES_HASH.sub("", new)


def free_name(path: Path) -> Path:
    """A name beside a file for what a mended model has made stale in it: `a.before-1.parquet` for `a.parquet`."""
    names = (path.with_name(f"{path.stem}.before-{number}{path.suffix}") for number in count(1))
    return next(name for name in names if not name.exists())


def _sha256(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.name.encode())
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()[:16]
