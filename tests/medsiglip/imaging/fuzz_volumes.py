"""NIfTI, plain and compressed: small valid files, and files whose headers lie. Source: nifti1.h."""

from __future__ import annotations

import gzip
import random
import struct
from typing import Any

import numpy as np

from tests.medsiglip.imaging.fuzz_numbers import FLOATS

_DIM, _PIXDIM = 40, 76
_FIELDS = {  # name: (offset, format)
    "sizeof_hdr": (0, "i"),
    "dim_info": (39, "B"),
    "intent_code": (68, "h"),
    "datatype": (70, "h"),
    "bitpix": (72, "h"),
    "vox_offset": (108, "f"),
    "scl_slope": (112, "f"),
    "scl_inter": (116, "f"),
    "xyzt_units": (123, "B"),
    "cal_max": (124, "f"),
    "cal_min": (128, "f"),
    "qform_code": (252, "h"),
    "sform_code": (254, "h"),
    "quatern_b": (256, "f"),
    "qoffset_x": (268, "f"),
    "srow_x": (280, "f"),
    "srow_z": (312, "f"),
    "magic": (344, "i"),
    "extension": (348, "i"),
    "extension size": (352, "i"),
}
_DATATYPES = (0, 1, 2, 4, 8, 16, 32, 64, 128, 255, 256, 512, 768, 1024, 1280, 1536, 1792, 2048, 2304, 12345)
_INTEGERS = (0, 1, -1, 2, 3, 7, 8, 16, 100, 255, 347, 349, 540, 32767, -32768)


def originals(format: str) -> list[bytes]:
    """int16 with slope and oblique axes, uint8, float32, uint16 of four dimensions, big-endian, NIfTI-2."""
    import nibabel

    rng = np.random.default_rng(13)
    short = rng.integers(-1000, 1000, (7, 6, 5)).astype(np.int16)
    oblique = np.array([[0.9, 0.1, 0, -10], [-0.1, 0.9, 0, 5], [0, 0, 2, 3], [0, 0, 0, 1]], float)
    scaled = nibabel.Nifti1Image(short, oblique)
    scaled.header.set_slope_inter(2.0, -1024.0)
    images = [
        scaled,
        nibabel.Nifti1Image(short.astype(np.uint8), np.diag([-1.0, 1, 1, 1])),
        nibabel.Nifti1Image(rng.normal(size=(4, 4, 3)).astype(np.float32), np.eye(4)),
        nibabel.Nifti1Image(np.abs(short)[:, :, :, None].astype(np.uint16), np.eye(4)),
        nibabel.Nifti1Image(short, np.eye(4), nibabel.Nifti1Header(endianness=">")),
        nibabel.Nifti2Image(short, np.eye(4)),
    ]
    files = [bytes(image.to_bytes()) for image in images]
    return [packed(file) for file in files] if format == "nifti-gz" else files


def packed(data: bytes) -> bytes:
    return gzip.compress(data, compresslevel=6, mtime=0)


def lie(rng: random.Random, original: bytes, format: str) -> tuple[str, bytes]:
    data = bytearray(gzip.decompress(original) if format == "nifti-gz" else original)
    done = [_one_lie(rng, data) for _ in range(rng.choice((1, 1, 2, 3)))]
    if format == "nifti":
        return ", ".join(done), bytes(data)
    name, file = _pack_lie(rng, bytes(data))
    return ", ".join([*done, name]), file


def _one_lie(rng: random.Random, data: bytearray) -> str:
    order = ">" if data[:2] == b"\0\0" else "<"
    if rng.random() < 0.4:
        number = rng.randrange(8)
        old = struct.unpack_from(order + "h", data, _DIM + 2 * number)[0]
        value = rng.choice((*_INTEGERS, max(-32768, min(32767, old + rng.choice((-1, 1))))))
        struct.pack_into(order + "h", data, _DIM + 2 * number, value)
        return f"dim[{number}]={value}"
    if rng.random() < 0.15:
        number, step = rng.randrange(8), rng.choice(FLOATS)
        _put_float(data, order, _PIXDIM + 4 * number, step)
        return f"pixdim[{number}]={step}"
    name = rng.choice(list(_FIELDS))
    place, form = _FIELDS[name]
    told: Any
    if form == "f":
        told = rng.choice((*FLOATS, 0.0, 348.0, 352.5, 1e6, 1e9))
        _put_float(data, order, place, told)
    else:
        told = rng.choice(_DATATYPES if name == "datatype" else _INTEGERS)
        struct.pack_into(order + form, data, place, told & 0xFF if form == "B" else told)
    return f"{name}={told}"


def _put_float(data: bytearray, order: str, place: int, value: float) -> None:
    with np.errstate(over="ignore"):
        struct.pack_into(order + "f", data, place, float(np.float32(value)))


def _pack_lie(rng: random.Random, data: bytes) -> tuple[str, bytes]:
    """The gzip wrapper: right, cut, with a wrong checksum or length, several members, rubbish or zeros behind."""
    kind = rng.choice((*["packed"] * 10, "checksum", "length", "cut", "two", "twice", "rubbish", "zeros"))
    file = packed(data)
    if kind == "checksum":
        file = file[:-8] + rng.randbytes(4) + file[-4:]
    elif kind == "length":
        file = file[:-4] + rng.randbytes(4)
    elif kind == "cut":
        file = file[:-8]
    elif kind == "two":
        file = packed(data[:400]) + packed(data[400:])
    elif kind == "twice":
        file = packed(file)
    elif kind == "rubbish":
        file += rng.randbytes(64)
    elif kind == "zeros":
        file = packed(data + bytes(4 << 20))
    return kind, file
