"""docs/replay.md: its Python runs, in order."""

import re
from pathlib import Path
from typing import Any

import pytest


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[3] / "docs" / "replay.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL):
        exec(block, names)
    assert capsys.readouterr().out.startswith("(32, 4) [0.009") and (tmp_path / "replay").is_dir()
    assert names["first"].data["observation"].shape == (4,)
    assert names["replay"].info()["on-policy"].size == 110 + 1 + 3
    assert len(names["batch"]) == 8 and names["dropped"] == names["learner"].info()["rollouts"].stale - 32 == 64
