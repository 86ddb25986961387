"""Collected only where timm is installed, which is an environment of its own (`make test-timm`)."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("timm") else ["test_beside_timm.py", "test_probe_beside_timm.py"]
