"""Video is not read here: which files are one, and how their frames become pictures that are."""

from __future__ import annotations

_FRAMES = "ffmpeg -i {} frame_%04d.png"


def video_reason(data: bytes) -> str:
    """Why a video file is not read and what to do; "" for other files, by their first bytes."""
    name = _container(data)
    how = f"make pictures of its frames, for example with `{_FRAMES.format('FILE')}`"
    return f"a video ({name}), which is not read here; {how}" if name else ""


def dicom_video_reason(syntax_name: str) -> str:
    """The same for a DICOM instance whose pixel data is one video stream."""
    out = "take it out with `dcmdump +W . +P 7fe0,0010 FILE` (of dcmtk)"
    frames = f"make pictures of its frames with `{_FRAMES.format('FILE.1.raw')}`"
    return f"a video ({syntax_name}), which is not read here; {out}, and {frames}"


def _container(data: bytes) -> str:
    if data[4:8] == b"ftyp" and data[8:11] not in (b"hei", b"mif", b"avi", b"jp2"):  # pictures in the same boxes
        return "MP4 or QuickTime"
    if data[:4] == b"RIFF" and data[8:12] == b"AVI ":
        return "AVI"
    if data[:4] == b"\x1a\x45\xdf\xa3":
        return "Matroska or WebM"
    if data[:4] in (b"\x00\x00\x01\xba", b"\x00\x00\x01\xb3"):
        return "MPEG"
    return "Windows Media" if data[:4] == b"\x30\x26\xb2\x75" else ""
