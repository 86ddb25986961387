"""Slices of one CT in a zip: a valid series, and ones in which slices lie about geometry, size or numbers."""

from __future__ import annotations

import random
import zipfile
from copy import deepcopy
from functools import cache

from tests.medsiglip.imaging import fuzz_dicom, fuzz_dicom_lies, fuzz_zip

NUM_SLICES = 6


def originals(format: str) -> list[bytes]:
    return [pack([fuzz_dicom.assemble(parts) for parts in slices()])]


@cache
def slices() -> tuple[fuzz_dicom.Parts, ...]:
    """Axial, 2 mm apart, in order."""
    made = []
    for number in range(NUM_SLICES):
        parts = deepcopy(fuzz_dicom.originals("dicom-explicit")[0])
        fuzz_dicom.put_text(parts, "ImagePositionPatient", "DS", f"0\\0\\{2 * number}")
        fuzz_dicom.put_text(parts, "InstanceNumber", "IS", str(number))
        fuzz_dicom.put_text(parts, "SOPInstanceUID", "UI", f"1.2.826.0.1.3680043.8.498.77001.{10 + number}")
        made.append(parts)
    return tuple(made)


def pack(files: list[bytes]) -> bytes:
    return fuzz_zip.archive([(f"{number}.dcm", file) for number, file in enumerate(files)], zipfile.ZIP_STORED)


def lie(rng: random.Random) -> tuple[str, bytes]:
    """One lie in one, two or all slices; all then tell the same."""
    changed = [deepcopy(parts) for parts in slices()]
    told = rng.sample(range(NUM_SLICES), k=rng.choice((1, 1, 2, NUM_SLICES)))
    tell, same = rng.choice(_LIES), rng.getrandbits(64)
    for number in told:
        name = tell(random.Random(same), changed[number])
    files = [fuzz_dicom.assemble(parts) for parts in changed]
    order = rng.sample(files, k=len(files))
    repeated = order + order[: rng.choice((0, 0, 0, 2))]
    return f"{len(told)} slices: {name}", pack(repeated[: rng.choice((2, 8, 8, 8))])


def _geometry_lie(rng: random.Random, parts: fuzz_dicom.Parts) -> str:
    """Positions and directions that are numbers, but not of a scanner."""
    keyword, texts = rng.choice(_GEOMETRY)
    text = rng.choice(texts)
    vr = {"AcquisitionNumber": "IS", "ImageType": "CS"}.get(keyword, "DS")
    fuzz_dicom.put_text(parts, keyword, vr, text)
    return f"{keyword}={ascii(text[:30])}"


# fmt: off
_GEOMETRY = (
    ("ImagePositionPatient", (
        "0\\0\\1e30", "0\\0\\-1e308", "1e9\\0\\0", "0\\0\\0", "0\\0\\1.0000001", "0\\0", "nan\\0\\0",
    )),
    ("ImageOrientationPatient", (
        "0\\0\\0\\0\\0\\0", "1\\0\\0\\1\\0\\0", "2\\0\\0\\0\\2\\0", "0\\1\\0\\1\\0\\0", "1\\0\\0", "inf\\0\\0\\0\\1\\0",
    )),
    ("PixelSpacing", ("0\\0", "-1\\1", "1e-30\\1e-30", "1e30\\1", "0.7", "nan\\nan")),
    ("SliceThickness", ("0", "-2", "1e30", "nan")),
    ("GantryDetectorTilt", ("15", "-90", "1e30", "nan", "x")),
    ("AcquisitionNumber", ("1", "2", "9" * 30, "x")),
    ("ImageType", ("ORIGINAL\\PRIMARY\\LOCALIZER", "DERIVED\\SECONDARY", "\\\\\\", "")),
)
# fmt: on
_LIES = (_geometry_lie, _geometry_lie, _geometry_lie, *fuzz_dicom_lies.OF_NUMBERS)
