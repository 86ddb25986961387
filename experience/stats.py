"""What a data set of episodes holds, in some lines."""

from collections import Counter
from collections.abc import Iterator

import numpy as np

from experience.annotations import annotation_names, annotations
from experience.dataset import EpisodeDataset
from experience.storage.commit import journals
from experience.storage.schema import arrow_type


def stats_lines(dataset: EpisodeDataset) -> Iterator[str]:
    """Yield counts, lengths, splits, columns with their types, and the mean and deviation of the rewards."""
    lengths = dataset.entries.values("num_steps")
    invalid = sum(map(bool, dataset.entries.values("invalid")))
    splits = Counter(dataset.entries.values("split"))
    yield f"episodes: {len(dataset)} ({invalid} invalid)"
    yield f"steps: {sum(lengths)} (an episode: {min(lengths, default=0)} to {max(lengths, default=0)})"
    yield "splits: " + ", ".join(f"{name} {count}" for name, count in splits.items())
    yield from _rewards(dataset)
    for name, spec in dataset.specs().items():
        yield f"column {name}: {arrow_type(spec)}"
    for name in annotation_names(dataset):
        held = annotations(dataset, name)
        yield f"annotation {name}: {len(held)} values by {', '.join(sorted({one.author for one in held}))}"
    if left := journals(dataset.folder):
        yield f"journals: {len(left)} not taken in; `medgemma-episodes recover {dataset.folder}`"


def _rewards(dataset: EpisodeDataset) -> Iterator[str]:
    """Over the steps that are not the last of their episode; mean and sample deviation in float64."""
    spec = dataset.specs().get("reward")
    if spec is None or spec.kind not in ("float", "scalar"):
        return
    parts = []
    for table in dataset.tables():
        kept = table.filter(~np.asarray(table["is_last"]))["reward"].drop_null()
        parts.append(np.asarray(kept, np.float64))
    rewards = np.concatenate(parts) if parts else np.zeros(0)
    if rewards.size:
        deviation = rewards.std(ddof=1) if rewards.size > 1 else 0.0
        yield f"reward: mean {rewards.mean():.6g}, deviation {deviation:.6g}, {rewards.size} transitions"
