"""Pictures' features, made once and kept: the tower costs more than a short answer."""

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import Any

import torch

from medgemma.engine.vision import project
from medsiglip.imaging import Picture
from medsiglip.preprocess import Preprocessing

CACHED_PICTURES = 256
"""At 256 tokens of 2,560 numbers in bfloat16, a third of a gigabyte."""
PICTURES_A_PASS = 8

FeatureKey = tuple[str, int, str, Preprocessing, Hashable]
"""Pixels (hash and frame), their policy, what makes values of them, and whose tower and projector: see `Engine`."""


class FeatureCache:
    """Projected features (I, H) of the pictures used last.

    Args:
        model: Gemma3ForConditionalGeneration.
        preprocessing: its pixels.
        capacity: pictures kept.
    """

    def __init__(self, model: Any, preprocessing: Preprocessing, capacity: int = CACHED_PICTURES) -> None:
        self.model, self.preprocessing, self.capacity = model, preprocessing, capacity
        self._features: OrderedDict[FeatureKey, torch.Tensor] = OrderedDict()

    def key(self, picture: Picture, sight: Hashable) -> FeatureKey:
        """All that decides a picture's features, but the weights: those that change must be told (`clear`)."""
        return (picture.sha256, picture.frame, picture.policy, self.preprocessing, sight)

    def clear(self) -> None:
        """Forget everything."""
        self._features.clear()

    @property
    def tokens_a_picture(self) -> int:
        """What one costs the tower."""
        vision = self.model.config.vision_config
        return int((vision.image_size // vision.patch_size) ** 2)

    def has(self, picture: Picture, sight: Hashable) -> bool:
        """Whether a picture's features are held."""
        return self.key(picture, sight) in self._features

    def of(self, pictures: Sequence[Picture], sight: Hashable) -> list[torch.Tensor]:
        """(I, H) of each picture; each distinct one goes through the tower once.

        The tower and projector that `sight` names must be those in place.
        """
        keys = [self.key(picture, sight) for picture in pictures]
        found = {key: self._features[key] for key in keys if key in self._features}
        missing = [(key, p) for key, p in dict(zip(keys, pictures, strict=True)).items() if key not in found]
        for first in range(0, len(missing), PICTURES_A_PASS):
            batch = missing[first : first + PICTURES_A_PASS]
            found.update(zip([key for key, _ in batch], self._encoded([p for _, p in batch]), strict=True))
        for key in keys:
            self._features[key] = found[key]
            self._features.move_to_end(key)
        while len(self._features) > self.capacity:
            self._features.popitem(last=False)
        return [found[key] for key in keys]

    def _encoded(self, pictures: Sequence[Picture]) -> torch.Tensor:
        values = self.preprocessing.pixel_values([self.preprocessing.resized(p) for p in pictures])
        weight = next(self.model.model.vision_tower.parameters())
        return project(self.model, values.to(weight.device, weight.dtype))
