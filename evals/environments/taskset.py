"""A task as a `verifiers` taskset (extra `environments`): prompts with pictures, and the task's grade as the reward.

    from evals.environments.taskset import EvalTaskset, EvalTasksetConfig
    taskset = EvalTaskset(EvalTasksetConfig(task_name="vqa-rad", data="DATA"))

`verifiers` finds a taskset by the name of an importable module. A file of two lines is one:

    from evals.environments.taskset import EvalTaskset
    __all__ = ["EvalTaskset"]

Source: verifiers 0.3.1, `verifiers.v1`: a Taskset yields Tasks; a Task holds TaskData and its rewards.
"""

from collections.abc import Iterator

try:
    import verifiers.v1 as vf
except ImportError as missing:
    raise ImportError("verifiers is not installed; run `pip install 'open-medgemma[environments]'`") from missing

from evals.environments.training import TRAIN, reward, training_items
from evals.items import Item, Kind
from evals.tasks.catalogue import task_named
from medgemma.endpoint import shown

__all__ = ["EvalTaskset", "EvalTasksetConfig"]


class EvalTasksetConfig(vf.TasksetConfig):  # type: ignore[misc]
    """Which task, and where its data is."""

    task_name: str
    """A name of evals.environments.training.verifiable_tasks()."""
    data: str
    """Holds one folder a card name, or is that folder."""
    side: str = TRAIN
    """The train side; every other is refused."""
    seed: int = 0
    """Of the order."""
    limit: int | None = None
    """At most so many items."""


class EvalData(vf.TaskData):  # type: ignore[misc]
    """One item, as it travels with a trace; the reference answer is not put to the model."""

    task_name: str
    item_id: str
    reference: str
    kind: Kind
    group: str
    meta: dict[str, str]
    text: str
    """The prompt without its pictures."""


class EvalTask(vf.Task[EvalData, vf.State, vf.TaskConfig]):  # type: ignore[misc]
    """An item and its reward."""

    @property
    def key(self) -> str:
        """The item's name: the data's content holds pictures."""
        return f"{self.data.task_name}/{self.data.item_id}"

    @vf.reward  # type: ignore[untyped-decorator]
    async def grade(self, trace: vf.Trace) -> float:
        """Grade the last reply as `medgemma-eval score` does."""
        return reward(task_named(self.data.task_name), _item(self.data), trace.last_reply)


class EvalTaskset(vf.Taskset[EvalTask, EvalTasksetConfig]):  # type: ignore[misc]
    """The train side of a task."""

    def load(self) -> Iterator[EvalTask]:
        """Yield one task an item.

        Raises:
            ValueError: As `training_items`.
        """
        asked = self.config
        found = training_items(asked.task_name, asked.data, asked.side, asked.seed, asked.limit)
        for place, item in enumerate(found.items):
            content = [*shown(list(item.files)), {"type": "text", "text": item.prompt}]
            data = EvalData(
                idx=place,
                name=item.item_id,
                prompt=[vf.UserMessage(content=content)],
                system_prompt=found.task.system or None,
                task_name=asked.task_name,
                item_id=item.item_id,
                reference=item.reference,
                kind=item.kind,
                group=item.group,
                meta=dict(item.meta),
                text=item.prompt,
            )
            yield EvalTask(data, asked.task)


def _item(data: EvalData) -> Item:
    return Item(data.item_id, (), data.text, data.reference, data.kind, data.group, data.meta)
