"""An independent slow reader: pydicom's pixel array, by way of GDCM where it can, plain formulas, no tables."""

import numpy as np
from pydicom import dcmread
from pydicom.pixels import apply_color_lut, get_decoder

from medsiglip.imaging.dicom.instance import decode_dicom, decode_values


def frames_of(path, policy="voi"):
    return list(decode_dicom(path.read_bytes(), policy, path.name))


def reference_pixels(path):
    """(F, H, W) or (F, H, W, 3) stored values, and the data set."""
    dataset = dcmread(path)
    decoder = get_decoder(dataset.file_meta.TransferSyntaxUID)
    plugin = "gdcm" if "gdcm" in decoder.available_plugins else ""
    values, _ = decoder.as_array(dataset, decoding_plugin=plugin)
    return values if int(dataset.get("NumberOfFrames") or 1) > 1 else values[None], dataset


def reference_modality_values(stored, dataset):
    return stored.astype(float) * float(dataset.get("RescaleSlope", 1)) + float(dataset.get("RescaleIntercept", 0))


def reference_rendering(path):
    """(F, H, W[, 3]) of 0..255, and the policy. PS3.3 C.7.6.3.1, C.11.1.1.2, C.11.2.1.2.1."""
    stored, dataset = reference_pixels(path)
    assert not dataset.get("VOILUTSequence") and not dataset.get("ModalityLUTSequence")
    assert dataset.get("VOILUTFunction", "LINEAR") == "LINEAR"
    for groups in [
        *dataset.get("SharedFunctionalGroupsSequence", []),
        *dataset.get("PerFrameFunctionalGroupsSequence", []),
    ]:
        assert "FrameVOILUTSequence" not in groups and "PixelValueTransformationSequence" not in groups
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        colours = np.stack([apply_color_lut(frame, dataset)[..., :3] for frame in stored]).astype(float)
        deep = dataset.RedPaletteColorLookupTableDescriptor[2] == 16
        return np.floor(colours / (257 if deep else 1) + 0.5), "stored"
    if stored.ndim == 4:
        return np.floor(stored.astype(float) * 255 / (2.0**dataset.BitsStored - 1) + 0.5), "stored"
    return reference_grey(stored, dataset)


def reference_grey(stored, dataset):
    values = reference_modality_values(stored, dataset)
    valid = stored != dataset.get("PixelPaddingValue", 10**9)
    if "WindowCenter" in dataset:
        multiple = not isinstance(dataset.WindowCenter, str | float | int)
        center = float(dataset.WindowCenter[0] if multiple else dataset.WindowCenter)
        width = float(dataset.WindowWidth[0] if multiple else dataset.WindowWidth)
        grey = np.floor(np.clip((values - (center - 0.5)) / (width - 1) + 0.5, 0, 1) * 255 + 0.5)
        policy = "voi"
    if "WindowCenter" not in dataset or (grey[valid] == 255).all():
        eight = dataset.BitsAllocated == dataset.BitsStored == 8
        low, high = values[valid].min(), values[valid].max()
        grey = stored if eight else np.round(np.trunc((values - low) / (high - low) * 65535) / 257)
        policy = "stored" if eight else "full-range"
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        grey = 255 - grey
    return np.where(valid, grey, 0), policy


def check_against_the_reference(path):
    frames = frames_of(path)
    expected, policy = reference_rendering(path)
    assert [frame.policy for frame in frames] == [policy] * len(expected)
    np.testing.assert_array_equal(np.stack([frame.pixels for frame in frames]), expected)
    assert expected.max() > expected.min()
    if expected.ndim == 3:
        stored, dataset = reference_pixels(path)
        found = np.stack(list(decode_values(path.read_bytes(), path.name)))
        np.testing.assert_allclose(found, reference_modality_values(stored, dataset), rtol=1e-6)
