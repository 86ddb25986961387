"""Whatever others write episodes as, found by what lies in the folder."""

from pathlib import Path

from experience.formats.foreign import Source
from experience.formats.lerobot import is_lerobot, read_lerobot
from experience.formats.minari import is_minari, read_minari
from experience.formats.tfds import is_tfds, read_tfds


def read_source(folder: Path, split: str = "") -> Source:
    """Read a data set of TFDS, Minari or LeRobot.

    Args:
        folder: Of the data set; for TFDS of a version, or a folder that holds one.
        split: Only this split, where there are several.

    Raises:
        ValueError: It is none of these, or broken.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; expected a data set of TFDS, Minari or LeRobot")
    versions = [one.parent for one in sorted(folder.rglob("features.json")) if is_tfds(one.parent)]
    if len(versions) == 1:
        return read_tfds(versions[0], split)
    if versions:
        raise ValueError(f"{folder}: holds {len(versions)} TFDS data sets; name one: {versions[0]}, ...")
    if is_minari(folder):
        return read_minari(folder)
    if is_lerobot(folder):
        return read_lerobot(folder)
    raise ValueError(
        f"{folder}: is no data set of TFDS (features.json), Minari (data/metadata.json) or LeRobot (meta/info.json)"
    )
