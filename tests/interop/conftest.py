"""Collected only where `make test-interop` has built the environments.

INTEROP_PYTHON names a Python with transformers 4.57, EPISODES_RLDS_PYTHON, EPISODES_TFDS_PYTHON and
EPISODES_MINARI_PYTHON ones with rlds, with tensorflow-datasets alone and with Minari.
"""

import os

collect_ignore = [] if os.environ.get("INTEROP_PYTHON") else ["test_layouts_4_57.py", "test_transformers_4_57.py"]
collect_ignore += [] if os.environ.get("EPISODES_RLDS_PYTHON") else ["episodes"]
