"""A FHIR record as condensed plain text, one line a resource, oldest first: what goes into a prompt whole."""

from collections.abc import Mapping, Sequence
from typing import Any

Resource = Mapping[str, Any]

DATE_FIELDS = (
    ("onsetDateTime",),
    ("effectiveDateTime",),
    ("authoredOn",),
    ("occurrenceDateTime",),
    ("performedPeriod", "start"),
    ("performedDateTime",),
    ("period", "start"),
    ("recordedDate",),
    ("started",),
)
"""Where a resource's date stands; the first ten characters are taken."""

NAME_FIELDS = ("code", "medicationCodeableConcept", "vaccineCode", "description")


def record_text(resources: Sequence[Resource], kinds: Sequence[str] = ()) -> str:
    """Return the record, one line a resource: date, kind, name, and what it says.

    Ids, references and codes are left out; a reason that refers to another resource is named.

    Args:
        resources: Of one patient.
        kinds: Only these resource types; all if empty. The patient's own line is always there.
    """
    names = {str(resource["id"]): name_of(resource) for resource in resources if "id" in resource}
    lines = []
    for resource in resources:
        kind = str(resource["resourceType"])
        if kind == "Patient":
            lines.append(("", _patient(resource)))
        elif not kinds or kind in kinds:
            date = date_of(resource)
            lines.append((date or "~", " | ".join(part for part in (date, kind, *_said(resource, names)) if part)))
    return "\n".join(line for _, line in sorted(lines, key=lambda pair: pair[0]))


def date_of(resource: Resource) -> str:
    """Return YYYY-MM-DD, empty if the resource has no date."""
    for path in DATE_FIELDS:
        value: Any = resource
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        if isinstance(value, str):
            return value[:10]
    return ""


def name_of(resource: Resource) -> str:
    """Return what a resource is about, in words."""
    for field in NAME_FIELDS:
        if name := _concept(resource.get(field)):
            return name
    concepts = [
        _concept(concept) for field in ("type", "category", "procedureCode") for concept in _list(resource, field)
    ]
    return "; ".join(name for name in concepts if name)


def _patient(resource: Resource) -> str:
    address: Any = next(iter(_list(resource, "address")), {})
    facts = {
        "born": resource.get("birthDate"),
        "died": str(resource.get("deceasedDateTime", ""))[:10],
        "gender": resource.get("gender"),
        "city": address.get("city") if isinstance(address, Mapping) else None,
        "marital status": _concept(resource.get("maritalStatus")),
    }
    return " | ".join(("Patient", *(f"{name} {value}" for name, value in facts.items() if value)))


def _said(resource: Resource, names: Mapping[str, str]) -> list[str]:
    """Return name, value, status, end and reason, those that there are."""
    ended = resource.get("abatementDateTime") or (resource.get("performedPeriod") or {}).get("end")
    reasons = [_concept(concept) for concept in _list(resource, "reasonCode")]
    reasons += [names.get(_id(reference), "") for reference in _list(resource, "reasonReference")]
    activities = [_concept((activity.get("detail") or {}).get("code")) for activity in _list(resource, "activity")]
    reason = "; ".join(dict.fromkeys(name for name in reasons if name))
    return [
        name_of(resource),
        _value(resource),
        "; ".join(_components(resource)),
        "; ".join(name for name in activities if name),
        _status(resource),
        f"ended {str(ended)[:10]}" if ended and resource["resourceType"] == "Condition" else "",
        f"reason {reason}" if reason else "",
    ]


def _status(resource: Resource) -> str:
    coding = _list(resource.get("clinicalStatus") or {}, "coding")
    clinical = coding[0].get("code") if coding else None
    return str(clinical or resource.get("status") or "")


def _value(resource: Resource) -> str:
    quantity = resource.get("valueQuantity")
    if isinstance(quantity, Mapping):
        return f"{quantity.get('value')} {quantity.get('unit', '')}".strip()
    for field in ("valueString", "valueBoolean", "valueDateTime"):
        if field in resource:
            return str(resource[field])
    return _concept(resource.get("valueCodeableConcept"))


def _components(resource: Resource) -> list[str]:
    return [f"{_concept(part.get('code'))} {_value(part)}" for part in _list(resource, "component")]


def _concept(value: Any) -> str:
    if isinstance(value, str):
        return value
    if not isinstance(value, Mapping):
        return ""
    displays = [str(coding["display"]) for coding in _list(value, "coding") if "display" in coding]
    return str(value.get("text") or (displays[0] if displays else ""))


def _id(reference: Any) -> str:
    text = str(reference.get("reference", "")) if isinstance(reference, Mapping) else ""
    return text.removeprefix("urn:uuid:").rpartition("/")[2]


def _list(resource: Any, field: str) -> list[Any]:
    value = resource.get(field) if isinstance(resource, Mapping) else None
    return value if isinstance(value, list) else [value] if isinstance(value, Mapping) else []
