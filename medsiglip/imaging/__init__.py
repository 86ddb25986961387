"""Pictures in: PNG, JPEG, TIFF and DICOM files to RGB uint8, never clipped to white, never inverted.

    open_images("study/")                 every frame of every picture, as `Picture`
    resize(picture.pixels, 448, "report")     the square the encoder takes

`open` finds and reads files, `dicom` and `raster` decode them, `resize` makes them square.
"""

from .open import FileProblem, list_files, open_images, read_pictures
from .picture import ImageError, Picture
from .resize import RESIZE_POLICIES, resize

__all__ = [
    "RESIZE_POLICIES",
    "FileProblem",
    "ImageError",
    "Picture",
    "list_files",
    "open_images",
    "read_pictures",
    "resize",
]
