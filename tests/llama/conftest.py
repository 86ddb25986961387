"""Collected only where `make test-llama` has built the environment; LLAMA_PYTHON names its Python."""

import os

collect_ignore = [] if os.environ.get("LLAMA_PYTHON") else ["test_llama.py"]
