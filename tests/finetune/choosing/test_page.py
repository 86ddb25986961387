"""docs/choosing.md: its Python runs, and its commands are those of the command line."""

import re
from pathlib import Path

import pytest

from finetune.choosing.judging import PROXIES

PAGE = Path(__file__).parents[3] / "docs" / "choosing.md"


def test_the_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "choosing.md", "exec"), {})
    assert capsys.readouterr().out.strip().endswith("50")


def test_every_proxy_is_in_the_table() -> None:
    rows = re.findall(r"^\| `(\w+)` \|.* ([↑↓]) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert tuple(name for name, _ in rows) == PROXIES
