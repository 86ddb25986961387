"""What a file says of an image that tells it apart from others of its position, and what a user can choose by."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import NamedTuple

from .slices import SeriesSlice

_SAME_ORIGIN_MM = 0.5


class Trait(NamedTuple):
    """One thing that differs between acquisitions."""

    name: str
    """For people."""
    select: str
    """Its key in `select.SELECT_KEYS`; "" for what is compared and never shown."""
    key: Callable[[SeriesSlice], Hashable]
    """Equal for images of one acquisition."""
    value: Callable[[SeriesSlice], float | None]
    """What a user chooses by; None where the file does not say."""


def _numeric(name: str, select: str, value: Callable[[SeriesSlice], float | None]) -> Trait:
    return Trait(name, select, value, value)


def _hidden(name: str, key: Callable[[SeriesSlice], Hashable]) -> Trait:
    return Trait(name, "", key, lambda item: None)


def _first(*values: float | None) -> float | None:
    return next((value for value in values if value is not None), None)


def _origin(item: SeriesSlice) -> tuple[int, ...]:
    """Two stacks beside each other, such as both shoulders, share positions along their normal."""
    return tuple(round(value / _SAME_ORIGIN_MM) for value in item.plane.position_mm)


TRAITS: tuple[Trait, ...] = (
    _numeric("echo", "echo", lambda item: item.header.echo_number),
    _numeric("echo time", "echo_time", lambda item: item.moment.echo_time_ms),
    _numeric("time", "time", lambda item: _first(item.header.temporal_position, item.moment.temporal_position)),
    _numeric(
        "acquisition",
        "acquisition",
        lambda item: _first(item.moment.acquisition_number, item.header.acquisition_number),
    ),
    _numeric("b-value", "b_value", lambda item: _first(item.moment.diffusion_b_value, item.header.diffusion_b_value)),
    Trait(
        "image type",
        "image_type",
        lambda item: (*item.header.image_type, *item.moment.frame_type, item.moment.image_type_digest),
        lambda item: None,
    ),
    _numeric("inversion time", "inversion_time", lambda item: item.moment.inversion_time_ms),
    _numeric("flip angle", "flip_angle", lambda item: item.moment.flip_angle_deg),
    _numeric("phase", "phase", lambda item: item.moment.phase),
    _numeric("tube voltage", "kvp", lambda item: item.moment.tube_voltage_kv),
    _numeric("thickness", "thickness", lambda item: item.header.tags.slice_thickness_mm),
    _hidden("frame time", lambda item: item.moment.frame_time_ms),
    _hidden("diffusion gradient", lambda item: item.moment.gradient),
    _hidden("component", lambda item: item.moment.component),
    _hidden("reconstruction", lambda item: item.moment.reconstruction_digest),
    _hidden("origin", _origin),
    _hidden("instance number", lambda item: item.header.instance_number),
)
"""In the order in which they are tried."""
