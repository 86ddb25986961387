"""A report's text in sentences."""

import re

_ENDS = re.compile(r"(?<=[.!?;])\s+|(?<=[a-z)]{2}\.)(?=[A-Z])|\n+")
"""A full stop before a capital ends a sentence without a space too: reports are typed in haste."""
_NO_END = re.compile(r"(?:\b(?:Drs?|Mrs?|Ms|vs|approx|e\.g|i\.e|cf|No|Fig|St)\.|^\(?\d{1,2}[.)])$", re.IGNORECASE)
_NUMBER = re.compile(r"^\s*(?:\(?\d{1,2}[.)](?!\d)|[-*•])\s*")
_HEADING = re.compile(r"^\s*(?:findings|impressions?|conclusion|summary)\s*:\s*", re.IGNORECASE)


def sentences(text: str) -> list[str]:
    """Divide a text into sentences, without numbers of a list ("1.") and without `Findings:` and `Impression:`.

    "No." ends a sentence only as a whole answer: "No. 3" is left whole.
    """
    parts: list[str] = []
    for line in text.split("\n"):
        open_part = ""
        for part in _ENDS.split(line):
            open_part = f"{open_part} {part}".strip()
            if not _NO_END.search(open_part) or open_part.lower() == "no.":
                parts.append(open_part)
                open_part = ""
        parts.append(open_part)
    bare = (_NUMBER.sub("", _HEADING.sub("", part)).strip() for part in parts)
    return [part for part in bare if re.search(r"\w", part)]
