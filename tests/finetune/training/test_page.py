"""The example of docs/training.md, as it stands there: by one process and by two."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file


def run(code: Path, *launcher: str) -> dict[str, torch.Tensor]:
    """What the example has trained, run beside its file."""
    folder = code.parent / str(len(launcher))
    folder.mkdir()
    subprocess.run(
        [sys.executable, *launcher, str(code)],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        timeout=300,
    )
    return load_file(folder / "run/fit/state.safetensors")


@pytest.mark.slow
def test_the_example_of_the_page(repository: Path, tmp_path: Path) -> None:
    page = (repository / "docs/training.md").read_text(encoding="utf-8")
    [block] = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    code = tmp_path / "example.py"
    code.write_text(block)
    one = run(code)
    torch.testing.assert_close(one["parameter.weight"], torch.ones(1, 4), rtol=0, atol=0.1)  # the sum of four inputs
    two = run(code, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-4, atol=1e-5)
