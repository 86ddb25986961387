"""A mark for tests that need the shipped nano weights."""

import os

import pytest

from medgemma.nano import NANO_FOLDER as DECODER_FOLDER
from medsiglip.nano import NANO_FOLDER as ENCODER_FOLDER

_there = all((folder / "model.safetensors").is_file() for folder in (ENCODER_FOLDER, DECODER_FOLDER))
needs_nano = pytest.mark.skipif(
    not _there and os.environ.get("MEDGEMMA_REQUIRE") != "1", reason="this checkout has no nano weights"
)
