"""A worker process whose decoder does what a file's first word says: the faults that C decoders have."""

import atexit
import ctypes
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

from medsiglip.imaging.formats import decode_bytes
from medsiglip.imaging.frame import DecodedFrame, ImageError
from medsiglip.imaging.workers.worker import main

seen = []


class Panic(BaseException):
    """What a panic in a Rust decoder is in Python."""


def decode(data, file, policy):
    word, _, rest = data[:500].partition(b" ")
    seen.append(word)
    if word == b"grey":
        yield frame(int(rest))
    elif word == b"number-of-files-before":
        yield frame(len(seen) - 1)
    elif word == b"segfault":
        ctypes.string_at(0)
    elif word == b"segfault-unless-first":
        if len(seen) > 1:
            ctypes.string_at(0)
        yield frame(42)
    elif word == b"memory-unless-first":
        if len(seen) > 1:
            raise MemoryError
        yield frame(43)
    elif word == b"memory-and-linger":  # as where the machine is busy and the end of a process takes long
        atexit.register(time.sleep, 2)
        raise MemoryError
    elif word == b"abort":
        os.abort()
    elif word == b"hang":
        if rest:  # say that it has begun
            Path(rest.decode()).touch()
        signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))
        while True:
            pass
    elif word == b"hang-in-c":  # PyDLL keeps the interpreter's lock
        if rest:
            Path(rest.decode()).touch()
        ctypes.PyDLL(None).sleep(1000)
    elif word == b"frames-for-ever":
        while True:
            yield frame(1)
    elif word == b"eat":
        eaten = []
        while True:
            eaten.append(np.ones(2**24))
    elif word == b"take":  # MiB, and give them back
        np.ones(int(rest.split()[0]) * 2**17)
        yield frame(1)
    elif word == b"exit":
        sys.exit(3)
    elif word == b"exit-at-once":
        os._exit(0)
    elif word == b"panic":
        raise Panic(rest.decode())
    elif word == b"fault":
        raise KeyError(rest.decode())
    elif word == b"refuse":
        raise ImageError(file, "refused; do better")
    elif word == b"print":
        noise = "\x00\x10noise" * 40_000
        sys.stdout.write(noise)
        sys.stdout.flush()
        sys.stderr.write(noise)
        os.write(1, noise.encode())
        ctypes.CDLL(None).puts(noise.encode())
        yield frame(int(rest))
    elif word == b"read-input":
        yield frame(len(sys.stdin.read()))
    elif word == b"die-between-frames":
        yield frame(1)
        ctypes.string_at(0)
    elif word == b"lie-about-shape":
        yield DecodedFrame(np.zeros((4, 4)), "stored")
    else:
        yield from decode_bytes(data, file, policy)


def frame(value):
    return DecodedFrame(np.full((2, 2), value, np.uint8), "stored")


if __name__ == "__main__":
    main(decode)
