"""Class vectors: the mean of each label's text vectors, kept on disk by what they were made from.

Letters: C labels, D embedding width.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile

import numpy as np

EncodeTexts = Callable[[Sequence[str]], np.ndarray]


def mean_prompt_vectors(encode_texts: EncodeTexts, prompts: Mapping[str, Sequence[str]]) -> np.ndarray:
    """(C, D) float32: mean of each label's normalised prompt vectors, normalised again."""
    prompts = {label: [group] if isinstance(group, str) else group for label, group in prompts.items()}
    texts = [text for group in prompts.values() for text in group]
    vectors = encode_texts(texts)
    owners = np.repeat(np.arange(len(prompts)), [len(group) for group in prompts.values()])
    means = np.stack([vectors[owners == index].mean(axis=0) for index in range(len(prompts))])
    return np.asarray(means / np.linalg.norm(means, axis=1, keepdims=True), dtype=np.float32)


def kept_prompt_vectors(
    encode_texts: EncodeTexts, prompts: Mapping[str, Sequence[str]], made_by: str, folder: Path
) -> np.ndarray:
    """`mean_prompt_vectors`, read from `folder` where the same encoder has made them of the same prompts before.

    A file that is damaged, or of another shape, is made anew. Where the folder cannot be written nothing is kept.

    Args:
        encode_texts: called only when nothing is kept.
        prompts: label to prompts; their order counts.
        made_by: the encoder's identity and dtype.
        folder: of the cache; it is made.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    asked = json.dumps([made_by, [list(prompts[label]) for label in prompts]], ensure_ascii=False)
    path = folder / f"{hashlib.sha256(asked.encode()).hexdigest()}.safetensors"
    try:
        vectors = np.asarray(load_file(path)["vectors"])
        if vectors.shape[0] == len(prompts) and np.isfinite(vectors).all():
            return vectors
    except (OSError, KeyError, SafetensorError):
        pass
    vectors = mean_prompt_vectors(encode_texts, prompts)
    _keep(vectors, path)
    return vectors


def default_folder() -> Path:
    """Where class vectors are kept: below XDG_CACHE_HOME, or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "open-medgemma" / "class-vectors"


def _keep(vectors: np.ndarray, path: Path) -> None:
    from safetensors.numpy import save

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=path.parent, prefix=".class-vectors-", delete=False) as file:
            file.write(save({"vectors": vectors}))
        Path(file.name).replace(path)
    except OSError:
        return
