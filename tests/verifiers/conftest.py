"""Collected only where verifiers is installed, which is an environment of its own (`make test-environments`)."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("verifiers") else ["test_taskset.py"]
