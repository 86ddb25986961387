"""Zip archives of pictures: valid ones, and ones whose directories lie. Source: APPNOTE.TXT 4.3."""

from __future__ import annotations

import io
import random
import struct
import zipfile

from tests.medsiglip.imaging import fuzz_dicom, fuzz_raster
from tests.medsiglip.imaging.fuzz_numbers import UNSIGNED_16, UNSIGNED_32

_LOCAL = {  # field: (offset, format)
    "version": (4, "<H"),
    "flags": (6, "<H"),
    "method": (8, "<H"),
    "crc": (14, "<I"),
    "packed size": (18, "<I"),
    "size": (22, "<I"),
    "name length": (26, "<H"),
    "extra length": (28, "<H"),
}
_CENTRAL = {
    "version": (6, "<H"),
    "flags": (8, "<H"),
    "method": (10, "<H"),
    "crc": (16, "<I"),
    "packed size": (20, "<I"),
    "size": (24, "<I"),
    "name length": (28, "<H"),
    "extra length": (30, "<H"),
    "comment length": (32, "<H"),
    "attributes": (38, "<I"),
    "local offset": (42, "<I"),
}
_END = {
    "members here": (8, "<H"),
    "members": (10, "<H"),
    "directory size": (12, "<I"),
    "directory offset": (16, "<I"),
    "comment": (20, "<H"),
}
_SIGNATURES = {b"PK\3\4": _LOCAL, b"PK\1\2": _CENTRAL, b"PK\5\6": _END}


def originals(format: str) -> list[bytes]:
    """Pictures and DICOM, stored and deflated, in folders."""
    png, dicom = _members()
    return [
        archive([("a.png", png), ("b/c.dcm", dicom)]),
        archive([("IM0001", dicom), ("IM0002", dicom), ("readme.txt", b"hello")], zipfile.ZIP_STORED),
    ]


def _members() -> tuple[bytes, bytes]:
    parts = fuzz_dicom.originals("dicom-explicit")[0]
    return fuzz_raster.originals("png")[1], fuzz_dicom.assemble(parts)


def archive(members: list[tuple[str, bytes]], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """With fixed dates, so that the same members give the same bytes; names may come twice."""
    import warnings

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, data in members:
            file.writestr(zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0)), data, compress_type=method)
    return buffer.getvalue()


def lie(rng: random.Random) -> tuple[str, bytes]:
    kind = rng.choice(("field", "field", "field", "field", "names", "nested", "many", "zeros", "method", "overlap"))
    if kind == "field":
        return _field_lie(rng, rng.choice(originals("zip")))
    png, dicom = _members()
    if kind == "names":
        return kind, archive([(rng.choice(_NAMES), rng.choice((png, dicom))) for _ in range(rng.choice((1, 3)))])
    if kind == "nested":
        data = archive([("a.png", png)])
        for _ in range(depth := rng.choice((1, 2, 30))):
            data = archive([("inner.zip", data), ("inner", data)][: rng.choice((1, 2)) if depth < 3 else 1])
        return f"nested {depth}", data
    if kind == "many":
        return kind, archive([(f"{number}.png", b"" if number else png) for number in range(rng.choice((300, 3000)))])
    if kind == "zeros":
        return kind, archive([("zeros.dcm", bytes(16 << 20)), ("a.png", png)])
    if kind == "method":
        method = rng.choice((zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
        return f"method {method}", archive([("a.png", png)], method)
    return kind, _overlapping(png)


# fmt: off
_NAMES = (
    "../up.png", "../../../../etc/passwd", "/absolute.png", "C:\\windows.png", "a//b.png", "folder/", ".hidden.png",
    "a\nb.png", "a\x1b[31mb.png", "ü.png", "x" * 5000 + ".png", "__MACOSX/._a.png",
    "same.png", "same.png", " ", "-", "@list", "*.png",
)
# fmt: on


def _field_lie(rng: random.Random, data: bytes) -> tuple[str, bytes]:
    done = []
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        signature = rng.choice(list(_SIGNATURES))
        places = [place for place in range(len(data)) if data[place : place + 4] == signature]
        name = rng.choice(list(_SIGNATURES[signature]))
        offset, form = _SIGNATURES[signature][name]
        limit = 256 ** struct.calcsize(form) - 1
        value = rng.choice((*UNSIGNED_32, *UNSIGNED_16, len(data), *((1, 9, 2049) if name == "flags" else ()))) & limit
        struct.pack_into(form, changed, rng.choice(places) + offset, value)
        done.append(f"{signature[2:].hex()} {name}={value}")
    return ", ".join(done), bytes(changed)


def _overlapping(content: bytes) -> bytes:
    """A directory of 200 names that all lead to the first member's bytes, as in a bomb without nesting."""
    data = archive([("a.png", content)])
    start = data.index(b"PK\1\2")
    end = data.index(b"PK\5\6")
    entry = data[start:end]
    entries = entry * 200
    tail = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 200, 200, len(entries), start, 0)
    return data[:start] + entries + tail
