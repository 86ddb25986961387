"""One tiny checkpoint for all tests of the core."""

from pathlib import Path

import pytest

from tests import tiny


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.decoder_folder(tmp_path_factory.mktemp("policy") / "checkpoint")
