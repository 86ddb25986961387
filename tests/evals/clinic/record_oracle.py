"""A script that works with the tools as a perfect model would, and computes each answer from what they brought.

It sees nothing but prompts; the references it is compared with were computed from the bundles by another program.
"""

import json
import re
from collections.abc import Sequence
from typing import Any

from evals.clinic.dialogue import Message

TYPES = {
    "birth": ["Patient"],
    "city": ["Patient"],
    "cond": ["Condition"],
    "obs": ["Observation"],
    "bp": ["Observation"],
    "enc": ["Encounter"],
    "med": ["MedicationRequest"],
    "imm": ["Immunization"],
    "allergy": ["AllergyIntolerance"],
    "proc": ["Procedure"],
}


class Oracle:
    """Answers one question of a category."""

    def __init__(self, category: str) -> None:
        self.category = category
        self.resources: list[dict[str, Any]] = []

    def __call__(self, messages: Sequence[Message]) -> str:
        prompt = messages[-1]["content"]
        if '"tool": "manifest"' in prompt:
            return f"```json\n{json.dumps({'tool': 'manifest', 'patient_id': _patient(prompt)})}\n```"
        if prompt.endswith('for example ["Condition"].'):
            there = json.loads(prompt.split("display=code:\n")[1].split("\n\nWhich")[0])
            wanted = TYPES[self.category.split("_")[0]] + (["Condition"] if self.category == "med_reason" else [])
            return json.dumps([kind for kind in wanted if kind in there] or list(there)[:1])
        if '"tool": "fetch"' in prompt:
            kind = prompt.split("Fetch ")[1].split(".")[0]
            codes = prompt.split("display=code: ")[1].split("\nReply")[0]
            asked = [pair for pair in codes.split(", ") if kind == "Observation" and self._is_asked(pair, prompt)]
            return json.dumps({"tool": "fetch", "patient_id": _patient(prompt), "resource_type": kind, "codes": asked})
        if "resources, one a line:" in prompt:
            lines = prompt.split("one a line:\n")[1].split("\n\nWrite down")[0].splitlines()
            self.resources += [json.loads(line) for line in lines]
            return f"{len(lines)} read"
        return self.answer(prompt.split("Question: ")[1].split("\n\nFacts")[0])

    def _is_asked(self, pair: str, prompt: str) -> bool:
        name = pair.rsplit("=", 1)[0]
        return name == "Blood Pressure" if self.category == "bp_latest" else name in prompt.splitlines()[0]

    def answer(self, question: str) -> str:
        """Compute the answer from the fetched resources."""
        about = [r for r in self.resources if _name(r) and _name(r) in question]
        longest = max((len(_name(r)) for r in about), default=0)
        about = sorted((r for r in about if len(_name(r)) == longest), key=_when)
        method = getattr(self, f"_{self.category}")
        return str(method(question, about))

    def _birth_date(self, question: str, about: list[Any]) -> str:
        return str(self.resources[0]["birthDate"])

    def _city(self, question: str, about: list[Any]) -> str:
        return str(self.resources[0]["address"][0]["city"])

    def _cond_onset(self, question: str, about: list[Any]) -> str:
        return _when(about[0])[:10]

    def _cond_active(self, question: str, about: list[Any]) -> str:
        return "; ".join({_name(r) for r in self.resources if _status(r) == "active"}) or "none"

    def _cond_status(self, question: str, about: list[Any]) -> str:
        return _status(about[-1])

    def _cond_absent(self, question: str, about: list[Any]) -> str:
        return "Yes" if about else "No"

    _cond_present = _cond_absent

    def _obs_latest(self, question: str, about: list[Any]) -> str:
        return f"{_value(about[-1])} on {_when(about[-1])[:10]}"

    def _obs_on_date(self, question: str, about: list[Any]) -> str:
        (day,) = re.findall(r"\d{4}-\d{2}-\d{2}", question)
        return next(_value(r) for r in about if _when(r)[:10] == day)

    def _obs_max(self, question: str, about: list[Any]) -> str:
        return _value(max(about, key=lambda r: r["valueQuantity"]["value"]))

    def _obs_trend(self, question: str, about: list[Any]) -> str:
        before, after = (r["valueQuantity"]["value"] for r in about[-2:])
        return "increased" if after > before else "decreased"

    def _obs_count(self, question: str, about: list[Any]) -> str:
        return str(len(about))

    _imm_count = _proc_count = _obs_count

    def _bp_latest(self, question: str, about: list[Any]) -> str:
        latest = max((r for r in self.resources if "component" in r), key=_when)
        found = {part["code"]["coding"][0]["code"]: part["valueQuantity"]["value"] for part in latest["component"]}
        return f"{found['8480-6']:.0f}/{found['8462-4']:.0f} mmHg"

    def _enc_count_year(self, question: str, about: list[Any]) -> str:
        (year,) = re.findall(r"\b\d{4}\b", question)
        return str(sum(_when(r).startswith(year) for r in self.resources))

    def _enc_last(self, question: str, about: list[Any]) -> str:
        last = max(self.resources, key=_when)
        return f"{_when(last)[:10]}: {_name(last)}"

    def _med_active(self, question: str, about: list[Any]) -> str:
        orders = [r for r in self.resources if r["resourceType"] == "MedicationRequest"]
        return "; ".join({_name(r) for r in orders if r["status"] == "active"}) or "none"

    def _med_reason(self, question: str, about: list[Any]) -> str:
        conditions = {f"urn:uuid:{r['id']}": _name(r) for r in self.resources if r["resourceType"] == "Condition"}
        reasons = [reason["reference"] for r in about for reason in r.get("reasonReference", [])]
        return conditions[reasons[0]]

    def _med_first(self, question: str, about: list[Any]) -> str:
        return _when(about[0])[:10]

    def _imm_last(self, question: str, about: list[Any]) -> str:
        return _when(about[-1])[:10]

    _proc_last = _imm_last

    def _allergy(self, question: str, about: list[Any]) -> str:
        found = {_name(r) for r in self.resources if r["resourceType"] == "AllergyIntolerance"}
        return "; ".join(found) or "none documented"


def _patient(prompt: str) -> str:
    return re.findall(r"patient ([0-9a-f-]{36})", prompt)[0]


def _name(resource: dict[str, Any]) -> str:
    concept = resource.get("code") or resource.get("medicationCodeableConcept") or resource.get("vaccineCode")
    concept = concept or next(iter(resource.get("type", [])), None)
    return str(concept["coding"][0]["display"]) if isinstance(concept, dict) else ""


def _when(resource: dict[str, Any]) -> str:
    for field in ("onsetDateTime", "effectiveDateTime", "authoredOn", "occurrenceDateTime"):
        if field in resource:
            return str(resource[field])
    return str((resource.get("period") or resource.get("performedPeriod") or {"start": ""})["start"])


def _status(resource: dict[str, Any]) -> str:
    return str(resource.get("clinicalStatus", {"coding": [{"code": ""}]})["coding"][0]["code"])


def _value(resource: dict[str, Any]) -> str:
    quantity = resource["valueQuantity"]
    return f"{quantity['value']:.1f} {quantity['unit']}"
