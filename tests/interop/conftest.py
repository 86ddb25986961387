"""Collected only where INTEROP_PYTHON names a Python with transformers 4.57 (`make test-interop` builds it)."""

import os

collect_ignore = [] if os.environ.get("INTEROP_PYTHON") else ["test_layouts_4_57.py", "test_transformers_4_57.py"]
