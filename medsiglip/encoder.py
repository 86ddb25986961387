"""MedSigLIP: pictures and texts to unit vectors in one space. The network is transformers' SiglipModel.

Letters: N pictures or texts, D embedding width, S picture side in pixels.
"""

import ctypes
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from medsiglip.checkpoints.folders import read_json, resolve_model
from medsiglip.checkpoints.identity import fingerprint, identity
from medsiglip.checkpoints.weights import load_strictly
from medsiglip.imaging import Picture, open_pictures
from medsiglip.imaging.dicom.policies import REPORT
from medsiglip.imaging.frame import VOI
from medsiglip.network.text import TextNormaliser, normalised
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
    preprocessing: Preprocessing
    folder: Path
    name: str
    policy: str | None = None
    """The resize policy that was asked for instead of the checkpoint's own."""
    text_normaliser: TextNormaliser = "huggingface"
    """What is done to texts before the tokenizer, see `medsiglip.network.text`."""
    is_int8: bool = False
    """Whether the towers' linear layers compute in eight bits."""

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike[str] = "nano",
        *,
        device: str = "auto",
        dtype: str | None = None,
        policy: str | None = None,
        size_px: int | None = None,
        text_normaliser: TextNormaliser = "huggingface",
    ) -> "MedSigLIP":
        """Load an encoder.

        Args:
            model: "nano", a local folder, or a Hub id.
            device: "auto" (cuda, then mps, then cpu), or a torch device name.
            dtype: "float32", "bfloat16", or, on a CPU, "int8" (the linear layers; the rest in bfloat16 where the CPU
                has it); None is float32 on a CPU and bfloat16 elsewhere.
            policy: a resize policy instead of the checkpoint's own.
            size_px: side of the square instead of the checkpoint's own; the position table is resized.
            text_normaliser: "huggingface" or "report", see `medsiglip.network.text`.

        Raises:
            ValueError: the model cannot be found, its weights are incomplete, or an option cannot be met.
        """
        from transformers import SiglipModel

        from medsiglip.checkpoints.positions import resize_tower
        from medsiglip.network.attention import use_one_head_after_the_other
        from medsiglip.network.int8 import to_int8

        folder = resolve_model(model)
        _refuse_naflex(folder)
        require_model_type(folder, "siglip")
        place = pick_device(device)
        if place == "cpu":
            keep_freed_memory()
        normalised([], text_normaliser)  # refuses an unknown one
        network = load_strictly(SiglipModel, folder, dtype=_computed_in(dtype, place)).to(place)
        preprocessing = Preprocessing.from_folder(folder, policy)
        if size_px is not None:
            resize_tower(network, size_px)
            preprocessing = replace(preprocessing, size_px=size_px)
        if dtype == "int8":
            to_int8(network)
        if place == "cpu":
            use_one_head_after_the_other(network)
        return cls(network, preprocessing, folder, str(model), policy, text_normaliser, dtype == "int8")

    @cached_property
    def tokenizer(self) -> Any:
        """The checkpoint's, read when the first text is encoded: SigLIP's own, or Gemma's of a SigLIP 2.

        Raises:
            ValueError: its files are not there, or do not load.
        """
        return _load_tokenizer(self.folder)

    @cached_property
    def fingerprint(self) -> str:
        """Of the weights, for results."""
        return fingerprint(self.folder)

    @cached_property
    def identity(self) -> str:
        """What embeddings depend on, for caches and resumes; see `medsiglip.checkpoints.identity`."""
        own_px = self.preprocessing.size_px if self.preprocessing.size_px != self._checkpoint_px else 0
        changes = (
            self.policy,
            f"{own_px}px" if own_px else "",
            "" if self.text_normaliser == "huggingface" else f"{self.text_normaliser}-text",
            "int8" if self.is_int8 else "",
        )
        return identity("-".join(part for part in (self.fingerprint, *changes) if part), self.folder)

    @cached_property
    def _checkpoint_px(self) -> int:
        return Preprocessing.from_folder(self.folder, self.policy).size_px

    @property
    def dtype_name(self) -> str:
        """Of the weights as they are computed with: "float32", "bfloat16" or "int8"."""
        return "int8" if self.is_int8 else str(self.model.dtype).removeprefix("torch.")

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
        pictures = open_pictures(images, self.pixel_policy, square=self.preprocessing.square)
        batches = [vectors for _, vectors in self.stream_images(pictures, batch_size)]
        return np.concatenate(batches) if batches else np.zeros((0, self.embedding_width), np.float32)

    def encode_patches(self, images: Any, batch_size: int = 8) -> np.ndarray:
        """Embed every patch of pictures, before pooling: what a decoder sees, and what heat maps are made of.

        Args:
            images: as for `encode_images`.
            batch_size: pictures a forward pass.

        Returns:
            (N, rows, columns, D) float32, after the tower's last norm, not normalised; they lie in no common space with
            texts.

        Raises:
            ImageError: a file cannot be read.
        """
        import torch

        pictures = open_pictures(images, self.pixel_policy, square=self.preprocessing.square)
        found = []
        for _, resized in self._prepared(pictures, batch_size):
            values = self.preprocessing.pixel_values(resized).to(self.model.device, self.model.dtype)
            with torch.inference_mode():
                tokens = self.model.vision_model(pixel_values=values).last_hidden_state.float().cpu().numpy()
            side = round(tokens.shape[1] ** 0.5)
            found.append(tokens.reshape(len(tokens), side, side, -1))
        empty = (0, *(self.preprocessing.size_px // self.model.config.vision_config.patch_size,) * 2)
        return np.concatenate(found) if found else np.zeros((*empty, self.embedding_width), np.float32)

    @property
    def pixel_policy(self) -> str:
        """How CT is shown by default: as its training showed it.

        The report's encoder, MedSigLIP at 448 px or 896 px, saw CT in three Hounsfield windows (report, section 2.1.2):
        "report". Others, nano too, which learned from grey slices, and general SigLIPs: "voi".
        """
        vision = self.model.config.vision_config
        is_the_reports = (vision.hidden_size, vision.patch_size) == (1152, 14) and self._checkpoint_px in (448, 896)
        return REPORT if is_the_reports else VOI

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
        """Embed one text or many: (N, D) float32, L2-normalised.

        Raises:
            ValueError: a text is longer than the 64 tokens that the encoder reads; the tokenizer gives ids that the
                text tower has not; or as `tokenizer`.
        """
        import torch

        texts = [texts] if isinstance(texts, str) else texts
        inputs = self.text_inputs(texts) if texts else {}
        vectors = []
        for start in range(0, len(texts), batch_size):
            batch = {name: t[start : start + batch_size].to(self.model.device) for name, t in inputs.items()}
            with torch.inference_mode():
                vectors.append(unit(self.model.get_text_features(**batch).pooler_output))
        return np.concatenate(vectors) if vectors else np.zeros((0, self.embedding_width), np.float32)

    def text_inputs(self, texts: Sequence[str]) -> "dict[str, torch.Tensor]":
        """What the text tower takes of one text or more, see `text_inputs`.

        Raises:
            ValueError: as `encode_texts`.
        """
        inputs = text_inputs(self.tokenizer, normalised(texts, self.text_normaliser))
        known = self.model.config.text_config.vocab_size
        largest = int(inputs["input_ids"].max())
        if largest >= known:
            raise ValueError(
                f"model {self.folder}: its tokenizer gives the id {largest}, and its text tower knows {known} tokens; "
                "the tokenizer is another model's, fetch this one's"
            )
        return inputs

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


def text_inputs(tokenizer: Any, texts: Sequence[str]) -> "dict[str, torch.Tensor]":
    """What the text tower takes: (N, 64) int64 `input_ids`, padded to 64.

    There is no attention mask, as SigLIP was trained, unless the checkpoint's own tokenizer gives one.

    Raises:
        ValueError: a text is longer than 64 tokens; nothing is cut.
    """
    import torch

    found = tokenizer(list(texts), padding="max_length", max_length=TEXT_LENGTH, verbose=False)
    for number, ids in enumerate(found["input_ids"], 1):
        if len(ids) > TEXT_LENGTH:
            text = f"text {number} of {len(texts)} ({_shortened(texts[number - 1])})" if len(texts) > 1 else "the text"
            raise ValueError(f"{text} is {len(ids)} tokens long, and the encoder reads {TEXT_LENGTH}; shorten it")
    return {name: torch.tensor(rows) for name, rows in found.items()}


def _shortened(text: str, num_letters: int = 40) -> str:
    return repr(text if len(text) <= num_letters else text[:num_letters].rstrip() + "...")


def tokenize(tokenizer: Any, texts: Sequence[str]) -> "torch.Tensor":
    """The `input_ids` of `text_inputs`."""
    return text_inputs(tokenizer, texts)["input_ids"]


def unit(vectors: "torch.Tensor") -> np.ndarray:
    """(N, D) float32 array of unit vectors."""
    vectors = vectors.float()
    return np.asarray((vectors / vectors.norm(dim=-1, keepdim=True)).cpu().numpy())


def _load_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer, SiglipTokenizer

    if (folder / "spiece.model").is_file():
        return SiglipTokenizer.from_pretrained(folder, local_files_only=True)
    if not (folder / "tokenizer.json").is_file():
        raise ValueError(f"model {folder}: no spiece.model nor tokenizer.json there; fetch the tokenizer's files too")
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # whatever the tokenizer's class stumbles over
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"model {folder}: its tokenizer does not load ({reason}); fetch its files again") from error


def _refuse_naflex(folder: Path) -> None:
    if read_json(folder / "config.json").get("model_type") == "siglip2":
        raise ValueError(
            f"model {folder}: a SigLIP 2 with NaFlex (model_type siglip2), which sees pictures in their own shape; "
            "towers of one fixed size alone are supported, such as google/siglip2-so400m-patch14-384"
        )


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
    """Resolve a dtype name; float16 is refused: plain, Gemma 3 overflows in it (`medgemma.checkpoints.float16`)."""
    import torch

    names = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if dtype in (None, "auto"):
        return torch.float32 if device == "cpu" else torch.bfloat16
    if dtype not in names:
        raise ValueError(f"dtype {dtype!r}: choose float32 or bfloat16 (float16 overflows in Gemma 3)")
    return names[str(dtype)]


def _computed_in(dtype: str | None, device: str) -> Any:
    """As `pick_dtype`; of "int8" what the rest is computed in."""
    import torch

    if dtype != "int8":
        return pick_dtype(dtype, device)
    if device != "cpu":
        raise ValueError(f"dtype 'int8' is for a CPU, and the device is {device}; choose bfloat16 there")
    return torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32


def require_model_type(folder: Path, *expected: str) -> str:
    """A checkpoint's model_type; another kind than those expected is refused before any weight is read."""
    found = read_json(folder / "config.json").get("model_type")
    if found not in expected:
        kinds = " or ".join(map(repr, expected))
        raise ValueError(f"model {folder}: config.json says model_type {found!r}, expected {kinds}")
    return str(found)
