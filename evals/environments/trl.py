"""A task in TRL's GRPOTrainer: the rows of its data set, and its reward function.

    found = training_items("vqa-rad", "DATA")
    trainer = GRPOTrainer(model, reward_funcs=reward_function(found), train_dataset=Dataset.from_list(rows(found)), ...)

Source: TRL, "Using a custom reward function": f(prompts, completions, **columns) returns one float (or None) a
    completion; the columns are those of the data set; of a conversation a completion is a list of messages.
"""

from collections.abc import Callable, Sequence
from typing import Any

from evals.environments.training import TrainingItems, reward
from evals.stress.metrics import stress_metric
from evals.stress.verdict import demand_not_fooled

Completion = str | Sequence[dict[str, Any]]
RewardFunction = Callable[..., list[float]]


def rows(found: TrainingItems) -> list[dict[str, Any]]:
    """Return one row an item: `prompt` (a conversation), `item_id`, and `images` where the task has pictures.

    Pictures are PIL images as a model here is shown them: windows applied, full size.

    Raises:
        ImageError: A picture cannot be read.
    """
    has_pictures = any(item.files for item in found.items)
    made = []
    for item in found.items:
        row: dict[str, Any] = {"prompt": [{"role": "user", "content": item.prompt}], "item_id": item.item_id}
        if has_pictures:
            row["images"] = [picture for file in item.files for picture in _pictures(file)]
        made.append(row)
    return made


def reward_function(found: TrainingItems) -> RewardFunction:
    """Return the task's reward under TRL's signature; the data set needs the column `item_id` (`rows` has it).

    Raises:
        ValueError: Then, if an item is none of these: its replies are not graded against another's answer.
    """
    items = {item.item_id: item for item in found.items}

    def graded(
        prompts: Sequence[Any], completions: Sequence[Completion], item_id: Sequence[str], **columns: Any
    ) -> list[float]:
        unknown = [name for name in item_id if name not in items]
        if unknown:
            raise ValueError(f"got item {unknown[0]!r}, which is none of the {len(items)} of {found.task.name}")
        return [
            reward(found.task, items[name], text_of(completion))
            for name, completion in zip(item_id, completions, strict=True)
        ]

    graded.__name__ = f"{found.task.name}_reward".replace("-", "_")  # TRL logs it
    return graded


def metric_reward(name: str) -> RewardFunction:
    """Return a metric of texts as a reward; the data set needs the column `answer`, the text compared with.

    Args:
        name: As `medgemma-eval metrics` takes it: rouge_l_f1, radgraph_f1_partial, radeval:NAME.

    Raises:
        ValueError: The name is unknown, its package is missing, or it prefers a flipped negation to a paraphrase.
    """
    metric = stress_metric(name)
    demand_not_fooled(metric)

    def graded(completions: Sequence[Completion], answer: Sequence[str], **columns: Any) -> list[float]:
        return [float(value) for value in metric.score([text_of(said) for said in completions], list(answer))]

    graded.__name__ = name.replace(":", "_")
    return graded


def text_of(completion: Completion) -> str:
    """Return the text of a completion: itself, or what the assistant's last message says."""
    if isinstance(completion, str):
        return completion
    content = next((turn["content"] for turn in reversed(completion) if turn["role"] == "assistant"), "")
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content or [])


def _pictures(file: str) -> list[Any]:
    from PIL import Image

    from medsiglip.imaging import read_pictures

    return [Image.fromarray(picture.pixels) for picture in read_pictures(file)]
