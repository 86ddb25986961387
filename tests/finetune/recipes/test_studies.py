"""The line of a study: what two finished runs hold, real minus shuffled labels, and runs that do not go together."""

import json
from pathlib import Path

import pytest
import yaml

from benchmarks.studies import study
from data_cards.table import read_table
from evals.running.options import RunOptions
from evals.tasks.tables import task_of
from finetune.tables.before_after import Asked, before_and_after
from tests.finetune.tables.test_before_after import Scripted, by_looking
from tests.finetune.tables.test_examples import colour_table


def finished(data: Path, out: Path, tuned: Scripted, **config: object) -> Path:
    """A run's folder: twelve rows of three colours, before always A, after as `tuned` says."""
    table = read_table(colour_table(data, rows=48))
    asked = Asked(task_of(table, "classes"), table.source, RunOptions(side="test"))
    blind = Scripted("blind", lambda pictures, prompt: "Final Answer: A")
    before_and_after([asked], lambda: blind, lambda: tuned, out / "scores", command="test", quiet=True)
    (out / "config.yaml").write_text(f"# table T.csv, 48 rows, sha256 ab\n{yaml.safe_dump({'seed': 3, **config})}")
    return out


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("study")
    real = finished(folder / "data", folder / "real", Scripted("looks", by_looking), labels="real")
    guess = Scripted("guesses", lambda pictures, prompt: "Final Answer: B")
    return real, finished(folder / "data", folder / "shuffled", guess, labels="shuffled")


def test_a_line_holds_seed_data_and_real_minus_shuffled(runs: tuple[Path, Path]) -> None:
    record = json.loads(json.dumps(study("colours", *runs)))
    assert record["config"]["seed"] == 3 and record["learned"] == "table T.csv, 48 rows, sha256 ab"
    [accuracy] = [row for row in record["real_minus_shuffled"] if row["metric"] == "accuracy"]
    assert accuracy["value"] == pytest.approx(8 / 12) and accuracy["n"] == 12 and accuracy["ci95"][0] > 0
    assert [row["after"] for row in record["rows"] if row["metric"] == "accuracy"] == [1]
    assert [row["after"] for row in record["shuffled_rows"] if row["metric"] == "accuracy"] == [4 / 12]
    assert "real_minus_shuffled" not in study("colours", runs[0], None)


def test_runs_of_other_settings_and_unfinished_ones_are_refused(runs: tuple[Path, Path], tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.yaml").write_text("# x\nseed: 4\nlabels: shuffled\n")
    with pytest.raises(ValueError, match=r"other: differs from .*real in seed; repeat it with the same settings"):
        study("colours", runs[0], other)
    with pytest.raises(ValueError, match=r"before_after.json: is not there; the run is not finished"):
        study("colours", other, None)
