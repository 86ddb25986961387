"""`ask --gate` and `report --gate` with nano's own gate: known kinds pass, others are named and not asked about."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medgemma.cli import main
from medsiglip.gate.files import SHIPPED
from medsiglip.nano import NANO_FOLDER
from tests.nano import needs_nano

pytestmark = [needs_nano, pytest.mark.kit]
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def pictures(kit: Path, tmp_path: Path) -> dict[str, Path]:
    film = sorted((kit / "cxr-nih14" / "images").glob("*"))[0]
    stripes = np.zeros((90, 90, 3), np.uint8)
    stripes[::2] = (255, 0, 255)
    Image.fromarray(stripes).save(tmp_path / "stripes.png")
    return {"film": film, "stripes": tmp_path / "stripes.png"}


def run(monkeypatch: pytest.MonkeyPatch, capsys: Capture, *words: object) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["medgemma", *map(str, words), "--device", "cpu", "--quiet"])
    with pytest.raises(SystemExit) as exited:
        main()
    said = capsys.readouterr()
    return int(exited.value.code or 0), said.out, said.err


def test_ask_leaves_out_what_the_gate_holds_back(
    pictures: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    words = ("ask", *pictures.values(), "-q", "Is this an X-ray?", "--each", "--json", "--max-new-tokens", "2")
    status, out, err = run(monkeypatch, capsys, *words, "--gate", "auto", "--gate-for", "chest X-ray")
    assert status == 1
    assert [json.loads(line)["files"] for line in out.splitlines()] == [[str(pictures["film"])]]
    assert f"error: {pictures['stripes']}: abstained: unlike every kind that the gate knows; ask without --gate" in err
    assert run(monkeypatch, capsys, *words)[1].count("\n") == 2


def test_report_asks_nothing_about_what_is_held_back(
    pictures: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    status, out, err = run(
        monkeypatch, capsys, "report", pictures["film"], "--gate", "auto", "--gate-for", "hand X-ray"
    )
    assert (status, out) == (1, "") and "abstained: like chest X-ray, not like hand X-ray" in err


def test_the_gate_that_ships_is_nanos_own_and_keeps_its_promise() -> None:
    from scipy.stats import betabinom

    from medsiglip.checkpoints.identity import fingerprint
    from medsiglip.gate.files import read_gate

    gate = read_gate(NANO_FOLDER / SHIPPED)
    assert gate.encoder.startswith(fingerprint(NANO_FOLDER)) and len(gate.kinds) == 7
    coverage = gate.figures["coverage"]
    for kind in coverage["kinds"].values():
        missed = int((kind["calibrated on"] + 1) * (1 - coverage["level"]) + 1e-9)
        low, high = betabinom.interval(0.99, kind["n"], kind["calibrated on"] + 1 - missed, missed)
        assert low <= round(kind["share"] * kind["n"]) <= high
    for told in gate.figures["never seen"].values():
        assert told["auroc"]["ci95"][0] > 0.8 and told["held back"]["value"] > 0.8
