"""YAML under YAML under --set; messages name the key; a folder keeps to one configuration."""

import re
import sys
from pathlib import Path

import pytest

from finetune.cli import main
from finetune.configuration import Section, keep_config, load_config
from finetune.recipes.nano import config as nano_config
from finetune.recipes.nano import nano


class Inner(Section):
    steps: int
    rate: float = 0.5


class Outer(Section):
    seed: int
    inner: Inner


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "base.yaml"
    path.write_text("seed: 1\ninner:\n  steps: 10\n  rate: 0.25\n")
    return path


def test_later_files_and_overrides_win_key_by_key(file: Path, tmp_path: Path) -> None:
    over = tmp_path / "over.yaml"
    over.write_text("inner:\n  steps: 20\n")
    assert load_config(Outer, [file], []) == Outer(seed=1, inner=Inner(steps=10, rate=0.25))
    assert load_config(Outer, [file, over], []).inner == Inner(steps=20, rate=0.25)
    read = load_config(Outer, [file, over], ["inner.steps=30", "inner.steps=40", "seed = 7"])
    assert read == Outer(seed=7, inner=Inner(steps=40, rate=0.25))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("inner.stepz=3", "configuration inner.stepz: Extra inputs are not permitted; got 3"),
        ("outer.steps=3", "configuration outer: Extra inputs are not permitted"),
        ("inner.steps=many", "configuration inner.steps: Input should be a valid integer.*got 'many'"),
        ("inner.steps=1.5", "configuration inner.steps: Input should be a valid integer.*got 1.5"),
        ("inner=3", "configuration inner: Input should be a valid dictionary"),
        ("seed", "--set seed: expected key=value, such as"),
        ("seed=[1", r"--set seed=\[1: is no YAML \(while parsing"),
        ("seed.a.b=1", "configuration seed: Input should be a valid integer"),
        ("=1", "configuration : Extra inputs"),
    ],
)
def test_a_wrong_override_is_named(file: Path, override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_config(Outer, [file], [override])


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    path = tmp_path / "half.yaml"
    path.write_text("seed: 1\ninner: {}\n")
    with pytest.raises(ValueError, match="configuration inner.steps: Field required"):
        load_config(Outer, [path], [])


@pytest.mark.parametrize(("text", "message"), [("- a\n", "expected a mapping"), ("a: [1\n", "is no YAML")])
def test_a_file_that_is_no_mapping_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"broken.yaml: .*{message}"):
        load_config(Outer, [path], [])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="gone.yaml: no such configuration file"):
        load_config(Outer, [tmp_path / "gone.yaml"], [])


def test_a_folder_keeps_to_one_configuration(file: Path, tmp_path: Path) -> None:
    config, out = load_config(Outer, [file], []), tmp_path / "run"
    keep_config(load_config(Outer, [file], ["seed=2"]), out)  # nothing has run: it is replaced
    keep_config(config, out)
    (out / "stages").mkdir()
    keep_config(config, out)
    assert load_config(Outer, [out / "config.yaml"], []) == config
    with pytest.raises(ValueError, match=r"config.yaml: another run is here, with seed: \d+; repeat it"):
        keep_config(load_config(Outer, [file], ["seed=2"]), out)
    assert load_config(Outer, [out / "config.yaml"], []) == config


def test_the_recipes_own_yaml_is_whole() -> None:
    config = load_config(nano.Config, [Path(nano.__file__).with_suffix(".yaml")], ["quick=true"])
    assert config.steps(config.instruct) == config.instruct.steps // 15
    assert config.decoder.layers == 6 and config.encoder.image_size_px % 14 == 0


def called(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["medgemma-finetune", *arguments])
    with pytest.raises(SystemExit) as done:
        main()
    return int(done.value.code or 0)


def test_commands(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert called(monkeypatch, "list") == 0
    assert re.search(r"^nano: .+\n", capsys.readouterr().out, re.M)
    places = ("--data", str(tmp_path), "--out", str(tmp_path / "out"))
    assert called(monkeypatch, "run", "micro", *places) == 1
    said = capsys.readouterr().err
    assert re.search(r"recipe 'micro' is unknown; choose one of answers, .*\bclassify, .*\bnano\b", said)
    assert called(monkeypatch, "run", "nano", *places, "--set", "encoder.widht=3") == 1
    assert "error: configuration encoder.widht: Extra inputs" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


OTHERS = ("more", "frames", "scanners", "shuffled")


@pytest.mark.parametrize("name", OTHERS)
def test_the_recipes_other_files_fit_it(name: str) -> None:
    """A key that the recipe lost or gained would otherwise be met by the next reader who runs them."""
    folder = Path(nano.__file__).parent
    assert {path.stem.removeprefix("nano_") for path in folder.glob("nano_*.yaml")} == set(OTHERS)
    read = load_config(nano_config.Config, [folder / "nano.yaml", folder / f"nano_{name}.yaml"], [])
    assert read != load_config(nano_config.Config, [folder / "nano.yaml"], [])
