"""A room imports only from floors below its own (DESIGN: the house)."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = {"data_cards": 0, "experience": 0, "medsiglip": 1, "medgemma": 2, "evals": 3, "finetune": 4}
NO_TORCH = {"data_cards", "experience"}


def imported_names(source: str) -> set[str]:
    """Top-level package names that a module imports, at the top or inside a function."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


def violations(package: str, source: str) -> set[str]:
    names = imported_names(source)
    above = {n for n in names if n in FLOORS and n != package and FLOORS[n] >= FLOORS[package]}
    return above | (names & {"torch", "transformers"} if package in NO_TORCH else set())


@pytest.mark.parametrize("path", sorted(p for name in FLOORS for p in (ROOT / name).rglob("*.py")), ids=str)
def test_imports_point_downwards(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    found = violations(package, path.read_text(encoding="utf-8"))
    assert not found, f"{path.relative_to(ROOT)} imports {sorted(found)} from its own floor or above"


def test_a_planted_upward_import_is_seen() -> None:
    assert violations("medsiglip", "def f():\n    from medgemma import MedGemma\n") == {"medgemma"}
    assert violations("data_cards", "import torch\n") == {"torch"}
    assert violations("evals", "import medsiglip, data_cards\n") == set()
