"""Fixtures shared by every room's tests."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def repository() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def kit() -> Path:
    """The folder of the real-data kit; its absence skips a test, or fails it under MEDGEMMA_REQUIRE=1."""
    folder = Path(os.environ.get("MEDGEMMA_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "INDEX.md").is_file():
        message = f"the real-data kit is not at {folder}; set MEDGEMMA_DATA to its folder"
        if os.environ.get("MEDGEMMA_REQUIRE") == "1":
            pytest.fail(message)
        pytest.skip(message)
    return folder
