"""Pictures to pixel values, as the checkpoint's own image processor settings say."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medsiglip.checkpoints.folders import PROCESSOR_FILES, image_processor
from medsiglip.imaging import RESIZE_POLICIES, Picture, Square, resize

if TYPE_CHECKING:
    import torch

RESAMPLE_TO_POLICY = {2: "huggingface", 3: "huggingface-bicubic"}
"""PIL's resample codes as the settings store them."""


@dataclass(frozen=True)
class Preprocessing:
    """How RGB uint8 becomes pixel values: resize to a square, then (value / 255 - mean) / std."""

    size_px: int
    policy: str
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        if self.policy not in RESIZE_POLICIES:
            raise ValueError(f"resize policy {self.policy!r} is unknown; choose one of {', '.join(RESIZE_POLICIES)}")

    @classmethod
    def from_folder(cls, folder: Path, policy: str | None = None) -> "Preprocessing":
        """Read a checkpoint's preprocessor_config.json or processor_config.json; `policy` overrides its resampling.

        Raises:
            ValueError: neither file has the settings, or they name a resampling that has no policy.
        """
        found = image_processor(folder)
        if found is None:
            files = " nor image_processor in ".join(PROCESSOR_FILES)
            raise ValueError(f"model {folder}: no {files}; the right pixels cannot be known")
        path, config = found
        if missing := {"size", "resample", "image_mean", "image_std"} - config.keys():
            raise ValueError(f"{path}: does not say {', '.join(sorted(missing))}; the right pixels cannot be known")
        if policy is None and config["resample"] not in RESAMPLE_TO_POLICY:
            raise ValueError(f"model {folder}: resample {config['resample']} is not supported; give a policy by name")
        return cls(
            size_px=config["size"]["height"],
            policy=policy or RESAMPLE_TO_POLICY[config["resample"]],
            mean=tuple(config["image_mean"]),
            std=tuple(config["image_std"]),
        )

    @property
    def square(self) -> Square:
        """What workers that decode files may do at once."""
        return Square(self.size_px, self.policy)

    def resized(self, picture: Picture) -> np.ndarray:
        """(S, S, 3) uint8: what the model sees.

        Raises:
            ValueError: the picture was resized already, and in another way.
        """
        if picture.square == self.square:
            return picture.pixels
        if picture.square is not None:
            made, wanted = (f"{square.policy} {square.size_px} px" for square in (picture.square, self.square))
            raise ValueError(f"picture was resized by {made}, expected {wanted}; open it again without a square")
        return resize(picture.pixels, self.size_px, self.policy)

    def pixel_values(self, resized: Sequence[np.ndarray]) -> "torch.Tensor":
        """(N, 3, S, S) float32 from N resized pictures (S, S, 3) uint8."""
        import torch

        mean, std = (np.array(values, np.float64).reshape(3, 1, 1) for values in (self.mean, self.std))
        scale, shift = (1 / (255 * std)).astype(np.float32), (mean / std).astype(np.float32)
        # One picture at a time, which the cache holds; numpy's memory comes in huge pages, torch's does not.
        values = np.empty((len(resized), 3, self.size_px, self.size_px), np.float32)
        for picture, planes in zip(resized, values, strict=True):
            np.multiply(picture.transpose(2, 0, 1), scale, out=planes)
            planes -= shift
        return torch.from_numpy(values)
