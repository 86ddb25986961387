"""What goes wrong over Ray has its name: versions, dead actors, writers whose steps are gone, full limiters."""

import os
import signal
import threading
import time
from typing import Any

import numpy as np
import pytest
import ray

from experience.replay import (
    Expired,
    RateLimited,
    Replay,
    SignatureMismatch,
    Table,
    Unavailable,
    WrongVersion,
    rate_limiters,
    selectors,
)
from experience.replay.on_ray import calls
from experience.replay.on_ray.client import NAMESPACE
from experience.transformations.trees import ArraySpec
from tests.ray.everywhere import OnRay, pid_of


def test_a_client_of_another_version_is_refused(new: OnRay, monkeypatch: pytest.MonkeyPatch) -> None:
    replay = new([Table.queue("q", 5)], name="of this version")
    with monkeypatch.context() as patched:
        patched.setattr(calls, "PROTOCOL", 99)
        with pytest.raises(WrongVersion, match="client speaks version 99 of the replay's calls, its actor 2; install"):
            replay.insert(0, {"q": 1})
        with pytest.raises(WrongVersion):
            Replay.on_ray(None, [Table.queue("q", 5)], name="of this version")
    replay.insert(1, {"q": 1})  # which did not end it
    assert replay.sample("q").data.tolist() == [1]


def test_an_actor_that_is_none_of_ours_is_refused(new: OnRay) -> None:
    new([Table.queue("q", 5)])

    class Other:
        """An actor of an old version: it knows other calls."""

    taken = ray.remote(Other).options(name="taken", namespace=NAMESPACE, num_cpus=0).remote()
    with pytest.raises(WrongVersion, match="replay 'taken': its actor does not know the call 'met'"):
        Replay.on_ray(None, [Table.queue("q", 5)], name="taken")
    ray.kill(taken)


def test_a_dead_actor_is_named(new: OnRay) -> None:
    replay = new([Table.queue("q", 5)], name="short")
    replay.close()
    for call in (lambda: replay.insert(0, {"q": 1}), replay.info, lambda: replay.sample("q", timeout=1)):
        with pytest.raises(
            Unavailable, match=r"replay 'short': its actor is dead.* no folder .*on_ray\(\.\.\., folder"
        ):
            call()
    replay.close()


def test_a_call_under_way_when_the_actor_dies_is_named(new: OnRay, tmp_path: Any) -> None:
    replay = new([Table.queue("q", 5)], folder=tmp_path)
    replay.insert(7, {"q": 1})
    replay.sample("q")
    found: list[Any] = []

    def sample() -> None:
        try:
            replay.sample("q")
        except Unavailable as fault:
            found.append(fault)

    thread = threading.Thread(target=sample)
    thread.start()
    while not replay.info()["q"].sample_waits.waiting:
        time.sleep(0.02)
    ray.kill(replay._actors[0].handle, no_restart=False)
    thread.join(60)
    assert "comes back with all that was acknowledged; whether this call was done is not known" in str(found[0])


def test_a_writer_whose_steps_are_gone_says_so(new: OnRay, tmp_path: Any) -> None:
    replay = new([Table.queue("q", 50)], folder=tmp_path)
    writer = replay.trajectory_writer(3)
    writer.append({"x": 1})
    writer.create_item("q", 1, writer.history["x"][:])
    writer.flush()
    killed = pid_of(replay)
    os.kill(killed, signal.SIGKILL)
    while pid_of(replay) == killed:
        time.sleep(0.05)
    assert replay.info()["q"].size == 1
    writer.append({"x": 2})
    with pytest.raises(Expired, match="steps of the writer are gone with the actor that had them; make another"):
        writer.flush()


def test_faults_of_a_folder_and_of_data_keep_their_names(new: OnRay, tmp_path: Any) -> None:
    signed = Table.queue("q", 5, signature={"x": ArraySpec((2,), np.dtype("f4"))})
    replay = new([signed], folder=tmp_path)
    with pytest.raises(
        SignatureMismatch, match=r"^table 'q', x: expected float32 of shape \(2,\), got float64 of \(2,\)$"
    ):
        replay.insert({"x": np.zeros(2)}, {"q": 1})
    replay.close()
    with pytest.raises(ValueError, match=r"holds the tables \['q'\]; got \['r'\]; name the same"):
        new([Table.queue("r", 5)], folder=tmp_path)


def test_many_inserts_that_wait_let_a_sample_through(new: OnRay) -> None:
    """More than the threads of the actor: those of samples are others."""
    replay = new([Table.queue("q", 1)])
    waiting = [replay._actors[0].begin("insert", "insert", number, ({"q": 1.0}, None)) for number in range(1100)]
    heard = [item for _ in range(11) for item in replay.sample("q", 100).data.tolist()]
    ray.get(waiting)
    assert sorted(heard) == list(range(1100))


def test_a_full_table_blocks_its_clients_and_says_why(new: OnRay) -> None:
    ratio = rate_limiters.SampleToInsertRatio(2.0, 1, 2.0)
    replay = new([Table("t", selectors.Uniform(), selectors.Fifo(), 9, ratio)])
    replay.insert(0, {"t": 1})
    replay.insert(1, {"t": 1})
    begin = time.monotonic()
    with pytest.raises(
        RateLimited, match=r"^table 't': insert was blocked for 0\.\d+ s; .*above max_diff 4; 2 more samples"
    ):
        replay.insert(2, {"t": 1}, timeout=0.3)
    assert time.monotonic() - begin < 30 and "above max_diff 4" in replay.info()["t"].why_no_insert
    replay.sample("t", 2)
    replay.insert(2, {"t": 1}, timeout=5)
