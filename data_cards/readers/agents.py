"""Cases for simulated clinics and record agents: MediQ, AgentClinic, MedAgentBench's tools and tasks."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from data_cards.readers.fields import cells, mapping, text_group, texts
from data_cards.readers.multiple_choice import MultipleChoiceQuestion, lettered_question
from data_cards.readers.tables import read_json_array, read_json_lines

EXAMINATION_PARTS = (
    "Objective_for_Doctor",
    "Patient_Actor",
    "Physical_Examination_Findings",
    "Test_Results",
    "Correct_Diagnosis",
)


@dataclass(frozen=True)
class InteractivePatient:
    """MediQ: a MedQA vignette of which the doctor sees the first sentence and must ask for the rest."""

    item_id: str
    """As in medqa-usmle."""
    initial_info: str
    context: tuple[str, ...]
    """The vignette, a sentence each."""
    atomic_facts: tuple[str, ...]
    """What the patient may reveal."""
    age: str
    """Empty where the vignette does not say."""
    gender: str
    """Empty where the vignette does not say."""
    final_question: MultipleChoiceQuestion
    group: str
    """The MedQA question, under the key that medqa-usmle's records have as `item_id`."""


@dataclass(frozen=True)
class ClinicScenario:
    """AgentClinic: what each role of a simulated consultation knows."""

    item_id: str
    objective: str
    """What the doctor is told."""
    patient: Mapping[str, object]
    """What the patient knows; nested, keys vary by case."""
    physical_examination: Mapping[str, object]
    test_results: Mapping[str, object]
    diagnosis: str
    in_base: bool
    """Whether the case is one of the base 107."""
    group: str


class FhirTool(NamedTuple):
    """One FHIR call as a tool definition."""

    name: str
    """HTTP verb and address, for example `GET {api_base}/Condition`; not unique."""
    description: str
    parameters: Mapping[str, object]
    """JSON schema."""


class TaskTemplate(NamedTuple):
    """One kind of task; places in braces are to be filled from a record."""

    task: str
    instruction: str
    context: str
    writes: bool


class FhirTools(NamedTuple):
    """MedAgentBench without its patients."""

    tools: tuple[FhirTool, ...]
    tasks: tuple[TaskTemplate, ...]


def read_mediq(folder: Path) -> list[InteractivePatient]:
    """Read mediq-interactive.

    Raises:
        ValueError: dev.jsonl.gz or a field is missing, empty or of another shape.
    """
    table = folder / "dev.jsonl.gz"
    columns = ("id", "initial_info", "context", "question", "options", "answer", "atomic_facts", "patient")
    return [_patient(table, number, row) for number, row in enumerate(read_json_lines(table, columns), start=1)]


def read_agentclinic(folder: Path) -> list[ClinicScenario]:
    """Read agentclinic-medqa.

    Raises:
        ValueError: scenarios.jsonl.gz or a part of an examination is missing, empty or of another shape.
    """
    table = folder / "scenarios.jsonl.gz"
    rows = read_json_lines(table, ("id", "in_base_107", "OSCE_Examination"))
    return [_scenario(table, number, row) for number, row in enumerate(rows, start=1)]


def read_agentclinic_release(table: Path) -> list[ClinicScenario]:
    """Read AgentClinic's own file of MedQA cases, agentclinic_medqa.jsonl or agentclinic_medqa_extended.jsonl.

    Raises:
        ValueError: The file or a part of an examination is missing, empty or of another shape.
    """
    rows = enumerate(read_json_lines(table, ("OSCE_Examination",)), start=1)
    base = table.name == "agentclinic_medqa.jsonl"
    return [
        _scenario(table, n, {**row, "id": f"agentclinic-medqa-{n - 1:03d}", "in_base_107": base}) for n, row in rows
    ]


def read_fhir_tools(folder: Path) -> FhirTools:
    """Read fhir-agent-tools.

    Raises:
        ValueError: functions.json, task-templates.jsonl.gz or a field is missing, empty or of another shape.
    """
    calls, templates = folder / "functions.json", folder / "task-templates.jsonl.gz"
    tools = []
    for number, row in enumerate(read_json_array(calls, ("name", "description", "parameters")), start=1):
        found = cells(calls, number, row, ("name", "description"))
        tools.append(FhirTool(found["name"], found["description"], mapping(calls, number, row, "parameters")))
    tasks = []
    for number, row in enumerate(read_json_lines(templates, ("task", "instruction", "context", "writes")), start=1):
        found = cells(templates, number, row, ("task", "instruction"))
        tasks.append(TaskTemplate(found["task"], found["instruction"], str(row["context"]), row["writes"] is True))
    return FhirTools(tuple(tools), tuple(tasks))


def _patient(table: Path, number: int, row: Mapping[str, object]) -> InteractivePatient:
    found = cells(table, number, row, ("id", "initial_info", "question", "answer"))
    patient = mapping(table, number, row, "patient")
    question = lettered_question(
        table,
        number,
        item_id=found["id"],
        question=found["question"],
        options={letter: str(text) for letter, text in mapping(table, number, row, "options").items()},
        answer=found["answer"],
        subject="",
        group_prefix="mediq",
    )
    return InteractivePatient(
        item_id=found["id"],
        initial_info=found["initial_info"],
        context=texts(table, number, row, "context"),
        atomic_facts=texts(table, number, row, "atomic_facts"),
        age=str(patient.get("age") or ""),
        gender=str(patient.get("gender") or ""),
        final_question=question,
        group=found["id"],
    )


def _scenario(table: Path, number: int, row: Mapping[str, object]) -> ClinicScenario:
    examination = mapping(table, number, row, "OSCE_Examination")
    missing = [part for part in EXAMINATION_PARTS if part not in examination]
    if missing:
        raise ValueError(f"{table}: record {number} has no {', '.join(missing)}; fetch the file again")
    found = cells(table, number, examination, ("Objective_for_Doctor", "Correct_Diagnosis"))
    return ClinicScenario(
        item_id=cells(table, number, row, ("id",))["id"],
        objective=found["Objective_for_Doctor"],
        patient=mapping(table, number, examination, "Patient_Actor"),
        physical_examination=mapping(table, number, examination, "Physical_Examination_Findings"),
        test_results=mapping(table, number, examination, "Test_Results"),
        diagnosis=found["Correct_Diagnosis"],
        in_base=row["in_base_107"] is True,
        group=text_group("agentclinic", found["Objective_for_Doctor"]),
    )
