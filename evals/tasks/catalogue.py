"""Every task there is, by name."""

from evals.tasks import picture_questions, vqa_rad, zero_shot
from evals.tasks.task import Task

TASKS: dict[str, Task] = {task.name: task for task in (*vqa_rad.ROWS, *picture_questions.ROWS, *zero_shot.ROWS)}


def task_named(name: str) -> Task:
    """Return a task.

    Raises:
        ValueError: There is none of this name.
    """
    if name not in TASKS:
        raise ValueError(f"got task {name!r}; expected one of {', '.join(TASKS)}")
    return TASKS[name]
