"""`medgemma verify` finds nothing on nano in any clothing."""

from collections.abc import Callable
from pathlib import Path

import pytest

from medgemma.verify import verify
from tests.shapes.conftest import ENCODERS

pytestmark = pytest.mark.slow


def test_a_decoder_in_any_clothing(shape: str, shapes: Callable[[str], Path]) -> None:
    found = verify(shapes(shape), device="cpu")
    assert found.passed, found.checks


@pytest.mark.kit
@pytest.mark.parametrize("shape", ENCODERS)
def test_an_encoder_in_any_clothing(shape: str, shapes: Callable[[str], Path]) -> None:
    found = verify(shapes(shape), device="cpu")
    assert found.passed, found.checks
