"""Patient data of the test files, and a search for it in bytes.

Values come from every DICOM file that the tests read: pydicom's bundled ones, the kit's `dicom-real`, and the
constants below, which our own tests put into files they make. A value is searched for if it is distinctive:

- at least six bytes in UTF-8, at least three different characters, and at least eight digits where it is digits only;
- no part of a test file's own path, which results name as the user gave it, nor of our own sources and documents:
  "operator" and "TOSHIBA" may be words of ours (the constants below are searched for all the same);
- no UID of the standard itself (1.2.840.10008...).

Names are searched for whole, with "^" also as a space, and by component. `Values.left_out` counts what the rules
leave out. The search ignores case, and finds UTF-8, UTF-16, JSON, HTML, URL and Python escapes.
"""

from __future__ import annotations

import html
import json
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np

ROOT = Path(__file__).parents[1]

FUZZ_IDENTITY = {
    "PatientName": "FUZZ^PLANTED",
    "PatientID": "FZID-90210-77",
    "PatientBirthDate": "19010203",
    "AccessionNumber": "FZACC-55512",
}
"""In every DICOM file of the fuzz tests."""

PLANTED = {
    **{text: keyword for keyword, text in FUZZ_IDENTITY.items()},
    "Zebedee^Quimby": "PatientName",
    "Zebedee": "PatientName",
    "Quimby": "PatientName",
    "MRN-31337": "PatientID",
    "19570123": "PatientBirthDate",
    "ACC31337": "AccessionNumber",
    "1.2.826.0.1.3680043.8.498.77001": "SOPInstanceUID",
    "DOE^JANE": "PatientName",
}
"""Value: keyword, of every identity that our tests put into files they make; searched for as they stand here."""

PERSONAL_KEYWORDS = frozenset(
    [
        *("PatientName", "PatientID", "OtherPatientIDs", "OtherPatientNames", "PatientBirthName"),
        *("PatientMotherBirthName", "PatientBirthDate", "PatientAddress", "PatientTelephoneNumbers"),
        *("AdditionalPatientHistory", "PatientComments", "ResponsiblePerson", "MilitaryRank"),
        *("AccessionNumber", "StudyID", "RequestedProcedureID", "AdmissionID"),
        *("InstitutionName", "InstitutionAddress", "InstitutionalDepartmentName"),
        *("ReferringPhysicianName", "PerformingPhysicianName", "RequestingPhysician", "OperatorsName"),
        *("PhysiciansOfRecord", "NameOfPhysiciansReadingStudy"),
        *("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID"),
    ]
)
_NAMING_VALUES = ("personal_data.py", "test_personal_data.py")  # their words are what is searched for
_OWN_TEXTS = (".py", ".md", ".toml", ".yaml", ".html", ".jinja", "Makefile")


class Values(NamedTuple):
    """What is searched for."""

    keywords: dict[str, str]
    """Text: DICOM keyword."""
    left_out: Counter[str]
    """Reason: number of values."""


class Hit(NamedTuple):
    position: int
    keyword: str


def dicom_folders(kit: Path | None = None) -> list[Path]:
    """Where the tests' DICOM files are: pydicom's bundled ones, and the kit's if there is one."""
    import pydicom.data

    bundled = Path(pydicom.data.__file__).parent
    return [bundled, *([kit / "dicom-real"] if kit and (kit / "dicom-real").is_dir() else [])]


def collect(folders: Iterable[Path]) -> Values:
    """Read all DICOM files below folders and keep what is distinctive."""
    paths = sorted(path for folder in folders for path in folder.rglob("*") if path.is_file())
    words = "\n".join(str(path) for path in paths).lower() + own_texts()
    keywords, left_out = {}, Counter[str]()
    for text, keyword in _personal_values(paths):
        reason = _why_left_out(text, words)
        if reason is None:
            keywords.setdefault(text, keyword)
        else:
            left_out[reason] += 1
    return Values(keywords | PLANTED, left_out)


@cache
def own_texts() -> str:
    """Our sources and documents in lower case."""
    folders = [path for path in ROOT.iterdir() if not path.name.startswith(".")]
    paths = [path for folder in folders for path in [folder, *folder.rglob("*")] if path.name.endswith(_OWN_TEXTS)]
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in paths if path.name not in _NAMING_VALUES]
    return "\n".join(texts).lower()


def _personal_values(paths: Iterable[Path]) -> Iterator[tuple[str, str]]:
    """Every different value and its keyword."""
    seen: set[str] = set()
    for path in paths:
        for text, keyword in _values_of_file(path):
            for part in _with_components(text, keyword):
                if part not in seen:
                    seen.add(part)
                    yield part, keyword


def _values_of_file(path: Path) -> list[tuple[str, str]]:
    """Nothing of a file that is not DICOM; as far as it goes of one that is damaged."""
    from pydicom import config, dcmread

    values: list[tuple[str, str]] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config.logger.disabled = True
        try:
            for item in dcmread(path, stop_before_pixels=True).iterall():
                if item.keyword in PERSONAL_KEYWORDS and item.value:
                    values += [(str(value).strip(), item.keyword) for value in _several(item)]
        except Exception:  # the bundled files hold damage of many kinds
            return values
        finally:
            config.logger.disabled = False
    return values


def _several(item: Any) -> list[Any]:
    return list(item.value) if item.VM > 1 else [item.value]


def _with_components(text: str, keyword: str) -> list[str]:
    """A person's name with its groups and components; anything else as it is."""
    is_name = "Name" in keyword or keyword in ("RequestingPhysician", "PhysiciansOfRecord", "ResponsiblePerson")
    if not is_name or "Institution" in keyword:
        return [text] if text else []
    parts = [text, *re.split("[=^]", text), *text.split("=")]
    return [part for part in dict.fromkeys(part.strip(" ^=") for part in parts) if part]


def _why_left_out(text: str, words: str) -> str | None:
    if len(text.encode()) < 6 or len(set(text)) < 3 or (text.isdigit() and len(text) < 8):
        return "short"
    if text.startswith("1.2.840.10008."):
        return "a UID of the standard"
    return "a word of ours or of a file's name" if text.lower() in words else None


# The search


class Search:
    """Finds any of thousands of texts in megabytes: numpy looks up the last four bytes, then bytes are compared."""

    _KEY = 4
    _BITS = 20
    _PIECE = 1 << 22

    def __init__(self, keywords: Mapping[str, str]) -> None:
        """Prepare the forms of all texts.

        Args:
            keywords: text: DICOM keyword.
        """
        self._forms: dict[int, list[tuple[bytes, bool, str]]] = {}
        for text, keyword in keywords.items():
            for form, bounded in _forms(text):
                key = int.from_bytes(form[-self._KEY :], "little")
                self._forms.setdefault(key, []).append((form, bounded, keyword))
        self._keys = np.array(sorted(self._forms), np.uint32)
        self._table = np.zeros(1 << self._BITS, bool)
        self._table[self._hash(self._keys)] = True
        self._longest = max((len(form) for forms in self._forms.values() for form, _, _ in forms), default=0)

    def keywords_in(self, data: bytes | str) -> set[str]:
        """The keywords of all values that occur."""
        return {hit.keyword for hit in self.hits(data.encode(errors="replace") if isinstance(data, str) else data)}

    def hits(self, data: bytes) -> Iterator[Hit]:
        """Where values occur; a text is encoded as UTF-8 by the caller."""
        data = data.lower()
        for start in range(0, len(data), self._PIECE):
            yield from self._hits_in_piece(data, start)

    def _hits_in_piece(self, data: bytes, start: int) -> Iterator[Hit]:
        """Values whose last byte lies in one piece."""
        piece = np.frombuffer(data, np.uint8)[max(0, start - self._KEY + 1) : start + self._PIECE].astype(np.uint32)
        if len(piece) < self._KEY:
            return
        keys = piece[:-3] | piece[1:-2] << 8 | piece[2:-1] << 16 | piece[3:] << 24
        (places,) = np.nonzero(self._table[self._hash(keys)])
        for place in places[np.isin(keys[places], self._keys)]:
            stop = max(0, start - self._KEY + 1) + int(place) + self._KEY
            for form, bounded, keyword in self._forms[int(keys[place])]:
                if data.endswith(form, 0, stop) and not (bounded and _is_inside_a_word(data, stop - len(form), stop)):
                    yield Hit(stop - len(form), keyword)

    def _hash(self, keys: Any) -> Any:
        return (keys * np.uint32(2654435761)) >> np.uint32(32 - self._BITS)


def _forms(text: str) -> set[tuple[bytes, bool]]:
    """How a text may be written, and whether letters or digits beside it make it something else."""
    forms = set()
    for spelling in {text, text.replace("^", " "), text.replace("=", " ").replace("^", " ")}:
        escaped = (json.dumps(spelling)[1:-1], html.escape(spelling), quote(spelling), ascii(spelling)[1:-1])
        eight_bit = {written.encode().lower() for written in (spelling, *escaped)}
        bounded = re.fullmatch(r"[0-9a-f.\-]+", spelling.lower()) is not None
        forms |= {(form, bounded) for form in eight_bit if len(form) >= 6}
        # Without the zero at the end: the little-endian form of ASCII is then also found in big-endian text.
        sixteen_bit = {spelling.encode("utf-16-le").lower().rstrip(b"\0"), spelling.encode("utf-16-be").lower()}
        forms |= {(form, False) for form in sixteen_bit}
    return forms


def _is_inside_a_word(data: bytes, start: int, stop: int) -> bool:
    """Whether digits are only a part of a longer number, a fraction or a digest."""
    before, after = data[max(0, start - 1) : start], data[stop : stop + 1]
    return before.isalnum() or before == b"." or after.isalnum()


@cache
def search_for(kit: Path | None) -> Search:
    """The search for the values of all test files."""
    return Search(collect(dicom_folders(kit)).keywords)
