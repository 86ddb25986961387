"""lm-evaluation-harness lives in an environment of its own: `make test-lm-eval`."""

import os

collect_ignore = [] if "LM_EVAL_PYTHON" in os.environ else ["test_beside_lm_eval.py", "test_gauntlet_peers.py"]
