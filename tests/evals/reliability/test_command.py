"""`medgemma-eval reliability` and `compare` with nano."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from evals.cli import app
from tests.nano import needs_nano

pytestmark = pytest.mark.kit


def reliability(kit: Path, out: Path, task: str) -> str:
    words = [
        "--data",
        str(kit),
        "--out",
        str(out),
        "--limit",
        "4",
        "--max-new-tokens",
        "4",
        "--device",
        "cpu",
        "--quiet",
    ]
    ran = CliRunner().invoke(app, ["reliability", task, *words])
    assert ran.exit_code == 0, ran.output
    return ran.output


@needs_nano
def test_nano_is_probed_resumed_and_compared(kit: Path, tmp_path: Path) -> None:
    said = reliability(kit, tmp_path / "a", "vqa-rad")
    outputs = (tmp_path / "a" / "vqa-rad-reliability" / "outputs.jsonl").read_bytes()
    assert reliability(kit, tmp_path / "a", "vqa-rad") == said
    assert (tmp_path / "a" / "vqa-rad-reliability" / "outputs.jsonl").read_bytes() == outputs
    result = json.loads((tmp_path / "a" / "reliability.json").read_text(encoding="utf-8"))["vqa-rad"]
    assert result["num_items"] == len(result["items"]) == 4 and result["num_answered"] == result["num_probes"]
    assert sum(cell["share"]["value"] for cell in result["quadrants"].values()) == pytest.approx(1)
    assert "stable, not looking" in (tmp_path / "a" / "reliability.html").read_text(encoding="utf-8")
    ran = CliRunner().invoke(app, ["compare", str(tmp_path / "a"), str(tmp_path / "a")])
    assert ran.exit_code == 0 and "stable and looking" in ran.output and "->" not in ran.output


def test_a_task_of_long_text_is_refused(kit: Path, tmp_path: Path) -> None:
    ran = CliRunner().invoke(app, ["reliability", "safety", "--data", str(kit), "--out", str(tmp_path)])
    assert ran.exit_code != 0
    assert "its answers cannot be compared" in str(ran.exception)
