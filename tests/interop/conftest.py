"""Collected only where `make test-interop` has built the environments.

INTEROP_PYTHON names a Python with transformers 4.57; EPISODES_..._PYTHON ones with rlds, with tensorflow-datasets alone
(TFDS) and beside a current TensorFlow, with Minari and with LeRobot.
"""

import os

collect_ignore = [] if os.environ.get("INTEROP_PYTHON") else ["test_layouts_4_57.py", "test_transformers_4_57.py"]
collect_ignore += [] if os.environ.get("EPISODES_RLDS_PYTHON") else ["episodes", "replay"]
