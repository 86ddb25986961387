"""Collected only where INTEROP_PYTHON names a Python with transformers 4.57, EPISODES_RLDS_PYTHON and
EPISODES_TFDS_PYTHON and EPISODES_MINARI_PYTHON ones with rlds, tensorflow-datasets alone and Minari: `make test-interop`
builds them.
"""

import os

collect_ignore = [] if os.environ.get("INTEROP_PYTHON") else ["test_layouts_4_57.py", "test_transformers_4_57.py"]
collect_ignore += [] if os.environ.get("EPISODES_RLDS_PYTHON") else ["episodes"]
