"""The label sets that ship, a YAML file each: what `--task NAME` reads, in the form that `--prompts F.yaml` takes."""

from pathlib import Path

LABEL_SETS_FOLDER = Path(__file__).parent
"""Where they lie, also in an installed package."""
