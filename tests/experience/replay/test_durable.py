"""What a folder brings back: the same state to the last draw, after a checkpoint, a crash, a cut file, a full disk."""

import base64
import os
import random
import signal
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experience.replay import Broken, Replay, Table, rate_limiters, selectors
from experience.replay.checkpoint import FORMAT, format_of
from experience.storage.frames import HEAD, FrameFile, cut_bytes


def tables() -> list[Table]:
    limiter = rate_limiters.MinSize(1)
    return [
        Table("uniform", selectors.Uniform(), selectors.Fifo(), 40, limiter),
        Table("prioritized", selectors.Prioritized(0.6), selectors.Prioritized(1.0), 30, limiter),
        Table("heap", selectors.MaxHeap(), selectors.MinHeap(), 20, limiter, max_times_sampled=3),
        Table("lifo", selectors.Lifo(), selectors.Lifo(), 20, limiter),
        Table.queue("queue", 500),
    ]


NAMES = [table.name for table in tables()]


def use(replay: Replay, number: int, random: np.random.Generator) -> None:
    """One of everything that changes a replay."""
    what = number % 7
    name = NAMES[int(random.integers(len(NAMES)))]
    if what < 2:
        replay.insert({"x": np.full(3, number), "text": "Ä" * (number % 3)}, {one: random.random() for one in NAMES})
    elif what == 2:
        replay.insert_many(random.random((5, 4)), {one: random.random(5) for one in dict.fromkeys(("uniform", name))})
    elif what == 3 and replay.info()[name].size:
        info = replay.sample(name, 7, timeout=0).info
        replay.update_priorities(name, info.key, random.random(len(info.key)))
    elif what == 4 and replay.info()[name].size:
        replay.delete(name, replay.sample(name, 1).info.key)
    elif what == 5:
        with replay.trajectory_writer(3) as writer:
            for step in range(4):
                writer.append({"o": np.arange(step), "a": (step, random.random())})
            writer.create_item(name, 1.0, {"o": writer.history["o"][-3:], "a": writer.history["a"][0][-1]})
    elif number % 50 == 6:
        replay.reset("lifo")


def used(folder: Path | None, calls: int, checkpoint: Callable[[int], bool] = lambda number: False) -> Replay:
    replay, generator = Replay(tables(), seed=3, folder=folder), np.random.default_rng(0)
    for number in range(calls):
        use(replay, number, generator)
        if checkpoint(number):
            replay.checkpoint()
    return replay


def drawn(replay: Replay) -> list[Any]:
    """The counters, and the next draws with their data, of every table."""
    found: list[Any] = [[info[:7] for info in replay.info().values()]]
    for name in NAMES:
        for count in (1, 200, 3):
            if replay.info()[name].size:
                batch = replay.sample(name, count, timeout=0)
                info = [column.tolist() for column in batch.info]
                found.append((info, [repr(item.data) for item in batch]))
    return found


@pytest.mark.parametrize("checkpoints", [(), (699,), (100, 433)], ids=str)
def test_the_same_draws_come_again(tmp_path: Path, checkpoints: tuple[int, ...]) -> None:
    used(tmp_path / "a", 700, lambda number: number in checkpoints).close()
    again, never = Replay(tables(), seed=9, folder=tmp_path / "a"), used(None, 700)
    assert again.num_bytes == never.num_bytes > 0
    first = drawn(again)
    assert first == drawn(never)
    again.close()
    third = Replay(tables(), folder=tmp_path / "a")  # the draws were logged, too
    assert drawn(third) == drawn(never)


def test_next_ten_thousand_samples(tmp_path: Path) -> None:
    table = Table("t", selectors.Prioritized(0.6), selectors.Fifo(), 3000, rate_limiters.MinSize(1))
    replay, generator = Replay([table], folder=tmp_path), np.random.default_rng(0)
    for _ in range(50):
        replay.insert_many(generator.random((100, 8)), {"t": generator.random(100)})
        replay.update_priorities("t", replay.sample("t", 64).info.key, generator.random(64))
    replay.checkpoint()
    expected = [replay.sample("t", 100).info.key.tolist() for _ in range(50)]
    expected += [replay.sample("t").info.key.tolist() for _ in range(5000)]
    replay.close()
    calls = next(tmp_path.glob("calls-*.log"))
    calls.write_bytes(b"")  # as it was right after the checkpoint
    again = Replay([table], folder=tmp_path)
    assert [again.sample("t", 100).info.key.tolist() for _ in range(50)] == expected[:50]
    assert [again.sample("t").info.key.tolist() for _ in range(5000)] == expected[50:]


def test_a_writer_goes_on_after_a_checkpoint(tmp_path: Path) -> None:
    replay = Replay([Table.queue("q", 10)], folder=tmp_path)
    writer = replay.trajectory_writer(5)
    writer.append({"x": 1})
    replay.checkpoint()
    writer.append({"x": 2})
    writer.create_item("q", 1, writer.history["x"][:])
    replay.close()  # as a crash does, for the writer
    again = Replay([Table.queue("q", 10)], folder=tmp_path)
    assert again.sample("q").data.tolist() == [[1, 2]] and again.num_bytes == 0


def test_a_log_cut_anywhere_gives_its_whole_calls(tmp_path: Path) -> None:
    replay = Replay([Table.queue("q", 10)], folder=tmp_path)
    for number in range(4):
        replay.insert(number, {"q": 1})
    replay.close()
    path = next(tmp_path.glob("calls-*.log"))
    whole = path.read_bytes()
    ends, place = [], 0
    while place < len(whole):
        place += HEAD.size + HEAD.unpack_from(whole, place)[0]
        ends.append(place)
    for cut in [*range(0, len(whole), 13), len(whole)]:
        path.write_bytes(whole[:cut])
        again = Replay([Table.queue("q", 10)], folder=tmp_path)
        there = sum(end <= cut for end in ends) // 2  # a step, and its item
        assert again.info()["q"].size == there
        again.insert(9, {"q": 1})
        again.close()
        assert cut_bytes(path) == 0
        assert Replay([Table.queue("q", 10)], folder=tmp_path).sample("q", there + 1).data.tolist() == [
            *range(there),
            9,
        ]


def test_large_steps_in_a_log_that_is_cut(tmp_path: Path) -> None:
    steps = np.random.default_rng(0).random((3, 2, 20_000))  # 312 KB a call: a frame that is written in pieces
    with Replay([Table.queue("q", 10)], folder=tmp_path, sync=True) as replay:
        for one in steps:
            given = one.copy()
            replay.insert_many(given, {"q": np.ones(2)})
            given[:] = 0  # the log holds what it was
    path = next(tmp_path.glob("calls-*.log"))
    whole = path.read_bytes()
    for cut in (len(whole) // 3 + 5_000, len(whole) - 1, len(whole)):
        path.write_bytes(whole[:cut])
        with Replay([Table.queue("q", 10)], folder=tmp_path) as again:
            there = 3 if cut == len(whole) else 3 * cut // len(whole)
            assert again.info()["q"].size == 2 * there
            assert (again.sample("q", 2 * there).data == steps[:there].reshape(2 * there, -1)).all()
    path.write_bytes(whole[:200_000] + b"?" + whole[200_001:])
    assert Replay([Table.queue("q", 10)], folder=tmp_path).info()["q"].size == 0


def test_a_checkpoint_without_its_end_is_refused(tmp_path: Path) -> None:
    used(tmp_path, 100, lambda n: n == 99).close()
    path = next(tmp_path.glob("checkpoint-*"))
    whole = path.read_bytes()
    for damaged in (whole[:-20], whole[:200], whole[:300] + b"?" + whole[301:], b""):
        path.write_bytes(damaged)
        with pytest.raises(Broken, match=r"checkpoint-000001.replay: is cut or damaged: it has no end mark"):
            Replay(tables(), folder=tmp_path)
    path.write_bytes(whole)
    assert Replay(tables(), folder=tmp_path).info()["queue"].inserts > 0


def test_other_tables_and_limiters_are_refused_unless_asked_for(tmp_path: Path) -> None:
    def table(limit: int, max_size: int = 9, name: str = "t") -> Table:
        return Table(name, selectors.Uniform(), selectors.Fifo(), max_size, rate_limiters.MinSize(limit))

    with Replay([table(1)], folder=tmp_path) as replay:
        replay.insert(5, {"t": 1})
    with pytest.raises(ValueError, match=r"had RateLimiter\(.*min_size_to_sample=1.*; got .*min_size_to_sample=2"):
        Replay([table(2)], folder=tmp_path)
    with pytest.raises(ValueError, match=r"was \{.*'max_size': 9.*; got .*'max_size': 8"):
        Replay([table(1, 8)], folder=tmp_path)
    with pytest.raises(ValueError, match=r"holds the tables \['t'\]; got \['u'\]"):
        Replay([table(1, name="u")], folder=tmp_path)
    with Replay([table(2)], folder=tmp_path, replace_limiters=True) as replay:
        assert not replay.can_sample("t") and replay.info()["t"].size == 1
        replay.checkpoint()
    Replay([table(2)], folder=tmp_path).close()


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with Replay([Table.queue("q", 5)], folder=tmp_path), pytest.raises(ValueError, match="written by another process"):
        Replay([Table.queue("q", 5)], folder=tmp_path)


def test_a_full_disk_keeps_what_was_acknowledged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replay = Replay([Table.queue("q", 10)], folder=tmp_path)
    replay.insert(1, {"q": 1})

    def full(self: FrameFile, parts: Any, *, sync: bool = False) -> None:
        raise OSError(28, f"{self.path}: cannot be written (No space left on device)")

    with monkeypatch.context() as patched, pytest.raises(OSError, match=r"calls-000000.log: cannot be written"):
        patched.setattr(FrameFile, "append", full)
        replay.insert(2, {"q": 1})
    with monkeypatch.context() as patched, pytest.raises(OSError, match=r"checkpoint-000001.*cannot be written"):
        patched.setattr(FrameFile, "append", full)
        replay.checkpoint()
    replay.insert(3, {"q": 1})
    assert replay.info()["q"].size == 2
    replay.close()
    assert Replay([Table.queue("q", 10)], folder=tmp_path).sample("q", 2).data.tolist() == [1, 3]


def test_what_a_log_cannot_hold_is_refused_before_it_is_there(tmp_path: Path) -> None:
    replay = Replay([Table.queue("q", 10)], folder=tmp_path)
    with pytest.raises(ValueError, match="got a builtins.object"):
        replay.insert({"x": object()}, {"q": 1})
    assert replay.info()["q"].size == 0 and replay.num_bytes == 0


OF_FORMAT_1 = {
    "checkpoint-000001.replay": "c-oy)&5G1O5RSVp><b9uL8REj3PF=}CY|K62T?%~ym%Ty?47Bst@#-`o&6i;Jv{m*g0JA!XAloQfYtdK#+}WG=JHinfAv*&eVr4l`;Na%fApdCw8tf6l`4dW*tMa=OA34&v^dSNhIk4Z5*viVQqa;}t@<+Y?bFenK7QTf{k3GRRWs9#LWs*I&uz$2oVR*YkfjcMu%}5v!nMW)rI&CdloD5_;jqsV+ey~_tfARnkFR?CnmxQ8_8x2<WK4EU_1Auf2hH<$hkfq*-k+)iJ{rM8>vsMU=2*{^TxeO9=FYV!7C9=2;cY363&)Sa28Bg+-ezA=vP~7@GOgt`O>@#Mv@EbryZSlA-ijtH3#m=npj)R4RH-a$RL0yV4wcHX)k$^L7q_mP^jv0H>qC}T<}pB)WzOaYtFHAHk#7-+IjfqIPGcPRZDzY<^%<6^gs$2no=Tl=B;d`nm&P4>4?<&mhc0j#cY`qUy?}Af7;`wEM4`jND0G7$@FqTYCp@yr-Wkn-haUGLCvZZ>i4?YrDB_OiMT~i27z8Y0biVhZP8)g>%!8N)V?sPL({pH3RTn$oBz4nRj8j}g`G{8|3_r0w!&oR;DXAsi;I)Gtn9MM5*gYcZ8)~KyZ)cDP6T_%6#~DrCc(dGn*MR;%`!5_$obmtZU-SDLIm`NavKx2n{7?UTJ$}CXVST5A9s$ca{03YPBqa",  # noqa: E501
    "calls-000001.log": "c-nJhfPmIloE1<egCUfzR!UCH$x*UWDkv>c(osswEGjNhvNF+8N=Yn91T&HnOOi8EQ<SXI5_5`EYYU+ot>1_JV1%**p)?1&p_zHbsYM`jOA?cEQh@>>c4kRxZn2V8wUSC=QBh*0l2tTNU5S~Al1{W?td2o!t&UPbQD%NoW=Uo$P#sXPmIZ3CBa~Kkzy6arpP0gYVv5rzOW*%7p_@-wp#}p0K5Jh3",  # noqa: E501
}
"""What the first version wrote of four items, three draws, a checkpoint, and two more items; in base85 of zlib."""


def test_what_the_first_version_wrote_is_read(tmp_path: Path) -> None:
    for name, text in OF_FORMAT_1.items():
        (tmp_path / name).write_bytes(zlib.decompress(base64.b85decode(text)))
    table = Table("t", selectors.Uniform(), selectors.Fifo(), 5, rate_limiters.MinSize(1), max_times_sampled=2)
    with Replay([table], folder=tmp_path) as replay:
        assert replay.info()["t"][1:6] == (5, 5, 6, 3, 1)
        (kept,) = tmp_path.glob("checkpoint-*")  # an older version refuses it, and does not misread what is logged now
        assert format_of(kept) == FORMAT > 2
        replay.checkpoint()
    batch = Replay([table], folder=tmp_path).sample("t", 9, timeout=0)  # the draws that it made itself
    assert batch.info.key.tolist() == [0, 4294967299, 1, 4, 0, 4294967299, 1, 2, 4]
    assert batch.info.times_sampled.tolist() == [1, 1, 1, 1, 2, 2, 2, 2, 2]
    assert batch.data.tolist() == [0, 4, 1, 5, 0, 4, 1, 2, 5]


def test_a_replay_without_a_folder_says_so() -> None:
    with pytest.raises(ValueError, match="no folder; give it one"):
        Replay(tables()).checkpoint()


def work(folder: Path, said: int) -> None:
    """Insert, sample, and checkpoint now and then, for ever; say what was acknowledged."""
    replay = Replay([Table.queue("q", 10**6)], folder=folder)
    begin = replay.info()["q"].inserts
    for number in range(begin, 10**9):
        if number % 6 == 0:
            replay.insert({"n": number, "x": np.full(50, number)}, {"q": 1})
        elif number % 6 == 3:
            replay.insert_many({"n": np.array([number]), "x": np.full((1, 50), number)}, {"q": [1]})
        else:
            with replay.trajectory_writer(2) as writer:
                for step in (number, -number):
                    writer.append({"n": step, "x": np.full(50, step)})
                writer.create_item("q", 1, {"n": writer.history["n"][0], "x": writer.history["x"][-2]})
        os.write(said, f"i {number}\n".encode())
        if number % 4 == 3:
            taken = replay.sample("q").data
            os.write(said, f"s {taken['n'][0]}\n".encode())
        if number % 50 == 49:
            replay.checkpoint()


LEFT = 50
"""Items that one life leaves to the next."""


def test_kills_at_random_points(tmp_path: Path) -> None:
    """Thirty; `make test-faults` sets REPLAY_KILLS."""
    chosen = random.Random(0)
    inserted, sampled = 0, 0
    for _ in range(int(os.environ.get("REPLAY_KILLS", "30"))):
        heard, said = os.pipe()
        if not (child := os.fork()):
            try:
                work(tmp_path, said)
            finally:
                os._exit(1)
        os.close(said)
        lines = os.read(heard, 1)
        time.sleep(chosen.random() * 0.05)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        while more := os.read(heard, 1 << 16):
            lines += more
        os.close(heard)
        for line in lines.decode().splitlines():
            what, number = line.split()
            if what == "i":
                inserted = int(number) + 1
            else:
                sampled = int(number) + 1
        with Replay([Table.queue("q", 10**6)], folder=tmp_path) as replay:
            info = replay.info()["q"]
            assert info.inserts in (inserted, inserted + 1), "an insert is lost"  # what was cut is its acknowledgement
            assert info.samples in (sampled, sampled + 1), "a sample is lost"
            inserted, sampled = info.inserts, info.samples
            if taken := max(info.size - LEFT, 0):  # so that what comes back does not grow with every kill
                batch = replay.sample("q", taken)
                assert batch.data["n"].tolist() == list(range(sampled, sampled + taken))
                assert (batch.data["x"] == batch.data["n"][:, None]).all()
                sampled += taken
