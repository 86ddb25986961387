"""Augmentation that respects anatomy: pictures are moved and re-exposed, never mirrored where left and right matter.

Letters: B pictures, S side in pixels.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class Augmentation:
    """What is changed in pictures, and how much."""

    strength: float = 1.0
    """Of crop, shift, exposure and blur: 0 is none, 1 is all of it."""
    colour: float = 0.0
    """How far the colours of pictures with a free orientation move, channel by channel; 0 is not at all."""
    window: float = 0.0
    """Share of the other pictures that are seen in another window."""
    frame: float = 0.0
    """Share of the other pictures that are seen smaller, in a frame of one grey."""


def augment(
    pictures: torch.Tensor,
    size_px: int,
    free_orientation: torch.Tensor,
    rng: torch.Generator,
    how: Augmentation = Augmentation(),
) -> torch.Tensor:
    """Random crop, shift, exposure, sharpness, another window, a frame; any of the eight orientations, another stain.

    All chance is drawn on the CPU: the same pictures get the same views on every device.

    Args:
        pictures: (B, 3, S', S') uint8 RGB, a little larger than `size_px`.
        size_px: S, the side of what comes out.
        free_orientation: (B,) bool, true where up and left mean nothing (histology).
        rng: source of all randomness, a CPU generator.
        how: what is changed besides the orientation.

    Returns:
        (B, 3, S, S) float32 in about -1..1.
    """
    strength, colour = how.strength, how.colour
    values = pictures.float() / 127.5 - 1
    values = _resample(_reorient(values, free_orientation, rng), size_px, rng, strength)
    values = _blur_some(values, ~free_orientation, rng, 0.3 * strength)
    if how.window:
        values = _rewindow_some(values, ~free_orientation, rng, how.window)
    contrast = _uniform((len(values), 1), 1 - 0.2 * strength, 1 + 0.2 * strength, rng)
    brightness = _uniform((len(values), 1), -0.15 * strength, 0.15 * strength, rng)
    if colour:
        stained = free_orientation.cpu()[:, None]
        contrast = contrast * _uniform((len(values), 3), 1 - 0.2 * colour, 1 + 0.2 * colour, rng) ** stained
        brightness = brightness + _uniform((len(values), 3), -0.2 * colour, 0.2 * colour, rng) * stained
    moved = values * contrast.to(values.device)[..., None, None] + brightness.to(values.device)[..., None, None]
    if how.frame:
        moved = _frame_some(moved, ~free_orientation, rng, how.frame)
    return moved.clamp(-1, 1)


def plain(pictures: torch.Tensor, size_px: int) -> torch.Tensor:
    """No augmentation: (B, 3, S, S) float32 in -1..1, the whole picture."""
    values = pictures.float() / 127.5 - 1
    if values.shape[-1] == size_px:
        return values
    return F.interpolate(values, (size_px, size_px), mode="bilinear", antialias=True, align_corners=False)


def _reorient(values: torch.Tensor, free: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    turns = torch.randint(4, (len(values),), generator=rng).to(values.device) * free
    flips = (torch.rand(len(values), generator=rng) < 0.5).to(values.device) & free
    out = values.clone()
    for quarter in (1, 2, 3):
        chosen = turns == quarter
        out[chosen] = torch.rot90(values[chosen], quarter, (2, 3))
    out[flips] = out[flips].flip(3)
    return out


def _resample(values: torch.Tensor, size_px: int, rng: torch.Generator, strength: float) -> torch.Tensor:
    """Random crop of at least 70 % of the side, anywhere, with a turn of up to 6 degrees."""
    count = len(values)
    scale = _uniform((count,), 1 - 0.3 * strength, 1.0, rng)
    angle = strength * _uniform((count,), -0.1, 0.1, rng)
    shift = (torch.rand(count, 2, generator=rng) * 2 - 1) * (1 - scale)[:, None]
    cosine, sine = scale * angle.cos(), scale * angle.sin()
    affine = torch.stack([torch.stack([cosine, -sine, shift[:, 0]], 1), torch.stack([sine, cosine, shift[:, 1]], 1)], 1)
    grid = F.affine_grid(affine.to(values.device), [count, 3, size_px, size_px], align_corners=False)
    return F.grid_sample(values, grid, padding_mode="border", align_corners=False)


def _blur_some(values: torch.Tensor, allowed: torch.Tensor, rng: torch.Generator, share: float) -> torch.Tensor:
    """Shrink and enlarge some pictures again, so that sharpness does not give the data set away."""
    size_px = values.shape[-1]
    small = int(torch.randint(size_px // 3, size_px, (1,), generator=rng))
    chosen = (torch.rand(len(values), generator=rng) < share).to(values.device) & allowed
    if not bool(chosen.any()):
        return values
    shrunk = F.interpolate(values[chosen], (small, small), mode="bilinear", antialias=True, align_corners=False)
    out = values.clone()
    out[chosen] = F.interpolate(shrunk, (size_px, size_px), mode="bilinear", align_corners=False)
    return out


def _rewindow_some(values: torch.Tensor, allowed: torch.Tensor, rng: torch.Generator, share: float) -> torch.Tensor:
    """Set another window in some pictures, so that the grey of the background does not give the class away.

    In MedNIST it does: every abdominal CT has 101 around the body, every chest CT 126, head CT 25, breast MRI 0.
    The lower end is the picture's own dark fifth (a quarter of the time: then the background is black), below it, or
    down by as much as half of the range; the upper end is about the picture's own brightest.
    """
    chosen = (torch.rand(len(values), generator=rng) < share).to(values.device) & allowed
    lower, upper = _uniform((len(values),), -0.5, 1.5, rng).clamp(max=1), _uniform((len(values),), 0.8, 1.4, rng)
    seen = (values + 1) / 2
    dark, bright = seen[:, :, ::4, ::4].mean(1).flatten(1).quantile(torch.tensor([0.2, 0.98]).to(values.device), 1)
    lower, upper = lower.to(values.device), upper.to(values.device) * bright
    lower = torch.where(lower > 0, lower * dark, lower)
    width = (upper - lower).clamp(min=0.1)
    moved = (seen - lower[:, None, None, None]) / width[:, None, None, None]
    return torch.where(chosen[:, None, None, None], moved.clamp(0, 1) * 2 - 1, values)


def _frame_some(values: torch.Tensor, allowed: torch.Tensor, rng: torch.Generator, share: float) -> torch.Tensor:
    """Set some pictures into a frame, black or of any grey, at half their size or more: films are often scanned so."""
    chosen = (torch.rand(len(values), generator=rng) < share).to(values.device) & allowed
    scale = _uniform((len(values),), 0.5, 1.0, rng)
    shift = (torch.rand(len(values), 2, generator=rng) * 2 - 1) * (1 / scale - 1)[:, None]
    grey = _uniform((len(values),), -2.0, 1.0, rng).clamp(min=-1).to(values.device)[chosen, None, None, None]
    larger, zero = 1 / scale, torch.zeros(len(values))
    affine = torch.stack([larger, zero, shift[:, 0], zero, larger, shift[:, 1]], 1).view(-1, 2, 3).to(values.device)
    if not bool(chosen.any()):
        return values
    out = values.clone()
    grid = F.affine_grid(affine[chosen], list(out[chosen].shape), align_corners=False)
    out[chosen] = F.grid_sample(values[chosen] - grey, grid, padding_mode="zeros", align_corners=False) + grey
    return out


def _uniform(shape: tuple[int, ...], low: float, high: float, rng: torch.Generator) -> torch.Tensor:
    return low + (high - low) * torch.rand(shape, generator=rng)
