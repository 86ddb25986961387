"""A task's protocol as text: what one must know to repeat a figure, or to compare with a published one."""

import json
from collections.abc import Iterator

from evals.report.content import Published, published_for
from evals.tasks.task import Task

HOW = {
    "text": "the model writes; the answer is parsed",
    "label": "a picture encoder picks the class",
    "choices": "the likelihoods of given continuations are compared; nothing is generated",
    "dialogue": "the model takes part in a conversation",
}


def lines_of(task: Task) -> Iterator[str]:
    """Yield the lines."""
    yield f"{task.name}, version {task.version}: {task.summary}"
    yield ""
    yield from (f"{name:<12} {said}" for name, said in _facts(task) if said)
    yield ""
    yield "wording (all that prompts are made of apart from the data):"
    yield json.dumps(task.wording(), indent=1, ensure_ascii=False)
    published = published_for(task)
    if published:
        yield ""
        yield "published figures:"
        yield from (_published(figure) for figure in published)


def _facts(task: Task) -> Iterator[tuple[str, str]]:
    yield "data", ", ".join(task.cards)
    yield "sides", ", ".join(task.sides) + " (the first by default)"
    yield "answers", f"{HOW[task.answers]}; form: {task.form}"
    yield "main metric", task.main_metric
    yield "parsing", _first_line(task.parse.__doc__ if task.parse else None)
    yield "grading", _first_line(task.grade.__doc__)
    yield "broken down", f"by {task.breakdown}" if task.breakdown else ""
    yield "subgroups", ", ".join(task.subgroups)
    yield "learns from", f"the side {task.trained_on}, by a linear probe" if task.trained_on else ""
    yield "examples", f"{task.num_fewshot}, from the side {task.fewshot_from}" if task.fewshot_from else ""
    if task.answers in ("text", "dialogue"):
        yield "length", f"{task.max_new_tokens} tokens at most" + ("; published with thinking" if task.thinks else "")
    yield "system turn", task.system


def _first_line(docstring: str | None) -> str:
    return (docstring or "").strip().split("\n")[0]


def _published(figure: Published) -> str:
    data = figure.card if figure.is_same_data else f"{figure.card} (related data)"
    return f"  {figure.value:g}  {figure.metric}; {figure.model}; {data}; {figure.protocol}; {figure.source}"
