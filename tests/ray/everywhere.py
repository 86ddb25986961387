"""A pytest plugin: `-p tests.ray.everywhere` runs tests of `Replay` with the tables in a Ray actor.

REPLAY_ON_RAY=1: as it is made by default; =groups: with all data in groups in the object store.
"""

import os
import time
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
import ray

from experience.replay import Replay

HERE_ONLY = {
    "test_many_inserts_are_one_after_another": "looks into the core",
    "test_a_newest_first_remover_takes_the_new_item": "looks into the core",
    "test_tables_share_data_and_memory_returns": "looks into the core",
    "test_updates_and_deletes_pass_over_what_is_gone": "looks into the core",
    "test_an_empty_arena_is_not_kept_in_memory": "looks into the core",
    "test_extensions_hear_everything": "extensions are called in the actor, and tell nothing here",
    "test_statistics_say_what_happened": "extensions are called in the actor, and tell nothing here",
    "test_items_share_their_steps_and_free_them": "a writer is told later",
    "test_an_item_is_held_to_the_signature": "a writer is told later",
    "test_making_an_item_never_blocks_and_flushing_does": "a writer is told later",
    "test_partial_steps_and_columns_that_come_later": "a writer is told later",
    "test_what_is_kept_no_more_is_refused": "a writer is told later",
    "test_a_pattern_must_look_back": "a writer is told later",
}

os.environ.setdefault("RAY_worker_niceness", "0")  # it is 15: on a busy machine its workers hardly run

MODE = os.environ.get("REPLAY_ON_RAY", "")


class OnRay:
    """In the place of `Replay`."""

    def __init__(self) -> None:
        self.made: list[Any] = []

    def __call__(self, tables: Any, **options: Any) -> Any:
        if MODE == "groups":
            options.setdefault("least_row_bytes", 1)
        self.made.append(Replay.on_ray(None, tables, **{"name": uuid4().hex, **options}))
        return self.made[-1]

    def close(self) -> None:
        for one in self.made:
            one.close()


@pytest.fixture(autouse=True)
def on_ray(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if why := HERE_ONLY.get(request.node.originalname):
        pytest.skip(why)
    replay = OnRay()
    if hasattr(request.module, "Replay") and not request.module.__name__.startswith("tests.ray"):
        monkeypatch.setattr(request.module, "Replay", replay)
    yield
    replay.close()


@pytest.fixture
def new() -> Iterator[OnRay]:
    """Makes replays on Ray, and closes them."""
    replay = OnRay()
    yield replay
    replay.close()


def pid_of(replay: Any) -> int:
    """Process of the first actor, when it answers."""
    end = time.monotonic() + 300
    while time.monotonic() < end:
        try:
            found: int = ray.get(replay._actors[0].handle.__ray_call__.remote(lambda actor: os.getpid()))
            return found
        except ray.exceptions.RayActorError:
            time.sleep(0.05)
    raise AssertionError("the actor does not come back")
