"""DICOM instances made in memory, and their frames as `decode_dicom` gives them."""

import io

import numpy as np
from pydicom import Dataset, Sequence, dcmread, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid

from medsiglip.imaging.dicom.instance import decode_dicom

NAME = "Zebedee^Quimby"


def dicom_bytes(stored, syntax=ExplicitVRLittleEndian, *, preamble=True, **attributes):
    """One instance of (H, W) stored values, (F, H, W) with NumberOfFrames, (H, W, 3) with SamplesPerPixel."""
    stored = np.asarray(stored)
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", generate_uid()
    dataset.PatientName, dataset.PatientID, dataset.Modality = NAME, "MRN-31337", "CT"
    dataset.PhotometricInterpretation, dataset.SamplesPerPixel = "MONOCHROME2", 1
    frames = int(attributes.get("NumberOfFrames", 1))
    dataset.Rows, dataset.Columns = stored.shape[1:3] if frames > 1 else stored.shape[:2]
    bits = stored.dtype.itemsize * 8
    dataset.BitsAllocated = dataset.BitsStored = bits
    dataset.PixelRepresentation = int(np.issubdtype(stored.dtype, np.signedinteger))
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    dataset.PixelData = stored.astype(stored.dtype.newbyteorder(order)).tobytes()
    dataset["PixelData"].VR = "OB" if bits == 8 else "OW"
    for keyword, value in attributes.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    if "HighBit" not in attributes:
        dataset.HighBit = dataset.BitsStored - 1
    return written(dataset, syntax, preamble=preamble)


def written(dataset, syntax=ExplicitVRLittleEndian, *, preamble=True):
    """The bytes of a data set."""
    buffer = io.BytesIO()
    if preamble:
        dcmwrite(buffer, dataset, enforce_file_format=True)
    else:
        dataset.file_meta = FileMetaDataset()
        little, implicit = syntax != ExplicitVRBigEndian, syntax == ImplicitVRLittleEndian
        dcmwrite(buffer, dataset, little_endian=little, implicit_vr=implicit)
    return buffer.getvalue()


def changed(data, change):
    """The bytes after `change(dataset)`."""
    dataset = dcmread(io.BytesIO(data))
    change(dataset)
    buffer = io.BytesIO()
    dcmwrite(buffer, dataset)
    return buffer.getvalue()


def decode(data, policy="voi"):
    """All frames."""
    return list(decode_dicom(data, policy, "scan.dcm"))


def read(stored, policy="voi", **attributes):
    """All frames of a file made of stored values."""
    return decode(dicom_bytes(stored, **attributes), policy)


def grey(stored, policy="voi", **attributes):
    """The rows of a single grey frame."""
    (frame,) = read(stored, policy, **attributes)
    assert frame.pixels.dtype == np.uint8 and frame.pixels.ndim == 2
    return frame.pixels.tolist()


def lut(first, entries, bits):
    """A sequence of one LUT item."""
    item = Dataset()
    item.LUTDescriptor = [len(entries) % 65536, first, bits]
    item.add_new("LUTData", "US", list(entries))
    return Sequence([item])


def palette(bits, red, green, blue, first=0):
    """The attributes of a PALETTE COLOR picture."""
    width = "<u2" if bits == 16 else "u1"
    attributes = {"PhotometricInterpretation": "PALETTE COLOR"}
    for colour, entries in (("Red", red), ("Green", green), ("Blue", blue)):
        attributes[f"{colour}PaletteColorLookupTableDescriptor"] = [len(entries), first, bits]
        attributes[f"{colour}PaletteColorLookupTableData"] = np.array(entries, width).tobytes()
    return attributes


def group(**macros):
    """One functional group: keyword of a macro's sequence to the attributes of its item."""
    item = Dataset()
    for keyword, attributes in macros.items():
        macro = Dataset()
        for name, value in attributes.items():
            setattr(macro, name, value)
        setattr(item, keyword, Sequence([macro]))
    return item
