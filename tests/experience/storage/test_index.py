"""The index as a table: entries by place and id, grown without reading what it holds, flat in memory."""

from pathlib import Path

import pytest

from experience import Episode, EpisodeDataset, Step
from experience.storage.commit import commit
from experience.storage.index import open_index
from experience.storage.layout import INDEX


def made(name: str, **metadata: object) -> Episode:
    return Episode((Step(0.5, 1.0, 1.0, 1.0, True), Step(0.5, is_last=True)), name, metadata)


def test_entries_by_place_and_id(tmp_path: Path) -> None:
    names = [f"e{n * 37 % 101:03}" for n in range(101)] + ["ä", "Ω", "\U0001f600", "z" * 40]
    commit(tmp_path, [made(name, seed=place, group="g") for place, name in enumerate(names)])
    index = open_index(tmp_path / INDEX)
    assert [entry.episode_id for entry in index] == names == [index[place].episode_id for place in range(len(names))]
    assert [index.place_of(name) for name in names] == list(range(len(names)))
    assert [index.place_of(name) for name in ("", "e", "e0370", "ö", "zz")] == [None] * 5
    assert index[-1].metadata == {"seed": 104, "group": "g"} and index[100:102] == [index[100], index[101]]
    with pytest.raises(IndexError):
        index[105]
    assert commit(tmp_path, [made(names[3], seed=3, group="g")]) == 0


def test_an_index_grows_by_what_is_new(tmp_path: Path) -> None:
    """Also by episodes with other metadata: keys that are missing stay missing."""
    first, same, less, other = made("a", seed=1), made("b", seed=2), made("c"), made("d", seed="text", note=None)
    for one in (first, same, less, other):
        assert commit(tmp_path, [one]) == 1
    dataset = EpisodeDataset(tmp_path)
    assert [episode.metadata for episode in dataset] == [{"seed": 1}, {"seed": 2}, {}, {"seed": "text", "note": None}]
    assert list(dataset.check()) == []


def test_no_object_an_episode(tmp_path: Path) -> None:
    """Ten thousand ids of 32 letters: less than 250 bytes each are held."""
    commit(tmp_path, (made(f"{n:032}", agent_id="the same for all", seed=n) for n in range(10_000)))
    index = open_index(tmp_path / INDEX)
    assert index.place_of(f"{7:032}") == 7
    assert index.table.nbytes / len(index) < 250 and index.table["agent_id"].nbytes < 5 * len(index)
