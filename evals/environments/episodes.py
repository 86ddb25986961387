"""Replies to a task's items as episodes: what was asked with its pictures, the reply, its reward.

One reply is one transition: the observation holds the messages and the pictures (PNG), the action the text and what was
thought, the reward is the task's grade. The episode ends with it.
"""

import base64
from collections.abc import Iterator
from pathlib import Path

from evals.clinic.episodes import Reply, episode_of, provenance
from evals.environments.training import reward
from evals.items import Item
from evals.outputs import Output
from evals.results.scores import read_answered
from evals.tasks.catalogue import task_named
from evals.tasks.task import Task
from experience import Episode, Step, write_episodes


def episode(task: Task, item: Item, output: Output) -> Episode:
    """Return the episode of one reply.

    Raises:
        ValueError: The task's answers are no text.
        ImageError: A picture cannot be read.
    """
    if task.answers != "text":
        raise ValueError(f"task {task.name}: its answers are no text; a dialogue's run writes its episodes itself")
    told = [{"role": "user", "content": item.prompt}]
    said = Reply(told, output.text, output.thinking or None)
    value = 0.0 if output.error else reward(task, item, output.text)
    made = episode_of(item, output, [said], [], value, ended=True, environment=task.name)
    assert made is not None, "there is one reply"
    first, *rest = made.steps
    seen = {**first.observation, "pictures": list(_pngs(item))}
    shown = Step(seen, first.action, first.reward, first.discount, is_first=True)
    return Episode((shown, *rest), made.episode_id, made.metadata)


def write_run_episodes(out_dir: Path, name: str) -> int:
    """Write the replies of a run (`medgemma-eval run --out DIR`) to DIR/<task>/episodes; return how many.

    A reply that failed is an `invalid` episode, to be dropped at read time.

    Raises:
        ValueError: The task was not run there.
    """
    task, folder = task_named(name), out_dir / name
    known = provenance(folder)
    made = (episode(task, item, output) for item, output in read_answered(task, folder))
    told = (Episode(one.steps, one.episode_id, {**known, **one.metadata}) for one in made)
    return write_episodes(folder / "episodes", told)


def _pngs(item: Item) -> Iterator[bytes]:
    from medgemma.endpoint import png_data_url
    from medsiglip.imaging import read_pictures

    for file in item.files:
        for picture in read_pictures(file):
            yield base64.b64decode(png_data_url(picture).partition(",")[2])
