"""MedSigLIP: pictures and texts to unit vectors in one space. The network is transformers' SiglipModel.

Letters: N pictures or texts, D embedding width, S picture side in pixels.
"""

import ctypes
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from medsiglip.checkpoints.folders import read_json, resolve_model
from medsiglip.checkpoints.identity import fingerprint, identity
from medsiglip.checkpoints.weights import load_strictly
from medsiglip.imaging import Picture, open_pictures
from medsiglip.preprocess import Preprocessing

if TYPE_CHECKING:
    import torch

Item = TypeVar("Item")
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
TEXT_LENGTH = 64
"""SigLIP was trained on texts padded to 64 tokens without a mask; any other padding moves the scores."""


@dataclass
class MedSigLIP:
    """A MedSigLIP-shaped encoder with its tokenizer and its pixels.

    Make one with `MedSigLIP.from_pretrained("nano")`, a folder, or a Hub id such as "google/medsiglip-448".
    """

    model: Any
    tokenizer: Any
    preprocessing: Preprocessing
    folder: Path
    name: str
    policy: str | None = None
    """The resize policy that was asked for instead of the checkpoint's own."""

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike[str] = "nano",
        *,
        device: str = "auto",
        dtype: str | None = None,
        policy: str | None = None,
    ) -> "MedSigLIP":
        """Load an encoder.

        Args:
            model: "nano", a local folder, or a Hub id.
            device: "auto" (cuda, then mps, then cpu), or a torch device name.
            dtype: "float32" or "bfloat16"; None is float32 on a CPU and bfloat16 elsewhere.
            policy: a resize policy instead of the checkpoint's own.

        Raises:
            ValueError: the model cannot be found, or its weights are incomplete.
        """
        from transformers import SiglipModel

        folder = resolve_model(model)
        require_model_type(folder, "siglip")
        place = pick_device(device)
        if place == "cpu":
            keep_freed_memory()
        network = load_strictly(SiglipModel, folder, dtype=pick_dtype(dtype, place)).to(place)
        preprocessing = Preprocessing.from_folder(folder, policy)
        return cls(network, _load_tokenizer(folder), preprocessing, folder, str(model), policy)

    @cached_property
    def fingerprint(self) -> str:
        """Of the weights, for results."""
        return fingerprint(self.folder)

    @cached_property
    def identity(self) -> str:
        """What embeddings depend on, for caches and resumes; see `medsiglip.checkpoints.identity`."""
        weights = "-".join(part for part in (self.fingerprint, self.policy) if part)
        return identity(weights, self.folder)

    @property
    def logit_scale(self) -> float:
        """Exp of the learned log temperature; logits = logit_scale · cosine + logit_bias."""
        return float(self.model.logit_scale.detach().float().exp())

    @property
    def logit_bias(self) -> float:
        """Learned bias of the sigmoid logits."""
        return float(self.model.logit_bias.detach().float())

    @property
    def embedding_width(self) -> int:
        """D."""
        return int(self.model.config.vision_config.hidden_size)

    def encode_images(self, images: Any, batch_size: int = 32) -> np.ndarray:
        """Embed pictures, in order.

        Args:
            images: one or many of `Picture` and `Volume` (from `open_images`; every slice is one picture), path
                (every frame of a file is one picture), PIL image or (H, W[, 3]) uint8 array.
            batch_size: pictures a forward pass.

        Returns:
            (N, D) float32, L2-normalised.

        Raises:
            ImageError: a file cannot be read.
        """
        pictures = open_pictures(images, square=self.preprocessing.square)
        batches = [vectors for _, vectors in self.stream_images(pictures, batch_size)]
        return np.concatenate(batches) if batches else np.zeros((0, self.embedding_width), np.float32)

    def stream_images(
        self, pictures: Iterable[Picture], batch_size: int = 32
    ) -> Iterator[tuple[list[Picture], np.ndarray]]:
        """Embed a stream of pictures batch by batch: (pictures, (n, D) float32 unit vectors).

        On an accelerator, decoding and resizing run one batch ahead of the network.
        """
        prepared = self._prepared(pictures, batch_size)
        # On a CPU the network has every core already; threads beside it cost more than they bring (benchmarks/).
        for batch, resized in prepared if self.model.device.type == "cpu" else one_ahead(prepared):
            yield batch, self._embed(resized)

    def _prepared(
        self, pictures: Iterable[Picture], batch_size: int
    ) -> Iterator[tuple[list[Picture], list[np.ndarray]]]:
        source = iter(pictures)
        while batch := list(islice(source, batch_size)):
            yield batch, [self.preprocessing.resized(picture) for picture in batch]

    def encode_texts(self, texts: str | Sequence[str], batch_size: int = 256) -> np.ndarray:
        """Embed one text or many: (N, D) float32, L2-normalised. Texts past 64 tokens are cut, as in training."""
        import torch

        texts = [texts] if isinstance(texts, str) else texts
        vectors = []
        for start in range(0, len(texts), batch_size):
            ids = tokenize(self.tokenizer, texts[start : start + batch_size]).to(self.model.device)
            with torch.inference_mode():
                vectors.append(unit(self.model.get_text_features(input_ids=ids).pooler_output))
        return np.concatenate(vectors) if vectors else np.zeros((0, self.embedding_width), np.float32)

    def _embed(self, resized: Sequence[np.ndarray]) -> np.ndarray:
        import torch

        values = self.preprocessing.pixel_values(resized).to(self.model.device, self.model.dtype)
        with torch.inference_mode():
            return unit(self.model.get_image_features(pixel_values=values).pooler_output)


def one_ahead(items: Iterator[Item]) -> Iterator[Item]:
    """The same items, the next one being made in a thread while the present one is used."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        upcoming = thread.submit(next, items, None)
        while (item := upcoming.result()) is not None:
            upcoming = thread.submit(next, items, None)
            yield item


def tokenize(tokenizer: Any, texts: Sequence[str]) -> "torch.Tensor":
    """(N, 64) int64 ids, padded and cut to 64; no attention mask, as SigLIP was trained."""
    ids: torch.Tensor = tokenizer(
        list(texts), padding="max_length", truncation=True, max_length=TEXT_LENGTH, return_tensors="pt"
    ).input_ids
    return ids


def unit(vectors: "torch.Tensor") -> np.ndarray:
    """(N, D) float32 array of unit vectors."""
    vectors = vectors.float()
    return np.asarray((vectors / vectors.norm(dim=-1, keepdim=True)).cpu().numpy())


def _load_tokenizer(folder: Path) -> Any:
    from transformers import SiglipTokenizer

    if not (folder / "spiece.model").is_file():
        raise ValueError(f"model {folder}: no spiece.model there; fetch the tokenizer's files too")
    return SiglipTokenizer.from_pretrained(folder, local_files_only=True)


def keep_freed_memory() -> None:
    """Have glibc keep up to 256 MiB of what one layer frees for the next, instead of giving it back to the system.

    The system clears every page it hands out, and a batch of 32 with nano asked for 17,000 of them. Holds for the whole
    process; without effect on other C libraries, and where MALLOC_TRIM_THRESHOLD_ is set.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None and "MALLOC_TRIM_THRESHOLD_" not in os.environ:
        mallopt(_M_MMAP_THRESHOLD, 2**25)
        mallopt(_M_TRIM_THRESHOLD, 2**28)


def pick_device(device: str) -> str:
    """Resolve "auto" to cuda, mps or cpu; refuse a device that is not there."""
    import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return next(name for name, available in there.items() if available)
    if not there.get(device.split(":")[0], False):
        known = [name for name, available in there.items() if available]
        raise ValueError(f"device {device!r} is not on this machine; choose auto or {' or '.join(known)}")
    return device


def pick_dtype(dtype: str | None, device: str) -> Any:
    """Resolve a dtype name; float16 is refused, for Gemma 3 overflows in it."""
    import torch

    names = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if dtype in (None, "auto"):
        return torch.float32 if device == "cpu" else torch.bfloat16
    if dtype not in names:
        raise ValueError(f"dtype {dtype!r}: choose float32 or bfloat16 (float16 overflows in Gemma 3)")
    return names[str(dtype)]


def require_model_type(folder: Path, *expected: str) -> str:
    """A checkpoint's model_type; another kind than those expected is refused before any weight is read."""
    found = read_json(folder / "config.json").get("model_type")
    if found not in expected:
        kinds = " or ".join(map(repr, expected))
        raise ValueError(f"model {folder}: config.json says model_type {found!r}, expected {kinds}")
    return str(found)
