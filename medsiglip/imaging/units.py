"""What the values of a volume or a grey picture mean, as far as a file says or its values show."""

from __future__ import annotations

from .frame import Finding

HU = "HU"
"""Unit of CT: Hounsfield units."""
HU_UNPROVEN = "HU, unproven"
"""Unit of CT whose tags do not rescale it and whose values do not show that it needs none."""
STORED = "stored"
"""Unit of MR, PET and other volumes: the values after rescale, whatever they mean."""
UNKNOWN = "unknown"
"""Unit of files that do not say what they hold, such as NIfTI."""

AIR_HU = -500.0
"""A CT with values below this is in Hounsfield units: stored ones that are none yet are 0 or more."""

UNPROVEN_FINDING = Finding(
    "hu-unproven",
    "a CT without a rescale (Rescale Slope and Intercept are missing, or 1 and 0) whose values do not show that they "
    "are Hounsfield units; they are taken as stored, and CT windows of them may be wrong",
)


def unit_of(modality: str | None, rescale_type: str | None, *, is_identity: bool) -> str:
    """The unit of values after their modality transform, as far as tags say.

    Args:
        modality: code of Modality (0008,0060).
        rescale_type: code of Rescale Type (0028,1054), or of Modality LUT Type; None without one.
        is_identity: whether the transform changes nothing.

    Returns:
        `HU`, `HU_UNPROVEN` or `STORED`. CT is in HU unless Rescale Type says otherwise. Source: PS3.3 C.8.2.1.
    """
    if modality != "CT" or rescale_type not in (None, HU):
        return STORED
    return HU_UNPROVEN if is_identity else HU


def proven(unit: str, lowest: float) -> str:
    """The unit once the lowest value that is no padding is known."""
    return HU if unit == HU_UNPROVEN and lowest <= AIR_HU else unit
