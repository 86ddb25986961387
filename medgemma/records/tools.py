"""Two tools over one patient's FHIR record: a manifest of what is there, and a fetch of what is wanted.

Both ask a `Search`, which answers parameters with a searchset Bundle as a FHIR server does, page by page;
`local_search` is one over a bundle in memory. What a model asks wrongly is a `ToolError`, to be told to it as text.

Source: the tools of Google's EHR navigator notebook (Google-Health/medgemma), rewritten: patient scope, code filter,
    second try by category, included medications, next links followed, meta, fullUrl and search left out.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit

from medgemma.records.elements import Resource

Search = Callable[[Mapping[str, str]], Mapping[str, Any]]
"""Parameters (`_type`, `patient` or `_id`, `code`, `category`, `_include`, `_offset`) to a searchset Bundle."""

TYPES = (
    "Patient",
    "Encounter",
    "Practitioner",
    "Condition",
    "Observation",
    "AllergyIntolerance",
    "FamilyMemberHistory",
    "MedicationRequest",
    "MedicationStatement",
    "MedicationAdministration",
    "DiagnosticReport",
    "Procedure",
    "ServiceRequest",
    "Immunization",
    "CarePlan",
    "Goal",
    "ImagingStudy",
)
"""The notebook's twelve, and what Synthea's records hold beside them."""

PAGE_COUNT = 50
MOST_PAGES = 40
CODE_FIELDS = ("code", "medicationCodeableConcept", "vaccineCode", "type")
LEFT_OUT = frozenset({"meta", "text"})


class ToolError(ValueError):
    """A call that cannot be answered; the text goes to the model."""


class Fetched(NamedTuple):
    """What a fetch found."""

    resources: list[Resource]
    note: str
    """How it was found, where that is not by what was asked; empty otherwise."""


def manifest(search: Search, patient_id: str, scope: str) -> dict[str, list[str]]:
    """Return resource type to its codes, as sorted `display=code`; a type without codes has an empty list.

    Args:
        search: Of the record.
        patient_id: As the model wrote it.
        scope: The only patient that may be read.

    Raises:
        ToolError: Another patient is asked for.
    """
    _demand_patient(patient_id, scope)
    found: dict[str, list[str]] = {}
    for kind in TYPES:
        resources, _ = _all_pages(search, _parameters(kind, scope))
        if resources:
            medications = _medications(resources)
            own = [r for r in resources if r.get("resourceType") == kind]
            pairs = {f"{name}={code}" for r in own for code, name in codes_of(r, medications).items()}
            found[kind] = sorted(pairs)
    return found


def fetch(search: Search, patient_id: object, resource_type: object, codes: object, scope: str) -> Fetched:
    """Return a patient's resources of one type.

    Args:
        search: Of the record.
        patient_id: As the model wrote it, like the next two.
        resource_type: One of TYPES.
        codes: Codes, or `display=code` as the manifest has them; a list, or one text with commas; empty for all.
        scope: The only patient that may be read.

    Raises:
        ToolError: Another patient is asked for, the type is unknown, or the codes are of another form.
    """
    _demand_patient(patient_id, scope)
    if resource_type not in TYPES:
        raise ToolError(f"resource_type {resource_type!r} is none of {', '.join(TYPES)}")
    wanted = _wanted_codes(codes)
    parameters = _parameters(str(resource_type), scope)
    if not wanted:
        resources, note = _all_pages(search, parameters)
        return Fetched(_bare(resources), note)
    resources, note = _all_pages(search, {**parameters, "code": ",".join(wanted)})
    if not resources:
        resources, note = _all_pages(search, {**parameters, "category": ",".join(wanted)})
        note = note or ("found by category, not by code" if resources else "nothing has these codes or categories")
    return Fetched(_bare(resources), note)


def local_search(resources: Sequence[Resource], page_count: int = PAGE_COUNT) -> Search:
    """Return a search over the resources of one patient.

    Args:
        resources: Of the patient's bundle, in its order.
        page_count: Resources a page at most.
    """
    medications = {f"Medication/{r['id']}": r for r in resources if r.get("resourceType") == "Medication"}
    known = {f"Patient/{r['id']}" for r in resources if r.get("resourceType") == "Patient"}

    def search(parameters: Mapping[str, str]) -> Mapping[str, Any]:
        kind = parameters["_type"]
        patient = parameters.get("patient") or f"Patient/{parameters.get('_id', '')}"
        found = [r for r in resources if r.get("resourceType") == kind and patient in known]
        if code := parameters.get("code"):
            wanted = set(code.split(","))
            found = [r for r in found if wanted & set(codes_of(r, medications))]
        if category := parameters.get("category"):
            wanted = {name.lower() for name in category.split(",")}
            found = [r for r in found if wanted & _categories(r)]
        start = int(parameters.get("_offset", "0"))
        page = found[start : start + page_count]
        entries = [{"fullUrl": f"urn:uuid:{r['id']}", "resource": r, "search": {"mode": "match"}} for r in page]
        if "_include" in parameters:
            named = dict.fromkeys(_reference(r) for r in page)
            entries += [{"resource": medications[n], "search": {"mode": "include"}} for n in named if n in medications]
        more = start + page_count < len(found)
        links = [{"relation": "next", "url": _url({**parameters, "_offset": str(start + page_count)})}] if more else []
        return {"resourceType": "Bundle", "type": "searchset", "total": len(found), "entry": entries, "link": links}

    return search


def codes_of(resource: Resource, medications: Mapping[str, Resource]) -> dict[str, str]:
    """Return code to display of a resource; of one that refers to a Medication, the medication's."""
    if (name := _reference(resource)) in medications:
        resource = medications[name]
    concepts: list[Any] = []
    for field in CODE_FIELDS:
        value = resource.get(field)
        concepts += value if isinstance(value, list) else [value]
    codings = [c for concept in concepts if isinstance(concept, dict) for c in concept.get("coding", [])]
    return {str(c["code"]): str(c.get("display", "")) for c in codings if "code" in c}


def name_of(resource: Resource) -> str:
    """Return `Type/id`."""
    return f"{resource.get('resourceType')}/{resource.get('id')}"


def _parameters(kind: str, scope: str) -> dict[str, str]:
    if kind == "Patient":
        return {"_type": kind, "_id": scope}
    included = {"_include": f"{kind}:medication"} if kind.startswith("Medication") else {}
    return {"_type": kind, "patient": f"Patient/{scope}", **included}


def _all_pages(search: Search, parameters: Mapping[str, str]) -> tuple[list[Resource], str]:
    """Follow next links; a record that goes on after MOST_PAGES is cut, and the note says so."""
    resources: list[Resource] = []
    for _ in range(MOST_PAGES):
        bundle = search(parameters)
        resources += [entry["resource"] for entry in bundle.get("entry", [])]
        following = [link["url"] for link in bundle.get("link", []) if link.get("relation") == "next"]
        if not following:
            return resources, ""
        parameters = _parsed(following[0])
    return resources, f"cut off after {MOST_PAGES} pages, {len(resources)} resources; ask for fewer codes"


def _url(parameters: Mapping[str, str]) -> str:
    return f"?{urlencode(parameters)}"


def _parsed(url: str) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(url).query))


def _demand_patient(patient_id: object, scope: str) -> None:
    if str(patient_id).removeprefix("Patient/") != scope:
        raise ToolError(f"patient {patient_id!r} cannot be read here; the patient is {scope}")


def _wanted_codes(codes: object) -> list[str]:
    if codes is None:
        return []
    parts = codes.split(",") if isinstance(codes, str) else codes
    if not isinstance(parts, list) or not all(isinstance(part, str | int) for part in parts):
        raise ToolError(f"codes {json.dumps(codes)[:80]} must be a list of texts")
    return [bare for part in parts if (bare := str(part).rsplit("=", 1)[-1].strip())]


def _categories(resource: Resource) -> set[str]:
    value = resource.get("category")
    found = set()
    for part in value if isinstance(value, list) else [value]:
        if isinstance(part, str):
            found.add(part.lower())
        elif isinstance(part, dict):
            found |= {str(coding.get("code", "")).lower() for coding in part.get("coding", [])}
    return found


def _reference(resource: Resource) -> str:
    reference = resource.get("medicationReference")
    name = str(reference.get("reference", "")) if isinstance(reference, dict) else ""
    return name.replace("urn:uuid:", "Medication/")


def _medications(resources: Iterable[Resource]) -> dict[str, Resource]:
    return {name_of(r): r for r in resources if r.get("resourceType") == "Medication"}


def _bare(resources: Iterable[Resource]) -> list[Resource]:
    return [{key: value for key, value in r.items() if key not in LEFT_OUT} for r in resources]
