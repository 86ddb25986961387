"""SIIM-ACR Pneumothorax Segmentation: films with run-length encoded masks."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from data_cards.readers.fields import cells
from data_cards.readers.tables import read_csv

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TABLES = ("stage_2_train.csv", "train-rle.csv", "siim-pneumothorax-train-rle.csv.gz")
NO_PNEUMOTHORAX = "-1"


@dataclass(frozen=True)
class PneumothoraxFilm:
    """One film and where its pneumothorax is drawn."""

    item_id: str
    """ImageId of the table."""
    path: Path
    """DICOM file; not opened by the reader."""
    masks: tuple[str, ...]
    """One run-length code a drawn region, for `decode_run_lengths`; empty: no pneumothorax."""
    group: str
    """The film: the release names no patients."""

    @property
    def pneumothorax(self) -> bool:
        """Whether any region is drawn."""
        return bool(self.masks)


def read_siim_pneumothorax(folder: Path) -> list[PneumothoraxFilm]:
    """Read the training table.

    Args:
        folder: Holds stage_2_train.csv or train-rle.csv (columns ImageId and EncodedPixels, a row a region) and the
            films as .dcm in any subfolder.

    Raises:
        ValueError: No table is there, a column is missing, a cell is empty, or a film is said to have a pneumothorax
            and none.
    """
    table = next((folder / name for name in TABLES if (folder / name).is_file()), folder / TABLES[0])
    regions: dict[str, list[str]] = {}
    for number, row in enumerate(read_csv(table, ("ImageId", "EncodedPixels")), start=1):
        found = cells(table, number, row, ("ImageId", "EncodedPixels"))
        film = regions.setdefault(found["ImageId"], [])
        if film and NO_PNEUMOTHORAX in (film[0], found["EncodedPixels"]):
            raise ValueError(f"{table}: record {number} contradicts an earlier row of the same film; mend the rows")
        film.append(found["EncodedPixels"])
    paths = {path.stem: path for path in folder.rglob("*.dcm")}
    return [
        PneumothoraxFilm(
            item_id=name,
            path=paths.get(name, folder / f"{name}.dcm"),
            masks=tuple(code for code in codes if code != NO_PNEUMOTHORAX),
            group=f"siim_{name}",
        )
        for name, codes in regions.items()
    ]


def decode_run_lengths(code: str, rows: int = 1024, columns: int = 1024) -> "NDArray[np.bool_]":
    """Draw a mask from its run-length code.

    The code is pairs of numbers: how many pixels to skip since the end of the last run (the first pair: since the
    first pixel), and how many to draw. Pixels are counted down the columns, left to right.

    Args:
        code: As in EncodedPixels; "-1" is an empty mask.
        rows: Height of the mask, px.
        columns: Width of the mask, px.

    Returns:
        (rows, columns), true inside the region.

    Raises:
        ValueError: The code is no list of pairs of whole numbers, or runs beyond the mask.

    Source: mask_functions.py of the competition's data page, whose steps are described here in our words.
    """
    import numpy as np

    flat = np.zeros(rows * columns, dtype=np.bool_)
    numbers = [] if code.strip() == NO_PNEUMOTHORAX else code.split()
    if len(numbers) % 2 or not all(number.isdigit() for number in numbers):
        raise ValueError(f"got the run-length code {code[:40]!r}; expected pairs of whole numbers, or -1")
    position = 0
    for skip, length in zip(numbers[::2], numbers[1::2], strict=True):
        start = position + int(skip)
        position = start + int(length)
        flat[start:position] = True
    if position > flat.size:
        raise ValueError(f"got runs up to pixel {position} of {rows} x {columns}; is this the mask's size?")
    return flat.reshape(columns, rows).T
