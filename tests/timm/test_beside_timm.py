"""Our commands beside timm and its torchvision: they work, or say in one line what is wrong."""

import subprocess
import sys
from pathlib import Path

from pydicom.data import get_testdata_file


def test_a_command_works_or_names_torchvision() -> None:
    script = Path(sys.executable).parent / "medsiglip"
    picture = str(get_testdata_file("CT_small.dcm"))
    command = [str(script), "classify", picture, "--labels", "CT scan;X-ray", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert "Traceback" not in done.stderr
    if done.returncode == 0:
        assert "CT scan" in done.stdout
    else:
        assert done.returncode == 1
        assert "pip uninstall torchvision" in done.stderr and len(done.stderr.strip().splitlines()) == 1
