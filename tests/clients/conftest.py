"""Collected only where `make test-clients` has built the environment; CLIENTS_PYTHON names its Python."""

import os

collect_ignore = [] if os.environ.get("CLIENTS_PYTHON") else ["test_clients.py"]
