"""What a file would cost, before anything is decoded: pixels by its header, bytes by unpacking into nothing."""

import io
import zlib
from dataclasses import dataclass
from typing import IO

from medsiglip.imaging import ImageError, Source, shared_pool
from medsiglip.imaging.listing import list_archive
from medsiglip.imaging.source import read_source
from medsiglip.imaging.zips import is_zip, open_zip

FREE_BYTES = 64 * 2**20
"""Below this nothing is called a bomb."""
MAX_RATIO = 100
"""Unpacked to packed, above `FREE_BYTES`."""
_PIECE_BYTES = 2**16
_GZIP, _DICM = b"\x1f\x8b", b"DICM"
_DEFLATED = b"1.2.840.10008.1.2.1.99"
"""Transfer syntax of a data set that is compressed whole (DICOM PS3.5 A.5)."""


@dataclass
class PixelBudget:
    """Pixels and unpacked bytes that a request may still bring; call `check` for each of its files."""

    pixels: int
    unpacked_bytes: int

    def check(self, data: bytes) -> None:
        """Take one file's cost.

        Raises:
            ValueError: the request brings too much, or the file is a decompression bomb.
        """
        if is_zip(data):
            self._check_zip(data)
            return
        if data[:2] == _GZIP:
            self._unpack(zlib.decompressobj(31), data, len(data))
        elif data[128:132] == _DICM and _DEFLATED in data[:512]:
            self._check_deflated(data)
        self.pixels -= _num_pixels(data)
        if self.pixels < 0:
            raise ValueError("more pixels than a request may bring; send fewer or smaller pictures")

    def _check_zip(self, data: bytes) -> None:
        with open_zip(io.BytesIO(data), "") as archive:
            claimed = sum(info.file_size for info in archive.infolist())
        self._take(claimed, len(data))
        for member in list_archive(data).files:
            try:
                content = read_source(member)
            except ImageError:
                continue  # told where it is opened
            if not is_zip(content):
                self.check(content)

    def _check_deflated(self, data: bytes) -> None:
        place = 132 + 12 + int.from_bytes(data[140:144], "little")  # the meta group says how long it is
        self._unpack(zlib.decompressobj(-zlib.MAX_WBITS), data[place:], len(data))

    def _unpack(self, inflater: "zlib._Decompress", data: bytes, packed: int) -> None:
        """Count what comes out, in the memory of one piece."""
        stream, count = _Stream(io.BytesIO(data), inflater), 0
        while size := stream.next_size():
            count += size
            self._refuse_bomb(count, packed)
        self._take(count, packed)

    def _take(self, unpacked: int, packed: int) -> None:
        self._refuse_bomb(unpacked, packed)
        self.unpacked_bytes -= unpacked

    def _refuse_bomb(self, unpacked: int, packed: int) -> None:
        if unpacked > self.unpacked_bytes or unpacked > max(FREE_BYTES, MAX_RATIO * packed):
            raise ValueError(
                "a compressed file that unpacks to more than a request may bring; send it unpacked, or less"
            )


@dataclass
class _Stream:
    file: IO[bytes]
    inflater: "zlib._Decompress"

    def next_size(self) -> int:
        """Bytes of the next piece that comes out; 0 at the end, and where the data is damaged."""
        while not self.inflater.eof:
            data = self.inflater.unconsumed_tail or self.file.read(_PIECE_BYTES)
            try:
                size = len(self.inflater.decompress(data, _PIECE_BYTES))
            except zlib.error:
                return 0  # told where it is opened
            if size or not data:
                return size
        return 0


def _num_pixels(data: bytes) -> int:
    """Of all frames, by the header; 0 for what is none of the known kinds, which is told where it is opened."""
    if data[128:132] == _DICM:
        [content] = shared_pool().contents([Source("", data=data)])
        header = None if isinstance(content, ImageError) else content.header
        return 0 if header is None else header.rows * header.columns * header.num_frames
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "JPEG2000", "TIFF", "BMP", "WEBP", "GIF")) as image:
            return image.width * image.height * int(getattr(image, "n_frames", 1))
    except Exception:  # PIL raises many kinds; the decoder says what is wrong
        return 0
