"""A FHIR record as dated facts, one a resource: what it is about, what it says, and where it stands."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medgemma.records.elements import (
    Resource,
    at,
    concept_text,
    contained,
    date_text,
    first_code,
    listed,
    quantity,
    reference_id,
)

DATES = (
    ("onsetDateTime",),
    ("effectiveDateTime",),
    ("authoredOn",),
    ("occurrenceDateTime",),
    ("performedPeriod", "start"),
    ("performedDateTime",),
    ("period", "start"),
    ("recordedDate",),
    ("started",),
    ("onsetPeriod", "start"),
    ("effectivePeriod", "start"),
    ("effectiveInstant",),
    ("occurrencePeriod", "start"),
    ("actualPeriod", "start"),
    ("startDate",),
    ("date",),
    ("created",),
    ("issued",),
)
"""Where a resource's date stands, the first that is there; R5's names are among them."""

NAMES = ("code", "medicationCodeableConcept", "medication", "vaccineCode", "description")
NOT_CLINICAL = frozenset(
    {
        *("Account", "AuditEvent", "Bundle", "Claim", "ClaimResponse", "Coverage", "CoverageEligibilityRequest"),
        *("CoverageEligibilityResponse", "Endpoint", "ExplanationOfBenefit", "Group", "HealthcareService", "Invoice"),
        *("Location", "Medication", "Organization", "OperationOutcome", "PaymentNotice", "PaymentReconciliation"),
        *("Practitioner", "PractitionerRole", "Provenance", "RelatedPerson", "Schedule", "Slot", "Subscription"),
    }
)
"""Billing, administration, and what other resources name: no facts of a patient."""
ERROR = "entered-in-error"

UNTYPED = "without a resource type"
NO_FACT = "of billing, administration or naming"
MISTAKEN = "entered in error"
SILENT = "without a name, a value or a status"


@dataclass(frozen=True)
class Fact:
    """What one resource says."""

    category: str
    """The resource's type: Condition, Observation, ...; Patient for the patient's own line."""
    date: str
    """YYYY, YYYY-MM or YYYY-MM-DD; empty if none is recorded, or what is recorded is no date."""
    text: str
    """What it is about; of a patient what is known of them, never a name."""
    value: str
    """A number as recorded, or words; empty if the resource has no value."""
    unit: str
    details: tuple[str, ...]
    """Components with their values, activities, reactions."""
    status: str
    """As recorded: active, resolved, completed, not-done, refuted, ..."""
    ended: str
    """Date of a condition's end."""
    reason: str
    reference: str
    """`Type/id` of the resource; empty without an id."""

    @property
    def statements(self) -> tuple[str, ...]:
        """All that is said beside date, category and text, without what is empty."""
        parts = (
            f"{self.value} {self.unit}".strip(),
            *self.details,
            self.status,
            f"ended {self.ended}" if self.ended else "",
            f"reason {self.reason}" if self.reason else "",
        )
        return tuple(part for part in parts if part)

    @property
    def line(self) -> str:
        """Date, category, text and statements, those that there are: `2002-01-02 | Observation | Urate | 7.1 mg/dL`."""
        return " | ".join(part for part in (self.date, self.category, self.text, *self.statements) if part)


@dataclass(frozen=True)
class Facts:
    """A record's facts, and how many resources gave none."""

    facts: tuple[Fact, ...]
    """The patient first, then by date, those without a date last; equal dates in the record's order."""
    left_out: Mapping[str, int]
    """Reason to resources."""


def facts_of(resources: Iterable[Resource]) -> Facts:
    """Return the facts of one patient's resources; what gives none is counted by its reason.

    Args:
        resources: FHIR R4 (R5's renamed elements too); fields may be missing or of another type than they should be.
    """
    held = [resource for resource in resources if isinstance(resource, Mapping)]
    names = _names(held)
    found: list[Fact] = []
    left_out: Counter[str] = Counter()
    for resource in held:
        if reason := _why_none(resource):
            left_out[reason] += 1
            continue
        fact = _fact(resource, names)
        if fact.text or fact.statements:
            found.append(fact)
        else:
            left_out[SILENT] += 1
    found.sort(key=lambda fact: (fact.category != "Patient", fact.date or "~"))
    return Facts(tuple(found), dict(left_out))


def record_text(resources: Iterable[Resource], categories: Sequence[str] = ()) -> str:
    """Return the record as text, a fact a line, oldest first: what goes into a prompt whole.

    Ids, references and codes are left out; a reason that refers to another resource is named.

    Args:
        resources: Of one patient.
        categories: Only these resource types; all if empty. The patient's own line is always there.
    """
    return facts_text(facts_of(resources).facts, categories)


def facts_text(facts: Iterable[Fact], categories: Sequence[str] = ()) -> str:
    """Return facts as `record_text` does."""
    return "\n".join(f.line for f in facts if f.category == "Patient" or not categories or f.category in categories)


def _why_none(resource: Resource) -> str:
    kind = resource.get("resourceType")
    if not isinstance(kind, str):
        return UNTYPED
    if kind in NOT_CLINICAL:
        return NO_FACT
    mistaken = ERROR in (resource.get("status"), first_code(resource.get("verificationStatus")))
    return MISTAKEN if mistaken else ""


def _fact(resource: Resource, names: Mapping[str, str]) -> Fact:
    kind = str(resource["resourceType"])
    identifier = resource.get("id")
    reference = f"{kind}/{identifier}" if identifier is not None else ""
    if kind == "Patient":
        return Fact(kind, "", _patient(resource), "", "", (), "", "", "", reference)
    value, unit = _value(resource)
    ended = date_text(resource.get("abatementDateTime") or at(resource, "abatementPeriod", "end"))
    return Fact(
        kind,
        _date(resource),
        _name(resource, names),
        value,
        unit,
        tuple(part for part in (_components(resource), *_details(resource)) if part),
        _status(resource),
        ended,
        _reason(resource, names),
        reference,
    )


def _date(resource: Resource) -> str:
    return next((found for path in DATES if (found := date_text(at(resource, *path)))), "")


def _name(resource: Resource, names: Mapping[str, str]) -> str:
    for field in NAMES:
        if name := concept_text(resource.get(field)):
            return name
    given = reference_id(resource.get("medicationReference") or at(resource, "medication", "reference"))
    if given in names:
        return names[given]
    if resource.get("resourceType") == "FamilyMemberHistory":
        conditions = [concept_text(at(part, "code")) for part in listed(resource, "condition")]
        return ": ".join(part for part in (concept_text(resource.get("relationship")), "; ".join(conditions)) if part)
    concepts = [
        concept_text(concept) for field in ("type", "category", "procedureCode") for concept in listed(resource, field)
    ]
    return "; ".join(name for name in concepts if name)


def _names(resources: Sequence[Resource]) -> dict[str, str]:
    """Id to what a resource is about, for those that others refer to."""
    every = [inner for resource in resources for inner in (*contained(resource), resource)]
    return {str(resource["id"]): _name(resource, {}) for resource in every if "id" in resource}


def _patient(resource: Resource) -> str:
    address: Any = next(iter(listed(resource, "address")), {})
    has_died = resource.get("deceasedBoolean") is True
    facts = {
        "born": date_text(resource.get("birthDate")),
        "died": date_text(resource.get("deceasedDateTime")) or ("yes" if has_died else ""),
        "gender": resource.get("gender"),
        "city": address.get("city") if isinstance(address, Mapping) else None,
        "marital status": concept_text(resource.get("maritalStatus")),
    }
    return " | ".join(f"{name} {value}" for name, value in facts.items() if value)


def _status(resource: Resource) -> str:
    """What a clinician must know before the content: refuted, not done, not to be given."""
    verified = first_code(resource.get("verificationStatus"))
    status = first_code(resource.get("clinicalStatus")) or resource.get("status")
    parts = [str(status)] if isinstance(status, str) else []
    parts += [verified] if verified and verified != "confirmed" else []
    parts += ["not to be given"] if resource.get("doNotPerform") is True else []
    return ", ".join(parts)


def _value(element: object) -> tuple[str, str]:
    if found := quantity(at(element, "valueQuantity")):
        return found
    low, high = (quantity(at(element, "valueRange", end)) for end in ("low", "high"))
    if low or high:
        return f"{low[0] if low else ''} to {high[0] if high else ''}".strip(), (low or high or ("", ""))[1]
    for field in ("valueString", "valueBoolean", "valueInteger", "valueDateTime", "valueTime", "conclusion"):
        value = at(element, field)
        if isinstance(value, str | bool | int | float):
            return str(value), ""
    return concept_text(at(element, "valueCodeableConcept")), ""


def _components(resource: Resource) -> str:
    parts = [
        " ".join(part for part in (concept_text(at(one, "code")), *_value(one)) if part)
        for one in listed(resource, "component")
    ]
    return "; ".join(part for part in parts if part)


def _details(resource: Resource) -> tuple[str, ...]:
    """A care plan's activities, an allergy's reactions, and whether a value is high or low."""
    activities = [concept_text(at(activity, "detail", "code")) for activity in listed(resource, "activity")]
    reactions = [
        concept_text(sign) for reaction in listed(resource, "reaction") for sign in listed(reaction, "manifestation")
    ]
    judged = [concept_text(concept) for concept in listed(resource, "interpretation")]
    return (
        "; ".join(name for name in activities if name),
        f"reaction {'; '.join(name for name in reactions if name)}" if any(reactions) else "",
        "; ".join(name for name in judged if name),
    )


def _reason(resource: Resource, names: Mapping[str, str]) -> str:
    reasons = [concept_text(concept) for concept in listed(resource, "reasonCode")]
    reasons += [names.get(reference_id(one), "") for one in listed(resource, "reasonReference")]
    for one in listed(resource, "reason"):  # R5
        reasons.append(concept_text(one) or names.get(reference_id(at(one, "reference")), ""))
    return "; ".join(dict.fromkeys(reason for reason in reasons if reason))
