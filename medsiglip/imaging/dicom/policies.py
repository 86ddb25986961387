"""The names of the pixel policies for DICOM: how stored values become eight bits."""

from __future__ import annotations

from ..frame import FULL_RANGE, PERCENTILE, VOI

CT_POLICIES = ("ct-report", "ct-medgemma-1.5", "ct-google-container")
"""Policies that show CT in three Hounsfield windows, see `presets.CT_WINDOWS`."""

REPORT = "report"
"""CT in Hounsfield units as "ct-report", all else as "voi": what the report's encoder was trained on (2.1.2)."""

POLICIES = (VOI, FULL_RANGE, PERCENTILE, REPORT, *CT_POLICIES)
"""All of them, beside "voi:2" for a file's second window and so on."""


def check_policy(policy: str) -> None:
    """Refuse what is no pixel policy.

    Raises:
        ValueError: an unknown policy; the message lists those there are.
    """
    if policy not in POLICIES and window_number(policy) is None:
        known = f"{', '.join(POLICIES)}, or {VOI}:2 for the file's second window"
        raise ValueError(f"unknown pixel policy {policy!r}; use one of {known}")


def window_number(policy: str) -> int | None:
    """0 for "voi" (the first that can be used), 2 for "voi:2"; None for what is no such policy."""
    if policy == VOI:
        return 0
    digits = policy.removeprefix(f"{VOI}:")
    return int(digits) if digits != policy and digits.isascii() and digits.isdigit() and int(digits) > 0 else None
