"""`medgemma verify` finds nothing on nano in any clothing."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medgemma import plain_transformers
from medgemma import verify as module
from medgemma.verify import Theirs, verify
from tests.shapes.conftest import ENCODERS

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The other side's program without a process of its own, which would mostly import torch.

    tests/medgemma/test_verify.py runs it as users do.
    """

    def theirs(folder: Path, dtype: str, device: str) -> Theirs:
        found = tmp_path / "found"
        monkeypatch.setattr(sys, "argv", ["plain_transformers", str(folder), dtype, device, str(found)])
        plain_transformers.main()
        with np.load(f"{found}.npz") as arrays:
            return Theirs(json.loads(Path(f"{found}.json").read_text(encoding="utf-8")), dict(arrays))

    monkeypatch.setattr(module, "_plain_transformers", theirs)


def test_a_decoder_in_any_clothing(shape: str, shapes: Callable[[str], Path]) -> None:
    found = verify(shapes(shape), device="cpu")
    assert found.passed, found.checks


@pytest.mark.kit
@pytest.mark.parametrize("shape", ENCODERS)
def test_an_encoder_in_any_clothing(shape: str, shapes: Callable[[str], Path]) -> None:
    found = verify(shapes(shape), device="cpu")
    assert found.passed, found.checks
