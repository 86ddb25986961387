"""Collected only where TRL is installed, which is an environment of its own (`make test-trl`)."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("trl") else ["test_divergences.py", "test_rewards.py", "test_trainers.py"]
