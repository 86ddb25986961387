"""FHIR's data types as text: concepts, quantities, dates, references. What is missing or odd gives an empty text.

Source: HL7 FHIR R4, data types (hl7.org/fhir/R4/datatypes.html); R5's CodeableReference beside it.
"""

import re
from collections.abc import Iterator, Mapping
from datetime import date
from typing import Any

Resource = Mapping[str, Any]

_DATE = re.compile(r"(\d{4})(?:-(\d{2})(?:-(\d{2}))?)?(?:T.*)?")


def listed(element: object, name: str) -> list[Any]:
    """Return a repeating element as a list; one that is not repeated, though it should be, as a list of one."""
    value = element.get(name) if isinstance(element, Mapping) else None
    return value if isinstance(value, list) else [value] if isinstance(value, Mapping) else []


def concept_text(value: object) -> str:
    """Return the words of a CodeableConcept (its text, else its first display) or CodeableReference (R5), or a text."""
    if isinstance(value, str):
        return value
    if not isinstance(value, Mapping):
        return ""
    if "concept" in value:
        return concept_text(value["concept"])
    codings = [coding for coding in listed(value, "coding") if isinstance(coding, Mapping)]
    displays = [coding["display"] for coding in codings if "display" in coding]
    return str(value.get("text") or (displays[0] if displays else ""))


def first_code(value: object) -> str:
    """Return the first code of a CodeableConcept."""
    codings = [coding for coding in listed(value, "coding") if isinstance(coding, Mapping)]
    return str(codings[0].get("code", "")) if codings else ""


def date_text(value: object) -> str:
    """Return a date or dateTime as YYYY, YYYY-MM or YYYY-MM-DD, as exact as it was recorded; empty if it is none."""
    found = _DATE.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        return ""
    year, month, day = (int(part or 1) for part in found.groups())
    try:
        date(year, month, day)
    except ValueError:
        return ""
    return "-".join(part for part in found.groups() if part)


def quantity(value: object) -> tuple[str, str] | None:
    """Return number (with `<` or the like before it) and unit of a Quantity; None if there is no number."""
    if not isinstance(value, Mapping) or value.get("value") is None:
        return None
    return f"{value.get('comparator', '')}{value['value']}", str(value.get("unit") or value.get("code") or "")


def reference_id(value: object) -> str:
    """Return the id that a Reference ends in: 1 of `Patient/1`, `urn:uuid:1` and `https://server/Patient/1/_history/2`."""
    text = value.get("reference") if isinstance(value, Mapping) else None
    if not isinstance(text, str) or "?" in text:
        return ""
    return text.partition("/_history/")[0].removeprefix("urn:uuid:").rpartition("/")[2].removeprefix("#")


def at(resource: object, *path: str) -> Any:
    """Return what stands at a path of element names; None if it is not there."""
    value = resource
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def contained(resource: Resource) -> Iterator[Resource]:
    """Yield the resources that a resource holds inside."""
    yield from (inner for inner in listed(resource, "contained") if isinstance(inner, Mapping))
