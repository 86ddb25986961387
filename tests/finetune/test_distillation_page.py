"""The example of docs/distillation.md, as it stands there."""

import re
import subprocess
import sys
from pathlib import Path


def test_the_example_of_the_page(repository: Path, tmp_path: Path) -> None:
    page = (repository / "docs/distillation.md").read_text(encoding="utf-8")
    [block] = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    done = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    ratio, entropy, clipped = done.stdout.split()
    assert ratio == "1.0" and 0 < float(entropy) < 7 and clipped == "0"  # on-policy: the ratio is exactly 1
