"""What a recorder that died leaves behind: every step it was told is written, the episode it was at is marked."""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest

from experience import EpisodeDataset, EpisodeWriter, Step
from experience.alignment import First, Transition
from experience.storage.commit import commit, recover
from experience.storage.frames import HEAD, cut_bytes
from experience.storage.journal import Journal, episodes_of, events_of, read_events
from experience.storage.shards import write_shard
from experience.storage.values import sha256_of
from tests.experience.storage.test_dataset import content, control
from tests.experience.values import HARD, episode_of

HARD_EPISODE = episode_of(list(HARD.values()), "hard", named=HARD)


def left_behind(folder: Path) -> Path:
    """A journal with one whole episode and one of two transitions that nobody ended; its writer is gone."""
    writer = EpisodeWriter(folder)
    writer.write(HARD_EPISODE)
    writer.begin("cut", {"agent_id": "a"})
    writer.first("cut", First("o0"))
    writer.transition("cut", Transition("a0", 1.0, 1.0, "o1"))
    writer.transition("cut", Transition("a1", 2.0, 1.0, "o2"))
    writer._journal.close()  # as the death of its process does
    return writer._journal.path


def test_recovery_keeps_every_step_and_marks_the_cut_episode(tmp_path: Path) -> None:
    path = left_behind(tmp_path)
    assert recover(tmp_path) == 2 and not path.exists()
    dataset = EpisodeDataset(tmp_path)
    assert sha256_of(dataset["hard"]) == sha256_of(HARD_EPISODE)
    cut = dataset["cut"]
    assert [(s.observation, s.action, s.reward) for s in cut.steps] == [
        ("o0", "a0", 1.0),
        ("o1", "a1", 2.0),
        ("o2", None, None),
    ]
    assert (cut.metadata, cut.steps[-1].is_last) == ({"agent_id": "a", "invalid": True}, False)
    assert dataset.entry("cut").invalid and dataset.entry("hard").invalid is None


def test_recovery_twice_is_recovery_once(tmp_path: Path) -> None:
    path = left_behind(tmp_path)
    journal = path.read_bytes()
    recover(tmp_path)
    once = {file.name: file.read_bytes() for file in tmp_path.rglob("*.parquet")}
    path.write_bytes(journal)  # a crash after the commit, before the journal went
    assert recover(tmp_path) == 0 and not path.exists()
    assert {file.name: file.read_bytes() for file in tmp_path.rglob("*.parquet")} == once


def test_a_journal_cut_anywhere_gives_its_whole_frames(tmp_path: Path) -> None:
    path = left_behind(tmp_path)
    whole, events = path.read_bytes(), list(read_events(path))
    ends, place = [], 0
    while place < len(whole):
        place += HEAD.size + HEAD.unpack_from(whole, place)[0]
        ends.append(place)
    assert len(ends) == 5 and cut_bytes(path) == 0
    in_frames = [len(HARD) + 2, 1, 1, 1, 1]
    for cut in sorted(
        {1, HEAD.size - 1, HEAD.size, *(end + extra for end in ends for extra in (-1, 0, 1))} - {len(whole) + 1}
    ):
        path.write_bytes(whole[:cut])
        kept = sum(end <= cut for end in ends)
        assert len(list(read_events(path))) == sum(in_frames[:kept]), cut
        assert cut_bytes(path) == cut - max((end for end in ends if end <= cut), default=0)
    path.write_bytes(whole[:-3] + b"xyz")  # the power went while the last frame was written
    assert [event.name for event in read_events(path)] == [event.name for event in events][:-1]


def no_index(path: Path, tables: Iterable[pa.Table]) -> None:
    if path.name.startswith("episodes"):
        raise KeyboardInterrupt
    write_shard(path, tables)


def test_a_crash_before_the_index_is_replaced_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit(tmp_path, [control(1)])
    path = left_behind(tmp_path)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("experience.storage.commit.write_shard", no_index)
        recover(tmp_path)
    assert len(list((tmp_path / "steps").iterdir())) == 3  # new shards are there, and nobody names them
    assert content(list(EpisodeDataset(tmp_path))) == content([control(1)])
    assert list(EpisodeDataset(tmp_path).check()) == [
        f"{path}: was never taken in; run `medgemma-episodes recover {tmp_path}`"
    ]
    assert recover(tmp_path) == 2 and len(EpisodeDataset(tmp_path)) == 3
    assert len(list((tmp_path / "steps").iterdir())) == 2


def test_a_living_recorder_keeps_its_journal(tmp_path: Path) -> None:
    with EpisodeWriter(tmp_path) as one, EpisodeWriter(tmp_path) as other:
        one.write(control(1))
        other.write(control(2))
        assert recover(tmp_path) == 0
        with pytest.raises(ValueError, match="written by another process"):
            Journal(one._journal.path)
    assert {episode.episode_id for episode in EpisodeDataset(tmp_path)} == {"c1", "c2"}


def test_a_full_disk_is_named_and_loses_nothing(tmp_path: Path) -> None:
    """A child of ours may write files of 200 kB: the write that does not fit is refused whole."""
    child = os.fork()
    if not child:
        import resource
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
        writer, done, said = EpisodeWriter(tmp_path), 0, ""
        try:
            while done < 10_000:
                writer.write(control(done, 40))
                done += 1
        except OSError as fault:
            said = str(fault)
        (tmp_path / "said").write_text(f"{done} {said}")
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    done, said = (tmp_path / "said").read_text().split(" ", 1)
    assert "what was recorded until now is kept" in said and ".journal" in said and int(done) > 3
    assert cut_bytes(next((tmp_path / "journal").glob("*.journal"))) == 0
    assert recover(tmp_path) == int(done)
    assert content(list(EpisodeDataset(tmp_path))) == content([control(n, 40) for n in range(int(done))])


def test_events_of_an_episode_give_the_episode() -> None:
    (again,) = episodes_of(events_of(HARD_EPISODE))
    assert sha256_of(again) == sha256_of(HARD_EPISODE)


def test_a_dropped_episode_is_gone_and_its_writer_goes_on(tmp_path: Path) -> None:
    with EpisodeWriter(tmp_path) as writer:
        for name in ("dropped", "kept"):
            writer.begin(name, {})
            writer.seen(name, Step("o0", is_first=True))
            writer.step(name, Step("o0", "a0", 1.0, 1.0, is_first=True))
            writer.seen(name, Step("o1"))
        writer.drop("dropped")
    (kept,) = EpisodeDataset(tmp_path)
    assert (kept.episode_id, kept.is_invalid) == ("kept", True)
    assert [(step.observation, step.action) for step in kept.steps] == [("o0", "a0"), ("o1", None)]


def test_threads_write_through_one_writer(tmp_path: Path) -> None:
    def record(number: int) -> None:
        name = str(number)
        writer.begin(name, {})
        writer.first(name, First((number, 0)))
        for place in range(1, 30):
            writer.transition(name, Transition(place, 0.0, 1.0, (number, place), place == 29))
        writer.end(name)

    with EpisodeWriter(tmp_path) as writer, ThreadPoolExecutor(8) as pool:
        list(pool.map(record, range(16)))
    dataset = EpisodeDataset(tmp_path)
    assert [[s.observation for s in dataset[str(n)].steps] for n in range(16)] == [
        [(n, place) for place in range(30)] for n in range(16)
    ]
