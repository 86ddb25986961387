"""The one-line diagnosis of a torchvision that does not fit, on a made-up torchvision that breaks like the real one."""

import subprocess
import sys
from pathlib import Path

from medsiglip.command import blames_torchvision


def test_a_broken_torchvision_is_named_in_one_line(tmp_path: Path) -> None:
    package, facts = tmp_path / "torchvision", tmp_path / "torchvision-0.28.0.dist-info"
    package.mkdir()
    facts.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')\n")
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: torchvision\nVersion: 0.28.0\n")
    (tmp_path / "picture.png").write_bytes(b"")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from medsiglip.cli import main; main()"
    command = [sys.executable, "-c", code, "classify", str(tmp_path), "--labels", "a;b", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "pip uninstall torchvision" in done.stderr and "Traceback" not in done.stderr


def test_other_failures_are_not_blamed_on_it() -> None:
    assert not blames_torchvision(RuntimeError("out of memory"))
    error = ModuleNotFoundError("Could not import module 'SiglipModel'")
    error.__cause__ = RuntimeError("operator torchvision::nms does not exist")
    assert blames_torchvision(error)
