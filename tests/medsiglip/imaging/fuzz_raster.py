"""PNG, JPEG, BMP, GIF and WebP: small valid files, and files whose headers lie with checksums that are right."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from tests.medsiglip.imaging.fuzz_codestreams import lie_in_codestream
from tests.medsiglip.imaging.fuzz_numbers import UNSIGNED_16, UNSIGNED_32

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


def originals(format: str) -> list[bytes]:
    from PIL import Image

    rng = np.random.default_rng(11)
    grey = Image.fromarray(rng.integers(0, 256, (16, 18)).astype(np.uint8))
    rgb = Image.fromarray(rng.integers(0, 256, (16, 18, 3)).astype(np.uint8))
    rgba = Image.fromarray(rng.integers(0, 256, (16, 18, 4)).astype(np.uint8))
    deep = rng.integers(0, 65536, (9, 8, 3)).astype(np.uint16)
    palette = rgb.convert("P", palette=Image.Palette.ADAPTIVE)
    exif = Image.Exif()
    exif[0x0112] = 6
    animated: dict[str, Any] = {"save_all": True, "append_images": [palette, rgb]}
    pictures: dict[str, list[bytes]] = {
        "png": [
            saved(grey, "PNG"),
            saved(rgb, "PNG", exif=exif),
            saved(rgba, "PNG"),
            saved(palette, "PNG", transparency=3),
            saved(grey.convert("1"), "PNG"),
            saved(Image.fromarray(deep[:, :, 0]), "PNG"),
            png(deep.astype(">u2"), 16, 2),
            png(deep[:, :, :2].astype(">u2"), 16, 4),
            saved(rgb, "PNG", save_all=True, append_images=[rgb, rgb]),
        ],
        "jpeg": [
            saved(rgb, "JPEG"),
            saved(grey, "JPEG"),
            saved(rgb, "JPEG", progressive=True, exif=exif),
            saved(rgb.convert("CMYK"), "JPEG", subsampling=2),
        ],
        "bmp": [
            saved(rgb, "BMP"),
            saved(grey, "BMP"),
            saved(palette, "BMP"),
            saved(rgba, "BMP"),
            saved(grey.convert("1"), "BMP"),
        ],
        "gif": [saved(palette, "GIF"), saved(palette, "GIF", transparency=3), saved(palette, "GIF", **animated)],
        "webp": [
            saved(rgb, "WEBP"),
            saved(rgba, "WEBP", lossless=True),
            saved(rgb, "WEBP", exif=exif),
            saved(rgb, "WEBP", **animated),
        ],
    }
    return pictures[format]


def saved(image: Any, suffix: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, suffix, **options)
    return buffer.getvalue()


def lie(rng: random.Random, original: bytes, format: str) -> tuple[str, bytes]:
    data, done = original, []
    for _ in range(rng.choice((1, 1, 2, 3))):
        name, data = _LIES[format](rng, data)
        done.append(name)
    return ", ".join(done), data


# PNG. Source: W3C PNG, third edition, 5.3 and 11


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(samples: Any, bits: int, colour_type: int, size: tuple[int, int] | None = None) -> bytes:
    """A PNG of (H, W, S) samples; `size` is the (width, height) that its header claims instead."""
    height, width = samples.shape[:2]
    rows = b"".join(b"\0" + row.tobytes() for row in samples)
    head = struct.pack(">IIBBBBB", *(size or (width, height)), bits, colour_type, 0, 0, 0)
    return PNG_MAGIC + png_chunk(b"IHDR", head) + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")


def png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    chunks, place = [], 8
    while place + 8 <= len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        chunks.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + length]))
        place += 12 + length
    return chunks


def _png_lie(rng: random.Random, data: bytes) -> tuple[str, bytes]:
    chunks = png_chunks(data)
    if not chunks:
        return "no chunks left", data
    kind = rng.choice(("IHDR", "IHDR", "IHDR", "IHDR", "zlib", "extra", "extra", "order", "length", "crc"))
    if kind == "length":
        number = rng.randrange(len(chunks))
        place = 8 + sum(12 + len(content) for _, content in chunks[:number])
        return f"length of chunk {number}", data[:place] + struct.pack(">I", rng.choice(UNSIGNED_32)) + data[
            place + 4 :
        ]
    if kind == "crc":
        return "wrong checksum", data[:-20] + rng.randbytes(4) + data[-16:]
    if kind == "IHDR":
        name, chunks[0] = _header_lie(rng, chunks[0])
    elif kind == "zlib":
        name = _zlib_lie(rng, chunks)
    elif kind == "extra":
        name = _extra_chunk(rng, chunks)
    else:
        name = "chunks in another order"
        rng.shuffle(chunks)
    return name, PNG_MAGIC + b"".join(png_chunk(kind, content) for kind, content in chunks)


def _header_lie(rng: random.Random, header: tuple[bytes, bytes]) -> tuple[str, tuple[bytes, bytes]]:
    content = bytearray(header[1].ljust(13, b"\0"))
    field = rng.choice(("width", "height", "bits", "colour type", "compression", "filter", "interlace"))
    place = ("width", "height", "bits", "colour type", "compression", "filter", "interlace").index(field)
    if place < 2:
        value = rng.choice((*UNSIGNED_32, 17, 18, 19, 5000, 20_000))
        struct.pack_into(">I", content, 4 * place, value)
    else:
        content[6 + place] = value = rng.choice((0, 1, 2, 3, 4, 5, 6, 7, 8, 16, 32, 255))
    return f"IHDR {field}={value}", (header[0], bytes(content))


def _zlib_lie(rng: random.Random, chunks: list[tuple[bytes, bytes]]) -> str:
    """Pixels that are too few, too many by megabytes, or no zlib stream."""
    kind = rng.choice(("short", "bomb", "not zlib", "split", "filter"))
    content = b"".join(content for name, content in chunks if name == b"IDAT")
    try:
        raw = zlib.decompressobj().decompress(content, 1 << 20)
    except zlib.error:
        raw = b""
    new = [content]
    if kind == "short":
        new = [zlib.compress(raw[: len(raw) // 2])]
    elif kind == "bomb":
        new = [zlib.compress(raw + bytes(8 << 20))]
    elif kind == "not zlib":
        new = [rng.randbytes(100)]
    elif kind == "split":
        new = [content[i : i + 1] for i in range(len(content))]
    elif kind == "filter":
        new = [zlib.compress(bytes([rng.choice((5, 200, 255))]) + raw[1:])]
    others = [chunk for chunk in chunks if chunk[0] != b"IDAT"]
    chunks[:] = [*others[:-1], *((b"IDAT", part) for part in new), *others[-1:]]
    return f"IDAT {kind}"


def _extra_chunk(rng: random.Random, chunks: list[tuple[bytes, bytes]]) -> str:
    bomb = _packed_zeros()
    kind, content = rng.choice(
        (
            (b"tRNS", rng.randbytes(rng.choice((0, 1, 2, 6, 256, 257, 1000)))),
            (b"PLTE", rng.randbytes(rng.choice((0, 1, 3, 767, 768, 771)))),
            (b"iCCP", b"name\0\0" + bomb),
            (b"zTXt", b"key\0\0" + bomb),
            (b"iTXt", b"key\0\1\0\0\0" + bomb),
            (b"tEXt", rng.randbytes(64)),
            (b"eXIf", b"MM\0*\0\0\0\x08\0\1\x01\x12\0\3\0\0\0\1" + struct.pack(">HHI", rng.choice(UNSIGNED_16), 0, 0)),
            (b"eXIf", rng.randbytes(64)),
            (b"acTL", struct.pack(">II", rng.choice(UNSIGNED_32), rng.choice(UNSIGNED_32))),
            (
                b"fcTL",
                struct.pack(">IIIIIHHBB", 0, *rng.choices(UNSIGNED_32, k=4), 0, 0, rng.randrange(4), rng.randrange(3)),
            ),
            (b"fdAT", rng.randbytes(20)),
            (b"gAMA", rng.randbytes(rng.choice((0, 3, 4)))),
            (b"pHYs", rng.randbytes(rng.choice((0, 8, 9)))),
            (b"IHDR", struct.pack(">IIBBBBB", 5000, 5000, 8, 2, 0, 0, 0)),
            (b"IEND", b""),
            (b"QQQQ", rng.randbytes(10)),
        )
    )
    chunks.insert(rng.choice((1, 1, rng.randrange(len(chunks) + 1))), (kind, content))
    return f"extra {kind.decode()} of {len(content)} bytes"


@cache
def _packed_zeros() -> bytes:
    return zlib.compress(bytes(8 << 20))


# JPEG


def _jpeg_lie(rng: random.Random, data: bytes) -> tuple[str, bytes]:
    if rng.random() < 0.2:
        exif = (
            b"Exif\0\0"
            + rng.choice((b"MM\0*\0\0\0\x08", b"II*\0\x08\0\0\0", b"MM\0*\xff\xff\xff\xff"))
            + rng.randbytes(40)
        )
        marker = rng.choice((b"\xff\xe1", b"\xff\xe2ICC_PROFILE\0", b"\xff\xee", b"\xff\xe0", b"\xff\xed"))
        return "extra segment", data[:2] + marker[:2] + struct.pack(">H", 2 + len(exif)) + exif + data[2:]
    told, data = lie_in_codestream(rng, data)
    return told.name, data


# BMP, GIF and WebP: fields at fixed places


def _field_lie(rng: random.Random, data: bytes, fields: dict[str, tuple[int, str]]) -> tuple[str, bytes]:
    name = rng.choice(list(fields))
    place, form = fields[name]
    size = struct.calcsize(form)
    value = rng.choice((*UNSIGNED_32, *UNSIGNED_16, len(data))) & (256**size - 1)
    if place + size > len(data):
        return f"no {name} left", data
    return f"{name}={value}", data[:place] + value.to_bytes(size, "little") + data[place + size :]


_BMP_FIELDS = {
    "file size": (2, "<I"),
    "pixel offset": (10, "<I"),
    "header size": (14, "<I"),
    "width": (18, "<I"),
    "height": (22, "<I"),
    "planes": (26, "<H"),
    "bits": (28, "<H"),
    "compression": (30, "<I"),
    "image size": (34, "<I"),
    "colours": (46, "<I"),
    "important colours": (50, "<I"),
}


def _bmp_lie(rng: random.Random, data: bytes) -> tuple[str, bytes]:
    return _field_lie(rng, data, _BMP_FIELDS)


def _gif_lie(rng: random.Random, data: bytes) -> tuple[str, bytes]:
    """The screen, or a frame: its place and size, palette flags, LZW code size, block lengths."""
    fields = {"screen width": (6, "<H"), "screen height": (8, "<H"), "flags": (10, "<B"), "background": (11, "<B")}
    places = [place for place in range(13, len(data)) if data[place] == 0x2C]
    if places and rng.random() < 0.6:
        start = places[0]
        names = (("left", 1, "<H"), ("top", 3, "<H"), ("width", 5, "<H"), ("height", 7, "<H"))
        fields = {name: (start + offset, form) for name, offset, form in (*names, ("flags", 9, "<B"))}
        fields |= {"code size": (start + 10, "<B"), "block length": (start + 11, "<B")}
    name, changed = _field_lie(rng, data, fields)
    if places and len(data) < 10_000 and rng.random() < 0.1:
        return "frames x300", data[:-1] + data[places[0] : -1] * 300 + b";"
    return name, changed


def _webp_lie(rng: random.Random, data: bytes) -> tuple[str, bytes]:
    """RIFF and chunk lengths, the size in VP8, VP8L and VP8X headers, animation frames."""
    fields = {"RIFF length": (4, "<I"), "first chunk length": (16, "<I"), "flags": (20, "<B")}
    for kind, offset in ((b"VP8 ", 14), (b"VP8L", 9), (b"VP8X", 12), (b"ANMF", 8), (b"ANMF", 14)):
        place = data.find(kind)
        if place > 0:
            fields |= {f"{kind.decode()} size": (place + offset, "<I"), f"{kind.decode()} length": (place + 4, "<I")}
    return _field_lie(rng, data, fields)


_LIES: dict[str, Callable[[random.Random, bytes], tuple[str, bytes]]] = {
    "png": _png_lie,
    "jpeg": _jpeg_lie,
    "bmp": _bmp_lie,
    "gif": _gif_lie,
    "webp": _webp_lie,
}
