"""Fixtures shared by every room's tests."""

import os
from pathlib import Path

import pytest

from tests.personal_data_watch import pytest_configure as pytest_configure  # the search for patient data

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")

ROOT = Path(__file__).parents[1]


def kit_folder() -> Path:
    """Where the real-data kit should be."""
    return Path(os.environ.get("MEDGEMMA_DATA", ROOT.parent / "shared" / "data"))


@pytest.fixture(scope="session")
def repository() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def kit() -> Path:
    """The folder of the real-data kit; its absence skips a test, or fails it under MEDGEMMA_REQUIRE=1."""
    folder = kit_folder()
    if not (folder / "INDEX.md").is_file():
        message = f"the real-data kit is not at {folder}; set MEDGEMMA_DATA to its folder"
        if os.environ.get("MEDGEMMA_REQUIRE") == "1":
            pytest.fail(message)
        pytest.skip(message)
    return folder
