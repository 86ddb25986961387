"""Findings of pictures and volumes as lines for the person who asked."""

from __future__ import annotations

from collections.abc import Iterable

from .frame import Finding, printable


class Notes:
    """Collects findings, so that what many files share is said once."""

    def __init__(self) -> None:
        self._files: dict[str, dict[str, None]] = {}  # by text, in the order in which they came

    def add(self, file: str, findings: Iterable[Finding]) -> None:
        """What was found about one picture or volume."""
        for finding in findings:
            self._files.setdefault(finding.text, {})[file] = None

    def lines(self) -> list[str]:
        """One line a finding: the first file it is about, how many more, and the text."""
        return [f"{_named(list(files))}: {text}" for text, files in self._files.items()]


def _named(files: list[str]) -> str:
    first = printable(files[0]) or "picture in memory"
    return first if len(files) == 1 else f"{first} and {len(files) - 1} more"
