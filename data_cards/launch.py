"""The scripts of the distribution. Each first looks whether another one has put a package of the same name here.

The package index holds other projects called `medgemma`, `evals` and `finetune`: installed into one environment, files
of both lie in one folder, and what runs is neither.
"""

import sys
from importlib import import_module
from importlib.metadata import packages_distributions

DISTRIBUTION = "open-medgemma"
PACKAGES = ("data_cards", "experience", "medsiglip", "medgemma", "evals", "finetune")


def foreign_owners() -> dict[str, list[str]]:
    """Other distributions that hold a package of ours, each with the packages."""
    owners = packages_distributions()
    found: dict[str, list[str]] = {}
    for package in PACKAGES:
        for other in sorted({*owners.get(package, ())} - {DISTRIBUTION}):
            found.setdefault(other, []).append(package)
    return found


def medgemma() -> None:
    """Entry point of the `medgemma` script."""
    _run("medgemma")


def medsiglip() -> None:
    """Entry point of the `medsiglip` script."""
    _run("medsiglip")


def medgemma_data() -> None:
    """Entry point of the `medgemma-data` script."""
    _run("data_cards")


def medgemma_episodes() -> None:
    """Entry point of the `medgemma-episodes` script."""
    _run("experience")


def medgemma_eval() -> None:
    """Entry point of the `medgemma-eval` script."""
    _run("evals")


def medgemma_finetune() -> None:
    """Entry point of the `medgemma-finetune` script."""
    _run("finetune")


def _run(package: str) -> None:
    if others := foreign_owners():
        named = "; ".join(f"{other} has {', '.join(packages)}" for other, packages in others.items())
        sys.exit(
            f"error: other installed distributions hold packages of {DISTRIBUTION}'s names ({named}); run "
            f"`pip uninstall {' '.join(others)}` and install {DISTRIBUTION} again, or in an environment of its own"
        )
    import_module(f"{package}.cli").main()
