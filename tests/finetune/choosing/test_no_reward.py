"""Nothing that chooses can read a reward: what it imports, and what it names."""

import ast
from pathlib import Path

import pytest

from experience.unrewarded import STEP_COLUMNS
from finetune.choosing.judging import PROXIES

ROOT = Path(__file__).parents[3]
CHOOSING = sorted([*(ROOT / "finetune" / "selection").rglob("*.py"), *(ROOT / "finetune" / "choosing").rglob("*.py")])
READS_ALL = ("experience", "experience.dataset", "experience.storage.shards", "experience.replay", "experience.show")
"""What gives whole episodes. `experience.unrewarded` alone is a way to what was recorded."""
ALLOWED = ("experience.unrewarded.", "experience.storage.layout.INDEX")
PAID = {"reward", "total_reward", "discount"}


def faults(source: str) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(READS_ALL):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name for name in names if not name.startswith(ALLOWED)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("experience")}
        elif isinstance(node, ast.Attribute) and node.attr in PAID - {"reward"}:  # PWIL's own is one
            found.add(node.attr)
        elif isinstance(node, ast.Constant) and node.value in PAID:
            found.add(str(node.value))
    return found


@pytest.mark.parametrize("path", CHOOSING, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_file_that_chooses_reaches_a_reward(path: Path) -> None:
    assert not (found := faults(path.read_text(encoding="utf-8"))), f"{path.name} reaches {found}"


def test_a_planted_way_is_seen() -> None:
    assert faults("from experience import EpisodeDataset\n") == {"experience.EpisodeDataset"}
    assert faults("from experience.dataset import read_episodes\n") == {"experience.dataset.read_episodes"}
    assert faults("import experience.replay\n") == {"experience.replay"}
    assert faults("x = episode.total_reward + table['reward']\n") == {"total_reward", "reward"}
    assert faults("from experience.unrewarded import read_unrewarded\n") == set()


def test_the_schema_names_what_is_read() -> None:
    assert STEP_COLUMNS == ("observation", "action")
    assert len(PROXIES) == 5
