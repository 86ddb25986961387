"""Fixtures of the imaging tests."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest


def run_dcmtk(command: str, *arguments: str | Path) -> bytes:
    """What a program of dcmtk prints."""
    return subprocess.run([command, *map(str, arguments)], capture_output=True, check=True, timeout=120).stdout


def dcmtk_grey(path: Path, *options: str) -> np.ndarray:
    """(H, W) uint8: the first frame as dcmtk renders it, without overlays."""
    printed = run_dcmtk("dcmj2pnm", "-q", "-O", *options, path)
    header = re.match(rb"P5\s+(?:#.*\n)*(\d+)\s+(\d+)\s+255\s", printed)
    assert header, "no 8-bit PGM"
    columns, rows = int(header[1]), int(header[2])
    return np.frombuffer(printed, np.uint8, rows * columns, header.end()).reshape(rows, columns)


@pytest.fixture(scope="session")
def dcmtk() -> Callable[..., np.ndarray]:
    """`dcmtk_grey`; without the Debian package dcmtk a test is skipped, or fails under MEDGEMMA_REQUIRE=1."""
    if not shutil.which("dcmj2pnm") or not shutil.which("dcmdump"):
        message = "dcmj2pnm and dcmdump are not here; install the package dcmtk (make system)"
        if os.environ.get("MEDGEMMA_REQUIRE") == "1":
            pytest.fail(message)
        pytest.skip(message)
    return dcmtk_grey
