"""Small valid DICOM data sets: made here, or pydicom's bundled ones."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from tests.personal_data import FUZZ_IDENTITY

TRANSFER_SYNTAXES = (
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2.1.98",
    "1.2.840.10008.1.2.1.99",
    "1.2.840.10008.1.2.2",
    "1.2.840.10008.1.2.5",
    *(f"1.2.840.10008.1.2.4.{i}" for i in (50, 51, 57, 70, 80, 81, 90, 91, 92, 93, 94, 95, 100, 102, 201, 202, 203)),
)

_CT, _ENHANCED_CT, _SECONDARY_CAPTURE = (f"1.2.840.10008.5.1.4.1.1.{i}" for i in ("2", "2.1", "7"))
_BIG_ENDIAN = "1.2.840.10008.1.2.2"


def tag_of(keyword: str) -> int:
    from pydicom.datadict import tag_for_keyword

    tag = tag_for_keyword(keyword)
    assert tag is not None, keyword
    return int(tag)


def plant_identity(dataset: Any) -> None:
    """Put the fuzz patient into every tag that names one."""
    for keyword, value in FUZZ_IDENTITY.items():
        setattr(dataset, keyword, value)


def new_dataset(syntax: str, sop_class: str, modality: str, **attributes: Any) -> Any:
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset

    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = sop_class
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = "1.2.826.0.1.3680043.8.498.77001"
    dataset.SeriesInstanceUID, dataset.StudyInstanceUID = f"{dataset.SOPInstanceUID}.1", f"{dataset.SOPInstanceUID}.2"
    dataset.Modality = modality
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def with_pixels(dataset: Any, stored: Any, photometric: str, **attributes: Any) -> Any:
    """Add (H, W), (F, H, W) with NumberOfFrames, or (H, W, 3) stored values."""
    samples = 3 if stored.ndim == 3 and "NumberOfFrames" not in attributes else 1
    dataset.Rows, dataset.Columns = stored.shape[:2] if samples == 3 else stored.shape[-2:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = samples, photometric
    dataset.BitsAllocated = dataset.BitsStored = bits = stored.dtype.itemsize * 8
    dataset.PixelRepresentation = int(np.issubdtype(stored.dtype, np.signedinteger))
    if samples == 3:
        dataset.PlanarConfiguration = 0
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    dataset.HighBit = dataset.BitsStored - 1
    big_endian = dataset.file_meta.TransferSyntaxUID == _BIG_ENDIAN
    dataset.PixelData = stored.astype(stored.dtype.newbyteorder(">" if big_endian else "<")).tobytes()
    dataset["PixelData"].VR = "OB" if bits == 8 else "OW"
    return dataset


def native(syntax: str) -> list[Any]:
    """A signed CT with rescale and window, a 12-bit radiograph with a VOI LUT, an 8-bit picture."""
    rng = np.random.default_rng(7)
    geometry = {
        "PixelSpacing": [0.7, 0.7],
        "SliceThickness": 2,
        "ImagePositionPatient": [0, 0, 5],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "InstanceNumber": 1,
    }
    ct = with_pixels(
        new_dataset(syntax, _CT, "CT", **geometry, WindowCenter=40, WindowWidth=400),
        rng.integers(-1024, 2000, (20, 24)).astype(np.int16),
        "MONOCHROME2",
        RescaleSlope=1,
        RescaleIntercept=-1024,
        PixelPaddingValue=-1024,
    )
    film = with_pixels(
        new_dataset(
            syntax,
            "1.2.840.10008.5.1.4.1.1.1",
            "CR",
            VOILUTSequence=[_lookup_table(4096, big_endian=syntax == _BIG_ENDIAN)],
        ),
        rng.integers(0, 4096, (16, 16)).astype(np.uint16),
        "MONOCHROME1",
        BitsStored=12,
    )
    capture = new_dataset(syntax, _SECONDARY_CAPTURE, "OT")
    return [ct, film, with_pixels(capture, rng.integers(0, 256, (9, 8)).astype(np.uint8), "MONOCHROME2")]


def _lookup_table(entries: int, *, big_endian: bool) -> Any:
    from pydicom import Dataset

    item = Dataset()
    item.LUTDescriptor = [entries, 0, 8]
    item.add_new(
        "LUTData", "OW", (np.arange(entries) * 255 // (entries - 1)).astype(">u2" if big_endian else "<u2").tobytes()
    )
    return item


def enhanced(frames: int) -> Any:
    """An Enhanced CT with shared and per-frame functional groups."""
    from pydicom import Dataset

    def group(**macros: dict[str, Any]) -> Any:
        item = Dataset()
        for sequence, attributes in macros.items():
            inner = Dataset()
            for keyword, value in attributes.items():
                setattr(inner, keyword, value)
            setattr(item, sequence, [inner])
        return item

    dataset = new_dataset("1.2.840.10008.1.2.1", _ENHANCED_CT, "CT")
    dataset.SharedFunctionalGroupsSequence = [
        group(
            PlaneOrientationSequence={"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]},
            PixelMeasuresSequence={"PixelSpacing": [0.5, 0.5], "SliceThickness": 1},
            FrameVOILUTSequence={"WindowCenter": 40, "WindowWidth": 400},
        )
    ]
    dataset.PerFrameFunctionalGroupsSequence = [
        group(
            PlanePositionSequence={"ImagePositionPatient": [0, 0, frame]},
            PixelValueTransformationSequence={
                "RescaleSlope": 1 + frame,
                "RescaleIntercept": -1024,
                "RescaleType": "HU",
            },
        )
        for frame in range(frames)
    ]
    values = np.random.default_rng(8).integers(0, 2000, (frames, 12, 10)).astype(np.uint16)
    return with_pixels(dataset, values, "MONOCHROME2", NumberOfFrames=frames)


def palettes() -> list[Any]:
    """8-bit indices with tables of 8 and 16 bits, and 16-bit indices with a negative first value."""
    rng = np.random.default_rng(9)
    return [
        _palette(rng.integers(0, 256, (12, 14)).astype(np.uint8), 256, 0, 8),
        _palette(rng.integers(0, 256, (12, 14)).astype(np.uint8), 256, 0, 16),
        _palette(rng.integers(-100, 100, (6, 6)).astype(np.int16), 200, -100, 16),
    ]


def _palette(indices: Any, entries: int, first: int, bits: int) -> Any:
    dataset = new_dataset("1.2.840.10008.1.2.1", _SECONDARY_CAPTURE, "US")
    with_pixels(dataset, indices, "PALETTE COLOR")
    table = (np.arange(entries) * (2**bits - 1) // (entries - 1)).astype("<u2").tobytes()
    for colour in ("Red", "Green", "Blue"):
        keyword = f"{colour}PaletteColorLookupTable"
        vr = "SS" if first < 0 else "US"
        dataset.add_new(tag_of(f"{keyword}Descriptor"), vr, [entries, first, bits])
        dataset.add_new(tag_of(f"{keyword}Data"), "OW", table)
    return dataset


def colours() -> list[Any]:
    """RGB by pixel and by plane, YBR_FULL, and 16-bit RGB."""
    rng = np.random.default_rng(10)
    rgb = rng.integers(0, 256, (10, 12, 3)).astype(np.uint8)

    def capture(stored: Any, photometric: str, **attributes: Any) -> Any:
        dataset = new_dataset("1.2.840.10008.1.2.1", _SECONDARY_CAPTURE, "OT")
        return with_pixels(dataset, stored, photometric, **attributes)

    deep = rng.integers(0, 65536, (6, 6, 3)).astype(np.uint16)
    planar = capture(rgb, "RGB", PlanarConfiguration=1)
    return [capture(rgb, "RGB"), planar, capture(rgb, "YBR_FULL"), capture(deep, "RGB")]


def jpeg_frames() -> Any:
    """Two grey baseline JPEG frames with a Basic Offset Table."""
    from PIL import Image
    from pydicom.encaps import encapsulate

    frames = []
    for seed in (1, 2):
        buffer = io.BytesIO()
        pixels = np.random.default_rng(seed).integers(0, 256, (24, 16)).astype(np.uint8)
        Image.fromarray(pixels).save(buffer, "JPEG")
        frames.append(buffer.getvalue())
    dataset = new_dataset("1.2.840.10008.1.2.4.50", _SECONDARY_CAPTURE, "US")
    with_pixels(dataset, np.zeros((2, 24, 16), np.uint8), "MONOCHROME2", NumberOfFrames=2)
    dataset.PixelData = encapsulate(frames)
    dataset["PixelData"].is_undefined_length = True
    return dataset


def bundled(*names: str) -> list[Any]:
    import pydicom
    import pydicom.data

    folder = Path(pydicom.data.__file__).parent / "test_files"
    return [pydicom.dcmread(folder / f"{name}.dcm") for name in names]
