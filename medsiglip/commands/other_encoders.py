"""Other picture encoders of transformers (DINOv2, ViT, CLIP, timm's), for embeddings and probes beside MedSigLIP's.

Letters: N pictures, D embedding width. They have no texts here, so no zero-shot labels.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from medsiglip.checkpoints.folders import read_json, resolve_model
from medsiglip.checkpoints.identity import fingerprint, identity
from medsiglip.checkpoints.weights import quiet_transformers
from medsiglip.encoder import MedSigLIP, keep_freed_memory, pick_device, pick_dtype, unit
from medsiglip.imaging import Picture, Square
from medsiglip.imaging.frame import VOI


@dataclass(frozen=True)
class OwnProcessor:
    """The checkpoint's own image processor makes the pixels, out of whole pictures."""

    policy: str = "own-processor"
    square: Square | None = None


@dataclass
class OtherEncoder:
    """A transformers encoder of pictures; make one with `load_encoder`."""

    model: Any
    processor: Any
    folder: Path
    name: str
    preprocessing: OwnProcessor = OwnProcessor()
    pixel_policy: str = VOI

    @cached_property
    def identity(self) -> str:
        """What embeddings depend on."""
        return identity(fingerprint(self.folder), self.folder)

    @cached_property
    def embedding_width(self) -> int:
        """D, found by embedding a black picture."""
        return int(self._embed([np.zeros((32, 32, 3), np.uint8)]).shape[1])

    def stream_images(
        self, pictures: Iterable[Picture], batch_size: int = 32
    ) -> Iterator[tuple[list[Picture], np.ndarray]]:
        """Embed a stream of pictures batch by batch: (pictures, (n, D) float32 unit vectors)."""
        source = iter(pictures)
        while batch := list(islice(source, batch_size)):
            yield batch, self._embed([picture.pixels for picture in batch])

    def _embed(self, pixels: list[np.ndarray]) -> np.ndarray:
        import torch
        from PIL import Image

        inputs = self.processor(images=[Image.fromarray(one) for one in pixels], return_tensors="pt")
        values = inputs["pixel_values"].to(self.model.device, self.model.dtype)
        with torch.inference_mode():
            return unit(_features(self.model, values))


def load_encoder(model: str, *, device: str = "auto", dtype: str | None = None) -> MedSigLIP | OtherEncoder:
    """A SigLIP as `MedSigLIP`, any other picture encoder as `OtherEncoder`.

    Raises:
        ValueError: the model cannot be found, its weights are incomplete, or it has no pictures.
    """
    folder = resolve_model(model)
    if str(read_json(folder / "config.json").get("model_type", "")).startswith("siglip"):
        return MedSigLIP.from_pretrained(model, device=device, dtype=dtype)
    from transformers import AutoImageProcessor, AutoModel

    place = pick_device(device)
    if place == "cpu":
        keep_freed_memory()
    try:
        with quiet_transformers():
            network, found = AutoModel.from_pretrained(
                folder,
                dtype=pick_dtype(dtype, place),
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
        processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"model {folder}: no encoder of pictures that transformers loads ({reason})") from error
    if missing := sorted(key for key in found["missing_keys"] if "pooler" not in key):
        raise ValueError(f"model {folder}: {len(missing)} tensors are missing, such as {missing[0]}; fetch it again")
    return OtherEncoder(network.to(place).eval(), processor, folder, str(model))


def _features(model: Any, values: Any) -> Any:
    """CLIP's projected features; timm's pooled ones; else the class token, which stands first, or the mean token."""
    kind = model.config.model_type
    if hasattr(model, "get_image_features"):
        found = model.get_image_features(pixel_values=values)
        return getattr(found, "pooler_output", found)
    output = model(pixel_values=values)
    if kind == "timm_wrapper":
        return output.pooler_output
    tokens = output.last_hidden_state
    if tokens.ndim == 4:  # (N, D, H, W) of a convolutional network
        return tokens.mean(dim=(2, 3))
    has_class_token = any(name.endswith("cls_token") for name, _ in model.named_parameters())
    return tokens[:, 0] if has_class_token else tokens.mean(dim=1)
