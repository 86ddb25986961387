"""The Python of docs/imitation.md runs."""

import re
from pathlib import Path

import pytest


def test_the_python_of_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parents[3] / "docs" / "imitation.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "docs/imitation.md", "exec"), {})
    returns, steps = capsys.readouterr().out.splitlines()
    assert all(80 < one < 100 for one in map(float, returns.strip("[]").split(", ")))  # random actions: -33
    assert steps == "200"
