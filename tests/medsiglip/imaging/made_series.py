"""Made-up series for tests: headers without files, and files written with pydicom."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from medsiglip.imaging.dicom.header import InstanceHeader
from medsiglip.imaging.dicom.instance import decode_dicom, decode_values, read_header
from medsiglip.imaging.dicom.lut import Voi, Window
from medsiglip.imaging.frame import ImageError, Plane, TechnicalTags, as_rgb
from medsiglip.imaging.picture import Picture
from medsiglip.imaging.source import Source, read_source

CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
NAME = "Zebedee^Quimby"


def made_header(position=(0.0, 0.0, 0.0), orientation=AXIAL, *, tags=None, **fields):
    """The header of one CT slice; every slice has an instance UID of its own."""
    plane = None if position is None else Plane(tuple(position), tuple(orientation[:3]), tuple(orientation[3:]))
    of_tags = TechnicalTags("CT", spacing_mm=(0.5, 0.5), slice_thickness_mm=1.0, plane=plane)
    of_tags = replace(of_tags, photometric_interpretation="MONOCHROME2")
    uid = generate_uid()
    header = InstanceHeader(
        tags=replace(of_tags, **(tags or {})),
        sop_class_uid=CT_IMAGE_STORAGE,
        series_uid="1.2.3",
        instance_uid=uid,
        frame_of_reference_uid="1.2.4",
        acquisition_number=1,
        instance_number=None,
        image_type=("ORIGINAL", "PRIMARY", "AXIAL"),
        rows=4,
        columns=5,
        num_frames=1,
        samples_per_pixel=1,
        bits_stored=16,
        pixel_representation=1,
        rescale_slope=1.0,
        rescale_intercept=-1024.0,
        rescale_type="HU",
        padding=None,
        gantry_tilt_deg=None,
        frame_planes=(),
        frame_moments=(),
        vois=(Voi(Window(40.0, 400.0, "LINEAR")),),
        echo_number=None,
        temporal_position=None,
        diffusion_b_value=None,
        sha256=f"digest of {uid}",
    )
    inverted = header.tags.photometric_interpretation == "MONOCHROME1"
    return replace(header, **{"inverted": inverted, **fields})


def named(headers, folder="scan"):
    """Each header with a file of its own."""
    return [(Source(f"{folder}/{number:03d}.dcm"), header) for number, header in enumerate(headers)]


def ct_file(stored, position, orientation=AXIAL, *, spacing=(0.5, 0.5), thickness=1.0, uids=("1.2.3", "1.2.4"), **tags):
    """The bytes of one CT slice of (H, W) int16 stored values; HU are 1024 less."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = CT_IMAGE_STORAGE, generate_uid()
    dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = uids
    dataset.StudyInstanceUID = "1.2.5"
    dataset.PatientName, dataset.PatientID, dataset.Modality = NAME, "MRN-31337", "CT"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.ImagePositionPatient = [round(float(value), 6) for value in position]
    dataset.ImageOrientationPatient = [round(float(value), 8) for value in orientation]
    dataset.PixelSpacing, dataset.SliceThickness = list(spacing), thickness
    dataset.PhotometricInterpretation, dataset.SamplesPerPixel = "MONOCHROME2", 1
    dataset.Rows, dataset.Columns = stored.shape
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 1
    dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = 1, -1024, "HU"
    dataset.WindowCenter, dataset.WindowWidth = 40, 400
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    dataset.PixelData = stored.astype("<i2").tobytes()
    dataset["PixelData"].VR = "OW"
    buffer = io.BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def write_series(folder: Path, voxels_hu, affine, *, seed=0, skip=(), **tags):
    """Write (S, H, W) HU at an affine as files whose names and Instance Numbers are shuffled; returns their paths."""
    random = np.random.default_rng(seed)
    names, numbers = random.permutation(len(voxels_hu)), random.permutation(len(voxels_hu))
    spacing = np.linalg.norm(affine[:3, 1:3], axis=0)
    orientation = (*(affine[:3, 2] / spacing[1]), *(affine[:3, 1] / spacing[0]))
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index, values in enumerate(voxels_hu):
        if index in skip:
            continue
        position = (affine @ [index, 0, 0, 1])[:3]
        data = ct_file(
            values + 1024,
            position,
            orientation,
            spacing=[round(float(value), 6) for value in spacing],
            InstanceNumber=int(numbers[index]) + 1,
            **tags,
        )
        paths.append(folder / f"{names[index]:04d}.dcm")
        paths[-1].write_bytes(data)
    return paths


class InProcessPool:
    """What a `DecoderPool` does, without processes; remembers which files it has decoded."""

    def __init__(self):
        self.decoded = []

    def headers(self, sources):
        for source in sources:
            yield self._try(source, read_header)

    def values(self, sources):
        for source in sources:
            yield self._try(source, lambda data, file: list(decode_values(data, file)))

    def pictures(self, sources, policy="voi", *, square=None, select=()):
        from medsiglip.imaging.resize import resize

        def pixels(frame):
            rgb = as_rgb(frame.pixels)
            return rgb if square is None else resize(rgb, *square)

        for source in sources:
            frames = self._try(source, lambda data, file: list(decode_dicom(data, policy, file)))
            if isinstance(frames, list):
                frames = [
                    Picture(pixels(frame), source.name, number, "0" * 64, frame.policy, frame.tags, square)
                    for number, frame in enumerate(frames)
                ]
            yield frames

    def _try(self, source, decode):
        self.decoded.append(source.name)
        try:
            return decode(read_source(source), source.name)
        except ImageError as error:
            return error


def headers_of(paths, pool=None):
    sources = [Source(str(path)) for path in paths]
    return list(zip(sources, (pool or InProcessPool()).headers(sources), strict=True))
