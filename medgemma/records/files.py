"""Records from files: FHIR bundles (Synthea's, or any R4 server's) and bulk exports, one patient after the other.

A fault names the file, the line and what to do, never what the record says.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medgemma.records.elements import Resource, at, listed, reference_id

LINES = (".ndjson", ".jsonl")
NOT_PATIENTS = ("hospitalInformation", "practitionerInformation")
"""How names of Synthea's files begin that hold no patient."""
OWNERS = ("subject", "patient", "beneficiary", "individual")
"""Elements that say whose a resource is."""

BROKEN = "entries without a resource"
NOBODYS = "of no patient here"


@dataclass(frozen=True)
class PatientRecord:
    """All that the files hold of one patient."""

    patient_id: str
    """The Patient resource's id."""
    resources: tuple[Resource, ...]
    """The Patient, and what refers to it; also what belongs to nobody (medications, practitioners)."""
    left_out: Mapping[str, int]
    """Reason to entries of the same file that are in no record."""


def read_records(path: str | Path) -> Iterator[PatientRecord]:
    """Read one bundle, a folder of bundles, or a bulk export.

    Args:
        path: A .json file with a Bundle; an .ndjson or .jsonl file with a Bundle or a resource a line; or a folder of
            such files. The .ndjson files of a folder are one export: a patient's resources are gathered from all.

    Returns:
        Records in the order of the files. A bulk export is read twice, so that one patient at a time is in memory.

    Raises:
        ValueError: Nothing is there, or a file or line is no FHIR JSON; named without what it says.
    """
    path = Path(path)
    if path.is_dir():
        yield from _of_folder(path)
    elif not path.is_file():
        raise ValueError(f"{path}: no such file or folder; expected a FHIR bundle, a bulk export, or a folder of them")
    elif path.suffix in LINES:
        yield from _of_lines([path])
    elif path.suffix == ".json":
        yield from _of_bundle(path, _parsed(path.read_bytes(), str(path)))
    else:
        raise ValueError(f"{path}: expected .json, .ndjson or .jsonl; unpack archives first")


def _of_folder(folder: Path) -> Iterator[PatientRecord]:
    files = sorted(file for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))
    bundles = [file for file in files if file.suffix == ".json" and not file.name.startswith(NOT_PATIENTS)]
    exported = [file for file in files if file.suffix in LINES]
    if not bundles and not exported:
        inside = folder / "fhir"
        if inside.is_dir():  # Synthea's own output folder
            yield from _of_folder(inside)
            return
        raise ValueError(f"{folder}: holds no .json, .ndjson or .jsonl file; expected FHIR bundles or a bulk export")
    for file in bundles:
        yield from _of_bundle(file, _parsed(file.read_bytes(), str(file)))
    if exported:
        yield from _of_lines(exported)


def _of_bundle(file: Path, bundle: Any, place: str = "") -> Iterator[PatientRecord]:
    where = f"{file}{place}"
    if not isinstance(bundle, Mapping) or bundle.get("resourceType") != "Bundle":
        raise ValueError(f"{where}: is no FHIR Bundle; export the patient's record as one")
    left_out: Counter[str] = Counter()
    resources = []
    for entry in listed(bundle, "entry"):
        resource = at(entry, "resource")
        if isinstance(resource, Mapping) and isinstance(resource.get("resourceType"), str):
            resources.append(resource)
        else:
            left_out[BROKEN] += 1
    patients = [str(r["id"]) for r in resources if r["resourceType"] == "Patient" and "id" in r]
    if not patients:
        raise ValueError(f"{where}: holds no Patient with an id; export the patient's whole record")
    if len(set(patients)) == 1:
        yield PatientRecord(patients[0], tuple(resources), dict(left_out))
        return
    owned, shared = defaultdict(list), []
    for resource in resources:
        owner = _owner(resource)
        if owner is None:
            shared.append(resource)
        elif owner in patients:
            owned[owner].append(resource)
        else:
            left_out[NOBODYS] += 1
    for patient in dict.fromkeys(patients):
        yield PatientRecord(patient, (*owned[patient], *shared), dict(left_out))


@dataclass(frozen=True)
class _Line:
    """Where one resource of an export stands."""

    file: Path
    number: int
    offset: int


def _of_lines(files: list[Path]) -> Iterator[PatientRecord]:
    """Two readings: whose each line is, then one patient's lines after the other."""
    owned: dict[str, list[_Line]] = defaultdict(list)
    patients: dict[str, None] = {}
    shared: list[Resource] = []
    for file in files:
        for line, resource in _lines(file):
            place = f" line {line.number}"
            if resource.get("resourceType") == "Bundle":
                yield from _of_bundle(file, resource, place)
                continue
            owner = _owner(resource)
            if resource.get("resourceType") == "Patient" and owner:
                patients[owner] = None
            if owner is None:
                shared.append(resource)
            else:
                owned[owner].append(line)
    lost = sum(len(lines) for owner, lines in owned.items() if owner not in patients)
    left_out = {NOBODYS: lost} if lost else {}
    for patient in patients:
        resources = [_read(line) for line in owned[patient]]
        yield PatientRecord(patient, (*resources, *shared), left_out)


def _lines(file: Path) -> Iterator[tuple[_Line, Resource]]:
    with file.open("rb") as stream:
        offset = 0
        for number, text in enumerate(stream, start=1):
            if text.strip():
                resource = _parsed(text, f"{file}: line {number}")
                if not isinstance(resource, Mapping) or not isinstance(resource.get("resourceType"), str):
                    raise ValueError(f"{file}: line {number} is no FHIR resource; mend or drop the line")
                yield _Line(file, number, offset), resource
            offset += len(text)


def _read(line: _Line) -> Resource:
    with line.file.open("rb") as stream:
        stream.seek(line.offset)
        found: Resource = _parsed(stream.readline(), f"{line.file}: line {line.number}")
        return found


def _owner(resource: Resource) -> str | None:
    """The patient's id; None for what is nobody's."""
    if resource.get("resourceType") == "Patient":
        return str(resource["id"]) if "id" in resource else None
    return next((found for name in OWNERS if (found := reference_id(resource.get(name)))), None)


def _parsed(text: bytes, where: str) -> Any:
    try:
        return json.loads(text)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as fault:
        at_place = f"line {fault.lineno}, column {fault.colno}" if isinstance(fault, json.JSONDecodeError) else "bytes"
        raise ValueError(f"{where}: is no JSON ({at_place}); export it again") from None
