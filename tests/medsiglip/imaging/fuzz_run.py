"""Run damaged files through a decoder pool and judge what comes out.

Right is: pictures with valid RGB pixels, or an `ImageError` of one clear line. A file that crashes, starves or hangs
a worker is contained by the pool and counted; a hang is a fault all the same, for no file here needs two seconds.
"""

from __future__ import annotations

import random
import re
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from medsiglip.imaging import (
    RESIZE_POLICIES,
    DecoderPool,
    ImageError,
    Limits,
    Picture,
    Source,
    Square,
    open_series,
    read_volume,
)
from medsiglip.imaging.dicom.policies import POLICIES
from medsiglip.imaging.listing import list_archive
from tests.medsiglip.imaging.fuzz_inputs import FuzzInput
from tests.personal_data import FUZZ_IDENTITY

LIMITS = Limits(memory_mib=1024, seconds=2)
_CRASH = re.compile(r"crashed the decoder \((.+?)\)")
_TOO_SLOW, _TOO_MUCH, _UNEXPECTED = "took longer than", "MiB to decode", "the decoder failed ("
_LONGEST_REASON = 400
_IDENTITY = re.compile("|".join(map(re.escape, (*FUZZ_IDENTITY.values(), "FUZZ PLANTED"))), re.IGNORECASE)


@dataclass
class Outcome:
    """What became of the inputs of one format."""

    inputs: int = 0
    pictures: int = 0
    """Inputs that gave pictures."""
    refused: int = 0
    """Inputs that gave an `ImageError` of any kind."""
    crashes: Counter[str] = field(default_factory=Counter)
    """Of those: workers that ended, by signal."""
    out_of_memory: int = 0
    """Of those: allocations above the limit."""
    deadline: int = 0
    """Of those: more than two seconds, twice."""
    slowest_s: float = 0.0
    """Without the inputs that crash, whose time is spent on starting workers."""
    slowest: str = ""
    peak_mib: float = 0.0
    """Resident memory of a worker, looked at after every input that took its time."""
    faults: list[str] = field(default_factory=list)
    """What must not happen: an input's name and what it did."""


def run(inputs: Iterable[FuzzInput], pool: DecoderPool) -> Outcome:
    """Decode every input by itself and judge it.

    Args:
        inputs: of one format.
        pool: with `LIMITS`.
    """
    outcome = Outcome()
    list(pool.pictures([Source("first", data=b"")]))  # starting a worker is no file's time
    for item in inputs:
        outcome.inputs += 1
        start = time.perf_counter()
        results = _decoded(item, pool, outcome)
        seconds = time.perf_counter() - start
        if seconds > 0.05:
            outcome.peak_mib = max(outcome.peak_mib, peak_memory_mib())
        crashed = any(_CRASH.search(str(result)) for result in results)  # its time is that of new workers
        if seconds > outcome.slowest_s and not crashed:
            outcome.slowest_s, outcome.slowest = seconds, item.name
        _count(results, outcome)
        outcome.faults += [f"{item.name}: {fault}" for result in results for fault in faults_of(result)]
    return outcome


def _decoded(item: FuzzInput, pool: DecoderPool, outcome: Outcome) -> list[list[Picture] | ImageError]:
    """The results of a file, or of each member of a zip; slowness that does not come again is the machine's."""
    try:
        results = list(_results(item, pool))
        if any(_TOO_SLOW in str(result) for result in results):
            results = list(_results(item, pool))
    except Exception as error:
        outcome.faults.append(f"{item.name}: {type(error).__name__} in the parent process: {error}")
        return []
    return results


def _results(item: FuzzInput, pool: DecoderPool) -> Iterator[list[Picture] | ImageError]:
    sources = [Source("fuzz", data=item.data)]
    if item.name.startswith(("zip/", "dicom-series/")):
        listed = list_archive(item.data)
        yield from (ImageError(problem.file, problem.reason) for problem in listed.problems)
        sources = listed.files[:50]
    yield from pool.pictures(sources)
    policy, square = _choices(item)
    yield from pool.pictures(sources[:1], policy, square=square)
    if item.name.startswith("dicom-series/"):
        yield from _volumes(sources, pool)
    elif item.name.startswith("dicom-"):
        yield from _headers_and_values(sources[0], pool)


def _choices(item: FuzzInput) -> tuple[str, Square | None]:
    """A pixel policy and a square that differ from input to input."""
    rng = random.Random(item.name)
    square = Square(rng.choice((1, 28, 64)), rng.choice(RESIZE_POLICIES)) if rng.random() < 0.5 else None
    return rng.choice((*POLICIES[1:], "voi:2")), square


def _headers_and_values(source: Source, pool: DecoderPool) -> Iterator[list[Picture] | ImageError]:
    """What series are made of must hold no identity either; values may be anything."""
    for header in pool.headers([source]):
        if isinstance(header, ImageError):
            yield header
        elif leak := _IDENTITY.search(" ".join(str(getattr(header, name.name)) for name in fields(header))):
            raise AssertionError(f"identity in the header at {leak.start()}")
    for values in pool.values([source]):
        if isinstance(values, ImageError):
            yield values
        elif any(value.dtype not in (np.int16, np.float32) or value.ndim != 2 for value in values):
            raise AssertionError("modality values that are not (H, W) int16 or float32")


def _volumes(sources: list[Source], pool: DecoderPool) -> Iterator[list[Picture] | ImageError]:
    """Pictures of the volumes that slices make; a slice that is left out is told in the findings."""
    for series in open_series(sources, pool):
        try:
            volume = read_volume(series, pool)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of volumes that are not axial
                yield list(volume.pictures(budget=3))
        except ImageError as error:
            yield error
            continue
        texts = [finding.text for finding in volume.findings]
        if any(_IDENTITY.search(text) or not text.isprintable() for text in texts):
            raise AssertionError("a finding names the identity or is not one printable line")


def _count(results: list[list[Picture] | ImageError], outcome: Outcome) -> None:
    errors = [str(result) for result in results if isinstance(result, ImageError)]
    outcome.pictures += any(isinstance(result, list) and result for result in results)
    outcome.refused += bool(errors) and not any(isinstance(result, list) for result in results)
    outcome.crashes.update({crash[1] for error in errors if (crash := _CRASH.search(error))})
    outcome.out_of_memory += any(_TOO_MUCH in error for error in errors)
    outcome.deadline += any(_TOO_SLOW in error for error in errors)


def faults_of(result: Any) -> Iterator[str]:
    """What is wrong with the pictures or the error of one file."""
    if isinstance(result, list):
        for picture in result:
            yield from _faults_of_picture(picture)
        if not result:
            yield "neither pictures nor an error"
    elif type(result) is ImageError:
        yield from _faults_of_message(result)
    else:
        yield f"a {type(result).__name__}"


def _faults_of_picture(picture: Picture) -> Iterator[str]:
    pixels = picture.pixels
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
        yield f"pixels are {pixels.dtype} of shape {pixels.shape}"
    if _IDENTITY.search(f"{picture.tags} {picture.policy}"):
        yield "the identity is in the tags"


def _faults_of_message(error: ImageError) -> Iterator[str]:
    """One printable line `FILE: reason; what to do`, with nobody's name in it."""
    reason, _, advice = error.reason.rpartition("; ")
    if not reason.strip() or not advice.strip() or len(error.reason) > _LONGEST_REASON:
        yield f"no reason with advice: {error.reason[:_LONGEST_REASON]!r}"
    if not str(error).isprintable():
        yield f"not one printable line: {str(error)!r}"
    if _IDENTITY.search(str(error)):
        yield "the identity is in the message"
    for sign, what in ((_TOO_SLOW, "a hang"), (_UNEXPECTED, "an exception that is no ImageError")):
        if sign in error.reason:
            yield f"{what}: {error.reason}"


def peak_memory_mib() -> float:
    """Largest resident memory of any child process that now lives; 0 where /proc does not tell."""
    return max([0.0, *map(_peak_mib, _children())])


def _children() -> Iterator[str]:
    for file in Path("/proc/self/task").glob("*/children"):
        try:
            yield from file.read_text().split()
        except OSError:  # the thread has ended
            continue


def _peak_mib(process_id: str) -> float:
    try:
        status = Path(f"/proc/{process_id}/status").read_text()
    except OSError:  # it has ended
        return 0.0
    return max((int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM")), default=0.0)
