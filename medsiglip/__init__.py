"""MedSigLIP: medical pictures in, embeddings and zero-shot labels out.

The names below are imported on first use, so that `import medsiglip` stays fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medsiglip.encoder import MedSigLIP
    from medsiglip.imaging import Picture, open_images
    from medsiglip.probe import LinearProbe
    from medsiglip.zero_shot import ZeroShotClassifier

__all__ = ["LinearProbe", "MedSigLIP", "Picture", "ZeroShotClassifier", "open_images"]

_HOMES = {
    "LinearProbe": "medsiglip.probe",
    "MedSigLIP": "medsiglip.encoder",
    "Picture": "medsiglip.imaging",
    "ZeroShotClassifier": "medsiglip.zero_shot",
    "open_images": "medsiglip.imaging",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'medsiglip' has no attribute {name!r}")
