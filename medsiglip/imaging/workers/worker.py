"""A decoder process: files in through a pipe, pixels out, nothing else.

Decoders are C and C++ code fed with whatever a file holds. Here they may crash, hang or ask for all memory
without harm to the process that asked (see `workers`). Started as `python -m medsiglip.imaging.workers.worker`.
"""

from __future__ import annotations

import hashlib
import logging
import os
import posixpath
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from io import BufferedIOBase, BufferedReader, BufferedWriter, FileIO
from typing import TYPE_CHECKING, Any, NamedTuple

from ..dicom.header import FileContent
from ..frame import DecodedFrame, ImageError, as_rgb
from ..source import Source, read_source
from .pipe import Answer, Job, read_message, widen, write_message

if TYPE_CHECKING:
    from ..volumes.nifti import Sibling

Decode = Callable[[bytes, str, str], Iterator[DecodedFrame]]

_FIRST_BYTES = 2**20
"""What tells the formats apart, and most slices whole."""
_PATIENCE = 4
"""A worker gives up by itself, should its pool have died, after this many times the pool's own limit."""


def main(decode: Decode | None = None) -> None:
    """Serve jobs until standard input closes.

    Args:
        decode: instead of `formats.decode_bytes`, for tests that plant a decoder's faults.
    """
    jobs, answers = _private_pipes()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that reads
    _forbid_core_files()
    try:
        _import_decoders()
    except Exception as error:  # no file has been read yet: the text is about this installation
        write_message(answers, Answer("failed", f"{type(error).__name__}: {error}"))
        answers.flush()
        return
    idle_bytes = _address_space_bytes()
    try:
        write_message(answers, Answer("ready"))
        answers.flush()
        while True:
            job = read_message(jobs, Job)
            if not _serve(job, answers, idle_bytes, decode):
                return
    except (EOFError, BrokenPipeError):  # nobody asks any more
        return


def _private_pipes() -> tuple[BufferedIOBase, BufferedIOBase]:
    """Standard input and output under other numbers: what a C library prints must not mix with the answers."""
    jobs, answers = BufferedReader(FileIO(os.dup(0), "r")), BufferedWriter(FileIO(os.dup(1), "w"))
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    os.close(null)
    widen(answers)
    return jobs, answers


def _forbid_core_files() -> None:
    """A core file would hold a patient's picture and header."""
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _import_decoders() -> None:
    """Once, before the first file: their memory is no file's fault."""
    import pydicom.pixels  # noqa: F401  with its plugins
    import tifffile  # noqa: F401
    from PIL import Image

    from .. import formats, raster, resize  # noqa: F401
    from ..dicom import instance  # noqa: F401
    from ..dicom.parse import SILENT

    logging.getLogger("pydicom").setLevel(SILENT)
    Image.init()


class _Failure(NamedTuple):
    reason: str
    out_of_memory: bool = False
    is_whole: bool = True
    """Whether the worker may go on to the next file."""


def _serve(job: Job, answers: BufferedIOBase, idle_bytes: int, decode: Decode | None) -> bool:
    """Answer one job; false if the worker should not take another."""
    failure = _answer(job, answers, idle_bytes, decode)
    _give_up_after(0)
    if failure is not None:
        write_message(answers, Answer("failed", failure.reason, failure.out_of_memory, not failure.is_whole))
    answers.flush()
    return failure is None or failure.is_whole


def _answer(job: Job, answers: BufferedIOBase, idle_bytes: int, decode: Decode | None) -> _Failure | None:
    try:
        _bound_memory(None)  # reading has its own bounds
        data = _read(job)
        received_bytes = 0 if job.data is None else job.data.nbytes
        bound_bytes = idle_bytes + received_bytes + len(data) + job.memory_mib * 2**20
        _bound_memory(bound_bytes)
        _give_up_after(_PATIENCE * job.seconds)
        for number, item in enumerate(_items(job, data, _sibling_of(job, bound_bytes), decode)):
            if number > 0:  # every frame has the time anew
                _give_up_after(_PATIENCE * job.seconds)
            write_message(answers, Answer("item"))
            write_message(answers, item)
            if number > 0:  # the first and only one goes with the last word: each write wakes the other process
                answers.flush()
        # Headers and NIfTI values bring their own; hashing takes a third of a header's time.
        digest = hashlib.sha256(data).hexdigest() if job.operation == "pictures" else ""
        write_message(answers, Answer("done", digest))
    except ImageError as error:
        return _Failure(error.reason)
    except BrokenPipeError:
        raise
    except MemoryError:
        advice = "split it into smaller files or save a smaller copy"
        return _Failure(
            f"needs more than {job.memory_mib} MiB of memory to decode; {advice}", out_of_memory=True, is_whole=False
        )
    except BaseException as error:  # SystemExit, a panic in Rust, a fault of ours; the message may quote a tag's value
        reason = f"the decoder failed ({type(error).__name__}; damaged file?); copy or export the file again"
        return _Failure(reason, is_whole=False)
    return None


def _items(job: Job, data: bytes, sibling: Sibling | None, decode: Decode | None) -> Iterator[Any]:
    from ..formats import decode_bytes

    match job.operation:
        case "pictures":
            own = partial(decode_bytes, select=job.select, sibling=sibling)
            for frame in (decode or own)(data, job.name, job.policy):
                yield frame if job.square is None else _squared(frame, *job.square, job.name)
        case "content":
            yield _content(data, job.name)
        case "header":
            from ..dicom.instance import read_header

            yield read_header(data, job.name)
        case "values":
            from ..dicom.instance import decode_values

            yield from decode_values(data, job.name)
        case "volume":
            from ..volumes.volume_files import decode_volume_file

            yield decode_volume_file(data, job.name, job.select, sibling)


def _content(data: bytes, name: str) -> FileContent:
    from ..dicom.instance import read_header
    from ..formats import format_of
    from ..volumes.volume_files import is_colour_volume_file

    form = format_of(data)
    if form == "volume":
        return FileContent(form, None, is_grey_volume=not is_colour_volume_file(data))
    try:
        return FileContent(form, read_header(data, name) if form in ("dicom", "unknown") else None)
    except ImageError:  # said when its pixels are asked for
        return FileContent(form, None)


def _may_be_dicom(data: bytes) -> bool:
    from ..formats import format_of

    return format_of(data) in ("dicom", "unknown")


def _squared(frame: DecodedFrame, size_px: int, policy: str, name: str) -> DecodedFrame:
    """Resize here, beside the decoder; a grey frame stays one plane."""
    from ..resize import resize

    try:
        square = resize(as_rgb(frame.pixels), size_px, policy)
    except ImageError:
        raise
    except ValueError as error:
        raise ImageError(name, str(error)) from None
    return frame._replace(pixels=square[:, :, 0] if frame.pixels.ndim == 2 else square)


def _read(job: Job) -> bytes:
    if job.data is not None:
        return job.data.tobytes()
    try:
        source = Source(job.path, job.member)
        if job.operation == "content":
            first = read_source(source, _FIRST_BYTES)
            if len(first) < _FIRST_BYTES or not _may_be_dicom(first):
                return first
        return read_source(source)
    except ImageError as error:
        raise ImageError(job.name, error.reason) from None


def _sibling_of(job: Job, bound_bytes: int) -> Sibling | None:
    """Reads another file of the same folder or archive; None for a file in memory."""
    if job.data is not None:
        return None

    def read(name: str) -> bytes:
        if job.member is not None:
            source = Source(job.path, posixpath.join(posixpath.dirname(job.member), name))
        else:
            source = Source(os.path.join(os.path.dirname(job.path), name))
        _bound_memory(None)
        data = read_source(source)
        _bound_memory(bound_bytes + len(data))
        return data

    return read


def _give_up_after(seconds: float) -> None:
    """Have the system end this process, even while a decoder holds the interpreter's lock; 0 takes it back."""
    if sys.platform != "win32":
        signal.setitimer(signal.ITIMER_REAL, seconds)  # SIGALRM without a handler ends a process


def _address_space_bytes() -> int:
    """What this process has mapped; 0 where the system does not say."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _bound_memory(num_bytes: int | None) -> None:
    """Let every allocation above the bound fail; only Linux both counts and enforces address space."""
    if sys.platform == "linux":
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_AS)
        bound = most if num_bytes is None else num_bytes if most == resource.RLIM_INFINITY else min(num_bytes, most)
        resource.setrlimit(resource.RLIMIT_AS, (bound, most))


if __name__ == "__main__":
    main()
