"""The run of docs/on-policy.md, as it stands there."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from tests import tiny
from tests.nano import needs_nano


@needs_nano
def test_the_run_of_the_page(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (repository / "docs/on-policy.md").read_text(encoding="utf-8")
    block = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)[0]
    monkeypatch.chdir(tmp_path)
    Image.fromarray(tiny.picture_array(0)).save("film.png")
    exec(block, {})
    told = [json.loads(line) for line in Path("runs/yes/fit/reward_kl.jsonl").read_text().splitlines()]
    fields = set(re.findall(r"`(\w+)`", page.partition("| field | meaning |")[2].partition("\n\n")[0]))
    assert len(told) == 2 and {"kl", "ended", "updates"} <= fields - {"NAME"} <= told[0].keys()
    assert (tmp_path / "runs/yes/adapter/adapter_model.safetensors").is_file()
