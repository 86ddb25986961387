"""What only an actor can do: die and come back, and be found by its name."""

import time
from contextlib import suppress
from pathlib import Path

import ray
import ray.util

from experience.replay import Replay, Table, Unavailable
from tests.ray.everywhere import OnRay


def test_the_actor_s_death_loses_nothing_acknowledged(new: OnRay, tmp_path: Path) -> None:
    replay = new([Table.queue("q", 1000)], folder=tmp_path)

    def inserts() -> int:
        for _ in range(400):
            try:
                return int(replay.info()["q"].inserts)
            except Unavailable:
                time.sleep(0.05)
        raise AssertionError("the actor does not come back")

    done = 0
    for kills in range(5):
        if kills:
            ray.kill(replay._actors[0].handle, no_restart=False)
        for _ in range(20):
            while inserts() == done:  # one that was under way is looked for, and done again if it is not there
                with suppress(Unavailable):
                    replay.insert(done, {"q": 1})
            done += 1
            assert inserts() == done
    assert inserts() == done == 100
    assert replay.sample("q", done).data.tolist() == list(range(done))


def test_who_asks_for_a_name_gets_the_same_replay(new: OnRay) -> None:
    replay = new([Table.queue("q", 5)], seed=1)
    replay.insert(3, {"q": 1})
    name = ray.util.list_named_actors(all_namespaces=True)[0]["name"]
    assert Replay.on_ray(None, [Table.queue("r", 5)], name=name).sample("q").data.tolist() == [3]
