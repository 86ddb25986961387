"""What a frozen vision tower sees of every picture, once for all steps of the stages after it.

Letters: P pictures, V views of each, S side in pixels, N patches.
"""

import hashlib
from pathlib import Path
from typing import Any

import torch

from finetune.augment import Augmentation, augment, plain
from finetune.training import Precision, autocast, step_generator


def tower_views(
    tower: Any,
    pixels: torch.Tensor,
    free_orientation: torch.Tensor,
    views: int,
    *,
    augmentation: Augmentation,
    seed: int,
    precision: Precision = "float32",
    batch_size: int = 64,
) -> torch.Tensor:
    """Run a frozen SigLIP vision tower over views of every picture: (P, V, N, width) bfloat16, after its last norm.

    View 0 is the whole picture as it is, the others are augmented.

    Args:
        tower: a SiglipVisionModel, or the vision_model of a SiglipModel.
        pixels: (P, 3, S', S') uint8, a little larger than the tower's side; moved to where the tower is.
        free_orientation: (P,) bool, true where up and left mean nothing.
        views: V.
        augmentation: of the augmented views.
        seed: of the augmentation.
        precision: of the tower.
        batch_size: pictures at once.
    """
    size_px, device = tower.config.image_size, tower.device
    out = []
    for start in range(0, len(pixels), batch_size):
        chosen = slice(start, start + batch_size)
        batch, free = pixels[chosen].to(device), free_orientation[chosen].to(device)
        rng = step_generator(seed, "views", start)
        seen = [plain(batch, size_px), *(augment(batch, size_px, free, rng, augmentation) for _ in range(views - 1))]
        with torch.inference_mode(), autocast(device.type, precision):
            out.append(torch.stack([tower(pixel_values=view).last_hidden_state.bfloat16() for view in seen], 1))
    return torch.cat(out).clone()


def kept_tower_views(
    path: Path,
    tower: Any,
    pixels: torch.Tensor,
    free_orientation: torch.Tensor,
    views: int,
    *,
    augmentation: Augmentation,
    seed: int,
    precision: Precision,
) -> torch.Tensor:
    """`tower_views`, read from `path` if the same tower has seen the same pictures, else made and written there."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    made_of = _digest(tower, pixels, (views, augmentation, seed, precision))
    if path.is_file():
        with safe_open(path, "pt") as file:
            if (file.metadata() or {}).get("made_of") == made_of:
                kept: torch.Tensor = file.get_tensor("views").to(tower.device)
                return kept
    seen = tower_views(
        tower, pixels, free_orientation, views, augmentation=augmentation, seed=seed, precision=precision
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file({"views": seen}, partial, metadata={"made_of": made_of})
    partial.replace(path)
    return seen


def _digest(tower: Any, pixels: torch.Tensor, settings: tuple[object, ...]) -> str:
    digest = hashlib.sha256(repr((settings, tuple(pixels.shape))).encode())
    digest.update(pixels.cpu().numpy().tobytes())
    for name, tensor in sorted(tower.state_dict().items()):
        if not name.startswith("head."):
            digest.update(name.encode() + tensor.float().cpu().numpy().tobytes())
    return digest.hexdigest()
