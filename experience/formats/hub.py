"""A folder ready to share on the Hub: Parquet, a card that its viewer and `datasets` read, and Croissant."""

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from data_cards.croissant import croissant
from data_cards.schema import DataCard, Split
from experience.dataset import EpisodeDataset
from experience.episode import Episode
from experience.storage.commit import commit
from experience.storage.schema import arrow_type

DEFINITIONS = {
    "episode_id": "the episode that the step belongs to",
    "step": "number of the step in its episode, from 0",
    "observation": "what the agent saw",
    "action": "what it did on this observation; null on the last step",
    "reward": "what followed the action; null on the last step",
    "discount": "goes with the reward; null on the last step",
    "is_first": "whether the step is the first of its episode",
    "is_last": "whether it is the last: it holds the final observation only",
    "is_terminal": "whether the environment ended there; a last step without it was cut off",
}


def write_hub(
    folder: Path, episodes: Iterable[Episode], splits: Mapping[str, str], *, name: str, licence: str, description: str
) -> None:
    """Write a data set of episodes with README.md and croissant.json.

    Args:
        folder: To be made.
        episodes: What to share.
        splits: Episode id to split.
        name: Of the data set.
        licence: As the Hub writes it (`cc-by-4.0`); empty: `unknown`.
        description: One or two sentences.
    """
    commit(folder, episodes, split=lambda episode: splits[episode.episode_id])
    for path in (folder / "journal").iterdir():
        path.unlink()
    (folder / "journal").rmdir()
    card = card_of(folder, name, licence or "unknown", description or "Episodes in the RLDS form.")
    (folder / "README.md").write_text(_readme(folder, card), encoding="utf-8")
    document = json.dumps(croissant(card), indent=1, ensure_ascii=False)
    (folder / "croissant.json").write_text(document + "\n", encoding="utf-8")


def card_of(folder: Path, name: str, licence: str, description: str) -> DataCard:
    """Return the data card of a folder of episodes."""
    dataset = EpisodeDataset(folder)
    columns = {**DEFINITIONS, **{column: "further field" for column in dataset.specs() if column not in DEFINITIONS}}
    files = [folder / "episodes.parquet", *sorted((folder / "steps").iterdir())]
    tables = {
        path.relative_to(folder).as_posix(): Split(
            file=path.relative_to(folder).as_posix(), sha256=sha256(path.read_bytes()).hexdigest(), columns=columns
        )
        for path in files
    }
    return DataCard(
        name=name,
        title=name,
        description=description,
        version="1.0.0",
        tasks=("agent",),
        access="open",
        licence=licence,
        licence_allows_training_shipped_weights=False,
        citation="none",
        year=datetime.now(UTC).year,
        url=f"https://huggingface.co/datasets/{name}",
        source="recorded with open-medgemma",
        how_to_get="it is this folder",
        splits=tables,
        columns=columns,
        item_column="episode_id",
        group_column="episode_id",
        group_is="episode",
    )


def _readme(folder: Path, card: DataCard) -> str:
    """The card; its first lines tell the Hub which files are which table, so that `datasets` loads either."""
    dataset = EpisodeDataset(folder)
    splits = list(dict.fromkeys(dataset.entries.values("split")))
    files = "".join(f"  - split: {split}\n    path: steps/{split}-*.parquet\n" for split in splits)
    invalid = sum(map(bool, dataset.entries.values("invalid")))
    num_steps = sum(dataset.entries.values("num_steps"))
    columns = "".join(
        f"| {name} | {arrow_type(spec)} | {card.columns[name]} |\n" for name, spec in dataset.specs().items()
    )
    return f"""---
license: {card.licence}
pretty_name: {card.title}
tags:
- rlds
- reinforcement-learning
configs:
- config_name: steps
  default: true
  data_files:
{files}- config_name: episodes
  data_files: episodes.parquet
---

# {card.title}

{card.description}

{len(dataset)} episodes ({invalid} of them invalid: cut by a crash or an error), {num_steps} steps, in the form of RLDS
(Ramos et al., arXiv:2111.02767): N transitions are N + 1 steps, the last holds the final observation only, and what
means nothing there is null. `episodes.parquet` has one row an episode, with the SHA-256 of
its content.

| column of the steps | type | |
|---|---|---|
{columns}
```python
from datasets import load_dataset
steps = load_dataset("{card.name}", "steps", split="{splits[0]}")
```
"""
