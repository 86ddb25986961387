"""Pan and scan: a long picture is shown whole, and again in square-ish crops. Off unless asked for.

MedGemma's own preprocessor_config.json leaves it off, and no MedGemma figure was measured with it. The rule and the
text around the pictures are transformers' Gemma 3 processor's, number for number.
"""

import hashlib
import math
from dataclasses import dataclass, replace

from medsiglip.imaging import Picture


@dataclass(frozen=True)
class PanAndScan:
    """When and how a picture is cropped; the defaults are transformers' (Google's own code activates at 1.5)."""

    min_crop_px: int = 256
    """No crop has a shorter side."""
    max_crops: int = 4
    min_ratio: float = 1.2
    """Longer side over shorter side from which a picture is cropped at all."""

    def __post_init__(self) -> None:
        checks = {
            "min_crop_px": self.min_crop_px >= 1,
            "max_crops": self.max_crops >= 2,
            "min_ratio": self.min_ratio >= 1,
        }
        for name, holds in checks.items():
            if not holds:
                raise ValueError(f"pan and scan: {name} is {getattr(self, name)}, expected at least "
                                 f"{2 if name == 'max_crops' else 1}")  # fmt: skip


def crops(picture: Picture, rule: PanAndScan) -> list[Picture]:
    """The crops of a picture along its longer side, in order; none if it is not long enough.

    Args:
        picture: as it was opened, not resized.
        rule: see `PanAndScan`.

    Returns:
        Pictures with an identity of their own, so that no cache takes one for the whole.

    Raises:
        ValueError: the picture was resized already.
    """
    if picture.square is not None:
        raise ValueError("pan and scan crops a picture as it was opened; open it again without a square")
    height, width = picture.pixels.shape[:2]
    long, short = max(height, width), min(height, width)
    if long / short < rule.min_ratio:
        return []
    count = min(long // rule.min_crop_px, math.floor(long / short + 0.5))
    count = min(rule.max_crops, max(2, count))
    step = math.ceil(long / count)
    if min(step, short) < rule.min_crop_px:
        return []
    return [_crop(picture, step * i, step * (i + 1), across=width >= height) for i in range(count)]


def _crop(picture: Picture, start: int, stop: int, *, across: bool) -> Picture:
    pixels = picture.pixels[:, start:stop] if across else picture.pixels[start:stop]
    identity = f"{picture.sha256} {'columns' if across else 'rows'} {start}:{stop}"
    return replace(picture, pixels=pixels, sha256=hashlib.sha256(identity.encode()).hexdigest())
