"""Pictures in: DICOM, CT and MR series, NIfTI, PNG, JPEG and TIFF to right pixels; never clipped, never inverted.

    open_images("study/")                     pictures, and one `Volume` a CT, MR or PET series
    resize(picture.pixels, 448, "report")     the square the encoder takes

`listing` and `zips` find files, `workers` decodes them in child processes, `dicom`, `raster` and `volumes` know the
formats and the third dimension, `resize` the square.
"""

from .frame import Finding, ImageError, Notes, Plane, TechnicalTags
from .listing import FileProblem, list_files
from .open import open_images, open_pictures, open_series, read_pictures
from .picture import Picture, Square
from .resize import RESIZE_POLICIES, resize
from .source import Source
from .volumes.presets import CT_WINDOWS, ct_rgb, sample_slices
from .volumes.read_series import read_volume, series_pictures
from .volumes.series import Series
from .volumes.volume import Volume
from .workers.pool import DecoderPool, shared_pool
from .workers.process import Limits

__all__ = [
    "CT_WINDOWS",
    "RESIZE_POLICIES",
    "DecoderPool",
    "FileProblem",
    "Finding",
    "ImageError",
    "Limits",
    "Notes",
    "Picture",
    "Plane",
    "Series",
    "Source",
    "Square",
    "TechnicalTags",
    "Volume",
    "ct_rgb",
    "list_files",
    "open_images",
    "open_pictures",
    "open_series",
    "read_pictures",
    "read_volume",
    "resize",
    "sample_slices",
    "series_pictures",
    "shared_pool",
]
