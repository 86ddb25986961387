"""Every task there is, by name."""

from evals.tasks import (
    agent_clinic,
    calculations,
    chest_films,
    choice_likelihood,
    ehr_tools,
    label_reports,
    multiple_choice,
    outside_questions,
    owners_rows,
    picture_classes,
    picture_questions,
    record_questions,
    report_generation,
    rubric_conversations,
    safety,
    tables,
    visual_questions,
    vqa_rad,
    zero_shot,
    zero_shot_findings,
)
from evals.tasks.task import Task

_FAMILIES = (
    vqa_rad,
    picture_questions,
    outside_questions,
    zero_shot,
    multiple_choice,
    choice_likelihood,
    visual_questions,
    chest_films,
    picture_classes,
    zero_shot_findings,
    report_generation,
    label_reports,
    record_questions,
    owners_rows,
    calculations,
    rubric_conversations,
    agent_clinic,
    ehr_tools,
    safety,
    tables,
)

TASKS: dict[str, Task] = {task.name: task for family in _FAMILIES for task in family.ROWS}


def task_named(name: str) -> Task:
    """Return a task.

    Raises:
        ValueError: There is none of this name.
    """
    if name not in TASKS:
        raise ValueError(f"got task {name!r}; expected one of {', '.join(TASKS)}")
    return TASKS[name]
