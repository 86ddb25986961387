"""What commands share: options in groups, and the one-line diagnosis of a torchvision that does not fit."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from medsiglip.command import blames_torchvision, new_app, run, spread_options


@dataclass(frozen=True)
class Colour:
    hue: Annotated[int, typer.Option(min=1)] = 2
    grey: Annotated[bool, typer.Option("--grey")] = False


def test_a_broken_torchvision_is_named_in_one_line(tmp_path: Path) -> None:
    package, facts = tmp_path / "torchvision", tmp_path / "torchvision-0.28.0.dist-info"
    package.mkdir()
    facts.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')\n")
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: torchvision\nVersion: 0.28.0\n")
    (tmp_path / "picture.png").write_bytes(b"")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from medsiglip.cli import main; main()"
    command = [sys.executable, "-c", code, "classify", str(tmp_path), "--labels", "a;b", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "pip uninstall torchvision" in done.stderr and "Traceback" not in done.stderr


def test_other_failures_are_not_blamed_on_it() -> None:
    assert not blames_torchvision(RuntimeError("out of memory"))
    error = ModuleNotFoundError("Could not import module 'SiglipModel'")
    error.__cause__ = RuntimeError("operator torchvision::nms does not exist")
    assert blames_torchvision(error)


@pytest.mark.parametrize("kind", [ValueError, OSError, FloatingPointError])
def test_what_a_user_can_mend_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: type[Exception]
) -> None:
    app = new_app("A.")

    @app.command()
    def fail() -> None:
        raise kind("the loss is nan at step 3,\nin the batch of T.csv row 9")

    monkeypatch.setattr(sys, "argv", ["a"])
    with pytest.raises(SystemExit) as done:
        run(app)
    assert done.value.code == 1
    assert capsys.readouterr().err == "error: the loss is nan at step 3, in the batch of T.csv row 9\n"


def test_options_of_a_dataclass_are_options_of_the_command() -> None:
    app = new_app("A.")
    seen: list[Any] = []

    @app.command()
    @spread_options
    def shade(name: str, *, colour: Colour, twice: bool = False) -> None:
        seen.append((name, colour, twice))

    assert CliRunner().invoke(app, ["a"]).exit_code == 0
    assert CliRunner().invoke(app, ["b", "--hue", "3", "--twice", "--grey"]).exit_code == 0
    assert seen == [("a", Colour(), False), ("b", Colour(3, True), True)]
    refused = CliRunner().invoke(app, ["c", "--hue", "0"])
    assert refused.exit_code == 2 and "--hue" in refused.output and len(seen) == 2
