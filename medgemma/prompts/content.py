"""What a user's turn holds, in the order in which MedGemma was shown it: texts, pictures, volumes slice by slice.

    parts = [*volume_parts(ct), "Is there a liver lesion? ..."]
    turn = user_turn(parts)          # turn.message for `chat.render`, turn.pictures in the order of its image slots

Source: the CT notebook of MedGemma 1.5 for volumes (instruction, then each slice followed by `SLICE k`, then the
question), its longitudinal notebook for a prior and a current film.
"""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from medgemma.prompts.chat import Message
from medgemma.prompts.pan_and_scan import PanAndScan, crops
from medsiglip.imaging import CT_WINDOWS, ImageError, Notes, Picture, Volume, open_images
from medsiglip.imaging.frame import VOI
from medsiglip.imaging.units import UNKNOWN
from medsiglip.imaging.volumes.presets import SLICE_BUDGET
from medsiglip.imaging.volumes.rendering import default_view
from medsiglip.imaging.volumes.select import Selection
from medsiglip.imaging.volumes.series import NOT_A_VOLUME

Part = str | Picture
"""A text, or a picture."""

PRIOR_LABEL, CURRENT_LABEL = "Prior image:", "Current image:"
"""What stands before each of two studies that are compared."""


@dataclass(frozen=True)
class VolumeView:
    """How a volume is shown to MedGemma."""

    preset: str | None = None
    """A key of `CT_WINDOWS`, "min-max" or "voi"; None: "medgemma-1.5" for a CT, the model that was shown volumes, and
    "min-max" of the whole volume for all else. A CT preset declares a volume of unknown unit (NIfTI) to be in HU."""
    budget: int = SLICE_BUDGET
    """Slices at most."""
    sampling: str = "google"
    """Which, where there are more; see `medsiglip.imaging.sample_slices`."""
    select: Selection = ()
    """Which acquisition or volume of several, such as (("echo", "2"),); see `medsiglip.imaging.volumes.select`."""


@dataclass(frozen=True)
class Turn:
    """One user turn."""

    message: Message
    pictures: tuple[Picture, ...]
    """In the order of the message's image slots, crops after the picture they are of."""


def user_turn(parts: Sequence[Part], pan_and_scan: PanAndScan | None = None) -> Turn:
    """Put a turn together.

    Args:
        parts: in the order in which the model reads them.
        pan_and_scan: None for off, as MedGemma was measured.
    """
    content: list[dict[str, Any]] = []
    pictures: list[Picture] = []
    for part in parts:
        if isinstance(part, str):
            content.append({"type": "text", "text": part})
            continue
        cropped = crops(part, pan_and_scan) if pan_and_scan else []
        content.append({"type": "image", "crops": len(cropped)})
        pictures += [part, *cropped]
    return Turn({"role": "user", "content": content}, tuple(pictures))


def open_study(images: Any, policy: str = VOI, select: Selection = ()) -> Iterator[Picture | Volume]:
    """Open anything as pictures and volumes, volumes in memory too.

    Args:
        images: as for `medsiglip.imaging.open_images`, or `Volume`s, or both in a sequence.
        policy: of pictures.
        select: of series and files that hold several volumes.

    Raises:
        ImageError: while iterating, on the first source that cannot be read.
        ValueError: an unknown policy, or key to select by.
    """
    several = isinstance(images, Iterable) and not isinstance(images, str | bytes | np.ndarray)
    for in_memory, items in groupby(images if several else [images], lambda item: isinstance(item, Volume)):
        together = list(items)
        yield from together if in_memory else open_images(together, policy, select=dict(select))


def study_parts(items: Iterable[Picture | Volume], view: VolumeView | None = None) -> list[Part]:
    """Pictures as they are, volumes slice by slice: what a study adds to a turn.

    Args:
        items: from `medsiglip.imaging.open_images`.
        view: for volumes.

    Raises:
        ImageError: a preset for slices that became no volume.
        ImageError, ValueError: see `volume_parts`.
    """
    parts: list[Part] = []
    for item in items:
        if isinstance(item, Picture) and view is not None and view.preset:
            _check_is_no_slice(item, view.preset)
        parts += volume_parts(item, view) if isinstance(item, Volume) else [item]
    return parts


def _check_is_no_slice(picture: Picture, preset: str) -> None:
    for finding in picture.findings:
        if finding.kind == NOT_A_VOLUME:
            raise ImageError(picture.file, f"the preset {preset} is for volumes; {finding.text}")


def volume_parts(volume: Volume, view: VolumeView | None = None) -> list[Part]:
    """The slices of a volume, each followed by `SLICE k`, k from 1; a single slice has no label.

    Args:
        volume: CT, MR or another.
        view: how it is shown.

    Raises:
        ImageError: a CT preset for a volume that is no CT.
        ValueError: an unknown preset or sampling, or a budget below 1.

    Warns:
        UserWarning: the slices are not axial, or a NIfTI file is shown by its smallest and largest value although it
            may be a CT.
    """
    view = view or VolumeView()
    preset = view.preset
    if preset in CT_WINDOWS and volume.unit == UNKNOWN:
        volume = volume.as_hu()
    if preset is None:
        preset = default_view("gemma3", volume.unit)
        if volume.unit == UNKNOWN:
            text = "the file does not say what it holds and is shown by its smallest and largest value"
            advice = "if it is a CT, ask for the preset medgemma-1.5"
            warnings.warn(f"{volume.file or 'volume in memory'}: {text}; {advice}", UserWarning, stacklevel=2)
    pictures = list(volume.pictures(preset, view.budget, view.sampling))
    if len(pictures) == 1:
        return [pictures[0]]
    return [part for k, picture in enumerate(pictures, 1) for part in (picture, f"SLICE {k}")]


def comparison_parts(prior: Sequence[Part], current: Sequence[Part]) -> list[Part]:
    """A prior and a current study, each behind its label."""
    return [PRIOR_LABEL, *prior, CURRENT_LABEL, *current]


def finding_lines(pictures: Iterable[Picture]) -> list[str]:
    """What a user should know of the pictures and of the volumes they are slices of, a line a finding."""
    notes = Notes()
    for picture in pictures:
        notes.add(picture.file, picture.findings)
    return notes.lines()


def pictures_of(parts: Iterable[Part]) -> list[Picture]:
    """The pictures among the parts."""
    return [part for part in parts if isinstance(part, Picture)]
