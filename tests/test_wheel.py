"""The wheel holds everything the demo needs: built, installed elsewhere, run from elsewhere."""

import json
import os
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

from data_cards import launch
from tests.nano import needs_nano

SCRIPTS = {
    "medsiglip": "medsiglip",
    "medgemma": "medgemma",
    "medgemma-data": "data_cards",
    "medgemma-episodes": "experience",
    "medgemma-eval": "evals",
    "medgemma-finetune": "finetune",
}


@pytest.fixture(scope="module")
def wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from what git tracks or would track, so that a stray file cannot hide a missing one."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=repository, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(None, names):
        # the tests are no part of it, and spell the identities that nothing written may hold
        if (repository / name).is_file() and not name.startswith("tests/"):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((repository / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(out), str(source)], check=True, capture_output=True, text=True)
    (path,) = out.glob("*.whl")
    return path


@pytest.mark.slow
def test_every_package_and_its_data_are_inside(wheel: Path, repository: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for package in ("data_cards", "experience", "medsiglip", "medgemma", "evals", "finetune"):
        wanted = {
            path.relative_to(repository).as_posix()
            for path in (repository / package).rglob("*")
            if path.suffix
            in {".py", ".yaml", ".html", ".md", ".typed", ".json", ".jsonl", ".safetensors", ".model", ".jinja"}
        }
        assert wanted <= names, sorted(wanted - names)[:5]


@needs_nano
@pytest.mark.slow
def test_the_demo_runs_from_the_installed_wheel(wheel: Path, tmp_path: Path) -> None:
    """A fresh environment that borrows only the dependencies, not this checkout."""
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    packages = environment / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(packages)]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True)
    (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    for editable in Path(sysconfig.get_path("purelib")).glob("__editable__*medgemma*.pth"):
        assert editable.is_file()  # .pth files of a borrowed folder are not followed, so this checkout stays out
    code = "import medgemma, sys; from medgemma.cli import main; print(medgemma.__file__, file=sys.stderr); main()"
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    command = [str(environment / "bin" / "python"), "-c", code, "demo", "--out", str(tmp_path / "out"), "--quiet"]
    done = subprocess.run(command, cwd=tmp_path, env=clean, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert str(packages) in done.stderr
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert results["figures"] and results["pictures"]


def launched(script: str, *folders: Path) -> subprocess.CompletedProcess[str]:
    """The script's --help, with more folders to import from; it fails if that imports what takes long."""
    code = (
        f"import sys; from data_cards import launch; sys.argv = [{script!r}, '--help']\n"
        f"try:\n    launch.{script.replace('-', '_')}()\n"
        "except SystemExit as end:\n    if end.code:\n        raise\n"
        "heavy = {'torch', 'transformers', 'sklearn', 'scipy', 'pydicom', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    paths = os.pathsep.join([*map(str, folders), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | ({"PYTHONPATH": paths} if paths else {})
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_imports_nothing_heavy(script: str) -> None:
    done = launched(script)
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_another_distribution_with_our_packages_is_one_line(script: str, tmp_path: Path) -> None:
    """Two planted as pip leaves them: the index's `evals` and `medgemma`, one with a list of packages, one without."""
    for name, version in (("evals", "3.0.1"), ("medgemma", "0.1.1")):
        facts = tmp_path / f"{name}-{version}.dist-info"
        facts.mkdir()
        (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (facts / "RECORD").write_text(f"{name}/__init__.py,,\n")
    (tmp_path / "evals-3.0.1.dist-info" / "top_level.txt").write_text("evals\n")
    done = launched(script, tmp_path)
    (line,) = [line for line in done.stderr.splitlines() if "error: " in line]
    assert done.returncode != 0 and "Usage" not in done.stdout
    assert "(medgemma has medgemma; evals has evals)" in line and "`pip uninstall medgemma evals`" in line


def test_the_scripts_are_those_of_the_project(repository: Path) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["name"] == launch.DISTRIBUTION
    assert project["scripts"] == {name: f"data_cards.launch:{name.replace('-', '_')}" for name in SCRIPTS}
