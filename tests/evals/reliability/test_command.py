"""`medgemma-eval reliability` and `compare` with nano."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from evals.cli import app
from evals.items import Item, item_sha256, write_items
from evals.outputs import Output, OutputFile
from evals.reliability.probes import probes
from evals.reliability.running import summarise
from evals.tasks.catalogue import TASKS
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
    (tmp_path / "run" / "vqa-rad").mkdir(parents=True)
    (tmp_path / "run" / "vqa-rad" / "items.jsonl").write_text("", encoding="utf-8")
    for pair in ((tmp_path / "a", tmp_path / "run"), (tmp_path / "run", tmp_path / "a")):
        ran = CliRunner().invoke(app, ["compare", *map(str, pair)])
        assert ran.exit_code == 1
        assert "holds runs" in str(ran.exception) and "compare two folders of `run`, or two of" in str(ran.exception)


def folder_of(out: Path, says: Callable[[Item], str]) -> Path:
    """Write the folder that a model of words would leave."""
    folder = out / "vqa-rad-reliability"
    asked = probes(
        [Item(f"q{n}", (), f"Is there a nodule {n}?", "yes", "closed", f"p{n}") for n in range(8)], folder / "blank"
    )
    folder.mkdir(parents=True)
    write_items(folder / "items.jsonl", asked)
    with OutputFile(folder / "outputs.jsonl") as file:
        for probe in asked:
            file.write(Output(probe.item_id, item_sha256(probe), "m", text=says(probe)))
    (folder / "run.json").write_text(json.dumps({"model": out.name}), encoding="utf-8")
    summarise(TASKS["vqa-rad"], out)
    return out


def test_the_page_of_two_shows_both_and_the_items_that_moved(tmp_path: Path) -> None:
    right = {True: "no", False: "yes"}
    steady = folder_of(tmp_path / "before", lambda probe: right["absent" in probe.prompt])
    swayed = folder_of(
        tmp_path / "<after>",
        lambda probe: "yes" if probe.meta["probe_of"] in ("q1", "q2") else right["absent" in probe.prompt],
    )
    page, written = tmp_path / "page.html", tmp_path / "both.json"
    ran = CliRunner().invoke(app, ["compare", str(steady), str(swayed), "--page", str(page), "--out", str(written)])
    assert ran.exit_code == 0, ran.output
    assert "stable and looking -> unstable, looking" in " ".join(ran.output.split()) and "2 items" in ran.output
    assert "second - first -0.250 [" in ran.output
    text = page.read_text(encoding="utf-8")
    assert "before" in text and "&lt;after&gt;" in text
    assert "<td>q1<td>Is there a nodule 1?" in text and "q3" not in text
    found = json.loads(written.read_text(encoding="utf-8"))["reliability"]["vqa-rad"]
    assert found["moves"] == [{"from": "stable and looking", "to": "unstable, looking", "items": 2}]
    assert found["changed"] == ["q1", "q2"] and found["shares"]["stable and looking"]["difference"] == -0.25


def test_a_task_of_long_text_is_refused(kit: Path, tmp_path: Path) -> None:
    ran = CliRunner().invoke(app, ["reliability", "safety", "--data", str(kit), "--out", str(tmp_path)])
    assert ran.exit_code != 0
    assert "its answers cannot be compared" in str(ran.exception)
