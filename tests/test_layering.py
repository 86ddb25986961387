"""A room imports only from floors below its own; inside a package, imports run one way (README: the house)."""

import ast
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = {"data_cards": 0, "experience": 1, "medsiglip": 1, "medgemma": 2, "evals": 3, "finetune": 4}
NO_TORCH = {"data_cards", "experience"}


def modules(package: str) -> dict[str, Path]:
    """Dotted name to file, of all that a package holds."""
    return {dotted(path): path for path in sorted((ROOT / package).rglob("*.py"))}


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported(source: str, importer: str, *, is_package: bool = False) -> set[str]:
    """Dotted names that a module imports, at the top or inside a function; of `from a import b` both a and a.b."""
    home = importer.split(".") if is_package else importer.split(".")[:-1]
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = ".".join(home[: len(home) - node.level + 1]) if node.level else ""
            origin = ".".join(part for part in (above, node.module) if part)
            names |= {origin, *(f"{origin}.{alias.name}" for alias in node.names)}
    return names


def violations(package: str, source: str) -> set[str]:
    names = {name.split(".")[0] for name in imported(source, f"{package}.module")}
    above = {n for n in names if n in FLOORS and n != package and FLOORS[n] >= FLOORS[package]}
    return above | (names & {"torch", "transformers", "tensorflow"} if package in NO_TORCH else set())


def file_imports(package: str) -> dict[str, set[str]]:
    """Module to the modules of its own package that it imports; a package's own __init__ leads in, and is left out."""
    known = modules(package)
    graph: dict[str, set[str]] = {}
    for name, path in known.items():
        if name != package:
            found = imported(path.read_text(encoding="utf-8"), name, is_package=path.name == "__init__.py")
            graph[name] = found & known.keys() - {name, package}
    return graph


def folder_imports(files: Mapping[str, Iterable[str]]) -> dict[str, set[str]]:
    """The same by what lies side by side in the package: its folders, each as one, and its files."""
    graph: dict[str, set[str]] = {}
    for name, found in files.items():
        one = ".".join(name.split(".")[:2])
        graph.setdefault(one, set()).update(".".join(other.split(".")[:2]) for other in found)
    return {one: found - {one} for one, found in graph.items()}


def circle(graph: Mapping[str, Iterable[str]]) -> list[str]:
    """A way through the imports that comes back to where it began, or nothing."""
    done: set[str] = set()

    def search(way: list[str]) -> list[str]:
        for name in sorted(graph.get(way[-1], ())):
            if name in way:
                return [*way[way.index(name) :], name]
            if name not in done and (found := search([*way, name])):
                return found
        done.add(way[-1])
        return []

    return next((found for name in sorted(graph) if name not in done and (found := search([name]))), [])


@pytest.mark.parametrize("path", sorted(p for name in FLOORS for p in (ROOT / name).rglob("*.py")), ids=str)
def test_imports_point_downwards(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    found = violations(package, path.read_text(encoding="utf-8"))
    assert not found, f"{path.relative_to(ROOT)} imports {sorted(found)} from its own floor or above"


@pytest.mark.parametrize("package", FLOORS)
def test_no_files_import_in_a_circle(package: str) -> None:
    assert not (found := circle(file_imports(package))), " -> ".join(found)


@pytest.mark.parametrize("package", FLOORS)
def test_folders_of_a_package_import_one_way(package: str) -> None:
    assert not (found := circle(folder_imports(file_imports(package)))), " -> ".join(found)


@pytest.mark.parametrize("folder", sorted({p.parent for name in FLOORS for p in (ROOT / name).rglob("*.py")}), ids=str)
def test_a_folder_can_be_taken_in_at_a_glance(folder: Path) -> None:
    files = [path.name for path in folder.glob("*.py") if path.name != "__init__.py"]
    assert len(files) <= MOST_FILES.get(folder.relative_to(ROOT).as_posix(), 13), sorted(files)


MOST_FILES = {
    "medsiglip/imaging/dicom": 17,
    "medsiglip/imaging/volumes": 17,
    "data_cards/readers": 30,
    "evals/tasks": 32,
    "finetune/recipes": 40,
}
"""Rooms of many steps, and flat shelves: one file a family of data sets, a benchmark, a recipe."""


def test_a_planted_upward_import_is_seen() -> None:
    assert violations("medsiglip", "def f():\n    from medgemma import MedGemma\n") == {"medgemma"}
    assert violations("medsiglip", "import experience\n") == {"experience"}
    assert violations("data_cards", "import torch\n") == {"torch"}
    assert violations("evals", "import medsiglip, data_cards\n") == set()


def test_planted_circles_are_seen() -> None:
    assert imported("from .b import f\nfrom . import c\n", "p.q.a") >= {"p.q.b", "p.q.c"}
    files = {"p.q.a": {"p.r.b"}, "p.r.b": set(), "p.r.c": {"p.q.d"}, "p.q.d": set()}
    assert circle(files) == [] and circle(folder_imports(files)) == ["p.q", "p.r", "p.q"]
    assert circle({"p.a": {"p.b"}, "p.b": {"p.c"}, "p.c": {"p.b"}}) == ["p.b", "p.c", "p.b"]
