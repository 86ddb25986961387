"""A data set on disk: what goes in comes out, a commit is whole or not at all, broken files are named."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from data_cards.split import side
from experience import Episode, EpisodeDataset, EpisodeWriter, Step, read_episodes, write_episodes
from experience.dataset import on_side
from experience.storage import commit as commit_module
from experience.storage.values import sha256_of
from tests.experience.values import HARD, episode_of


def control(number: int, num_steps: int = 6) -> Episode:
    """An episode of one shape of arrays."""
    random = np.random.default_rng(number)
    last = num_steps - 1
    steps = [
        Step(
            {"state": random.normal(size=3).astype("f4"), "tokens": np.arange(i, dtype="i4")},
            None if i == last else random.normal(size=2),
            None if i == last else float(random.normal()),
            None if i == last else 1.0,
            i == 0,
            i == last,
            i == last,
        )
        for i in range(num_steps)
    ]
    return Episode(tuple(steps), f"c{number}", {"agent_id": "random", "seed": number, "group": f"g{number % 5}"})


def content(episodes: list[Episode]) -> list[str]:
    return [sha256_of(episode) for episode in episodes]


def test_hard_values_one_step_and_no_step_survive(tmp_path: Path) -> None:
    episodes = [episode_of([value, value], f"e{n}", named=value) for n, value in enumerate(HARD.values())]
    episodes += [episode_of(list(HARD.values()), "all"), episode_of(["alone"], "one")]
    episodes.append(Episode((), "none", {"invalid": True}))
    assert write_episodes(tmp_path, episodes) == len(episodes)
    found = {episode.episode_id: episode for episode in read_episodes(tmp_path)}
    assert all(sha256_of(found[one.episode_id]) == sha256_of(one) for one in episodes)
    assert list(EpisodeDataset(tmp_path).check()) == []


def test_random_access_and_streaming(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit_module, "SHARD_BYTES", 4000)
    monkeypatch.setattr(commit_module, "GROUP_BYTES", 1000)
    episodes = [control(n, 1 + n % 7) for n in range(40)]
    with EpisodeWriter(tmp_path) as writer:
        for episode in episodes:
            writer.write(episode)
    dataset = EpisodeDataset(tmp_path)
    assert len(list((tmp_path / "steps").iterdir())) > 3
    assert content(list(dataset)) == content(episodes)
    assert content([dataset[n] for n in (39, 0, 17)]) == content([episodes[n] for n in (39, 0, 17)])
    assert sha256_of(dataset["c23"]) == sha256_of(episodes[23]) == dataset.entry("c23").sha256
    kept = list(dataset.read(on_side("train")))
    assert content(kept) == content([e for e in episodes if side(str(e.metadata["group"])) == "train"]) != []
    assert [len(table) for table in dataset.tables()] and sum(map(len, dataset.tables())) == sum(
        1 + n % 7 for n in range(40)
    )
    with pytest.raises(ValueError, match="holds no episode 'x'"):
        dataset["x"]
    with pytest.raises(ValueError, match="expected 0 to 39"):
        dataset[40]
    with pytest.raises(ValueError, match="'patient' in its metadata"):
        list(dataset.read(on_side("train", "patient")))


def test_a_long_episode_spans_row_groups(tmp_path: Path) -> None:
    steps = [Step(np.full(512, i, "f4"), is_first=i == 0, is_last=i == 2_999) for i in range(3_000)]
    write_episodes(tmp_path, [control(1), Episode(tuple(steps), "long"), control(2)])
    dataset = EpisodeDataset(tmp_path)
    assert pq.ParquetFile(tmp_path / "steps" / dataset.entry("long").shard).num_row_groups > 3
    assert sha256_of(dataset["long"]) == dataset.entry("long").sha256
    assert content([dataset["c2"]]) == content([control(2)])


def test_columns_may_be_added_and_types_may_change(tmp_path: Path) -> None:
    write_episodes(tmp_path, [control(1)])
    before = EpisodeDataset(tmp_path).entry(0).shard
    more = [
        Episode((Step({"state": "text"}, is_first=True, is_last=True, metadata={"note": "x"}),), "more", {"k": 1.5})
    ]
    with EpisodeWriter(tmp_path) as writer:
        writer.write(Episode(control(2).steps, "c2", {"added": [1]}))
    assert EpisodeDataset(tmp_path).entry(0).shard == before  # nothing but the metadata grew
    with EpisodeWriter(tmp_path) as writer:
        writer.write(more[0])
    dataset = EpisodeDataset(tmp_path)
    assert dataset.entry(0).shard != before  # `state` is a text now: the old shard was written again
    assert content([dataset["c1"], dataset["more"]]) == content([control(1), *more])
    types = {str(pq.read_schema(path).field("observation").type) for path in (tmp_path / "steps").iterdir()}
    assert len(types) == 1


def test_two_different_episodes_of_one_id_are_refused_and_equal_ones_are_one(tmp_path: Path) -> None:
    write_episodes(tmp_path, [control(1)])
    with pytest.raises(ValueError, match="two different episodes 'c1'"):
        write_episodes(tmp_path, [control(1), Episode(control(2).steps, "c1")])
    assert content(list(read_episodes(tmp_path))) == content([control(1)])
    with EpisodeWriter(tmp_path) as writer:
        writer.write(control(1))
    assert len(EpisodeDataset(tmp_path)) == 1
    assert write_episodes(tmp_path, [control(3)]) == 1
    assert [e.episode_id for e in read_episodes(tmp_path)] == ["c3"] and len(list((tmp_path / "steps").iterdir())) == 1


def test_a_changed_a_cut_and_a_missing_shard_are_named(tmp_path: Path) -> None:
    write_episodes(tmp_path, [control(1), control(2)])
    (shard,) = (tmp_path / "steps").iterdir()
    table = pq.read_table(shard)
    changed = table.set_column(table.column_names.index("reward"), "reward", [[9.0] * len(table)])
    pq.write_table(changed.cast(table.schema), shard)
    assert [line.split(":")[0] for line in EpisodeDataset(tmp_path).check()] == ["episode c1", "episode c2"]
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-20])
    assert [line for line in EpisodeDataset(tmp_path).check() if f"{shard}: is cut or broken" in line]
    shard.unlink()
    with pytest.raises(ValueError, match=f"{shard.name}: no such file"):
        EpisodeDataset(tmp_path)[0]
    index = tmp_path / "episodes.parquet"
    index.write_bytes(index.read_bytes()[:100])
    with pytest.raises(ValueError, match="episodes.parquet: is cut or broken"):
        EpisodeDataset(tmp_path)
    with pytest.raises(ValueError, match="expected a data set of episodes"):
        EpisodeDataset(tmp_path / "none")
