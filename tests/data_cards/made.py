"""Files that tests of readers write, and their refusals."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def put(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def refuses(read: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        result = read()
        list(result)
