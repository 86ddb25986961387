"""Pictures into the decoder: features, made once and kept, projection, and their place among the text embeddings.

Letters: B prompts, T tokens, P pictures, I tokens of one image, H decoder width.
"""

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import Any

import torch

from medsiglip.imaging import Picture
from medsiglip.preprocess import Preprocessing


def project(model: Any, pixel_values: torch.Tensor) -> torch.Tensor:
    """(P, I, H): pixel values (P, 3, S, S) through tower and projector."""
    return project_patches(model, patch_features(model, pixel_values))


def patch_features(model: Any, pixel_values: torch.Tensor) -> torch.Tensor:
    """(P, patches, vision width): the tower's patch tokens after its last layer norm."""
    features: torch.Tensor = model.model.vision_tower(pixel_values=pixel_values).last_hidden_state
    return features


def project_patches(model: Any, patches: torch.Tensor) -> torch.Tensor:
    """(P, I, H) from (P, patches, vision width)."""
    projected: torch.Tensor = model.model.multi_modal_projector(patches)
    return projected


def merge(model: Any, input_ids: torch.Tensor, token_type_ids: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Embed a batch with its images in place.

    Args:
        model: Gemma3ForConditionalGeneration.
        input_ids: (B, T) int64.
        token_type_ids: (B, T), 1 on image tokens.
        images: (P, I, H) projected images in the order of their slots.

    Returns:
        (B, T, H) input embeddings; images go in after the embedding scale, unscaled.

    Raises:
        ValueError: the number of image tokens and of image features differ.
    """
    slots = token_type_ids == 1
    if int(slots.sum()) != images.shape[0] * images.shape[1]:
        raise ValueError(f"{int(slots.sum())} image tokens for {images.shape[0] * images.shape[1]} image features")
    embeddings = model.get_input_embeddings()(input_ids.masked_fill(slots, 0))
    merged: torch.Tensor = embeddings.masked_scatter(slots.unsqueeze(-1), images.to(embeddings.dtype))
    return merged


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
