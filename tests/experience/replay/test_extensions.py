"""Priorities that spread to neighbours, and statistics of items."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experience.replay import Extension, Fields, Replay, Statistics, Table, diffusion, rate_limiters, selectors


def table(*extensions: Extension, max_size: int = 6, **options: Any) -> Table:
    limiter = rate_limiters.MinSize(1)
    return Table("t", selectors.MaxHeap(), selectors.Fifo(), max_size, limiter, extensions=extensions, **options)


def priorities(replay: Replay, name: str = "t") -> list[float]:
    """From the oldest item to the newest, taken out one after another."""
    found: dict[int, float] = {}
    while replay.info()[name].size:
        info = replay.sample(name).info
        found[info.key.item()] = info.priority.item()
        replay.delete(name, info.key)
    return [found[key] for key in sorted(found)]


def test_a_new_priority_spreads_to_both_sides_and_not_further_than_its_reach() -> None:
    for reach, expected in ((1, [0, 0, 4, 8, 4, 0]), (2, [0, 2, 4, 8, 4, 2])):
        replay = Replay([table(diffusion(0.5, reach))])
        keys = replay.insert_many(np.arange(6), {"t": np.zeros(6)})["t"]
        replay.update_priorities("t", keys[3:4], [8])
        assert replay.sample("t").data.tolist() == [3]
        assert priorities(replay) == expected


def test_one_extension_keeps_the_items_of_two_tables_apart_and_those_of_two_replays() -> None:
    limiter = rate_limiters.MinSize(1)
    spread = diffusion(0.5, 1)
    both = [Table(name, selectors.Uniform(), selectors.Fifo(), 6, limiter, extensions=[spread]) for name in ("t", "u")]
    for _ in range(2):
        replay = Replay(both)
        keys = [replay.insert(number, {"t": 0.0, "u": 0.0}) for number in range(3)]  # the same in both tables
        replay.delete("u", [keys[1]["u"]])
        replay.update_priorities("t", [keys[2]["t"]], [8])
        replay.update_priorities("u", [keys[2]["u"]], [4])
        assert priorities(replay, "t") == [0, 4, 8] and priorities(replay, "u") == [2, 4]


def test_priorities_that_were_given_together_stay_and_what_is_gone_is_passed_over() -> None:
    replay = Replay([table(diffusion(0.5, 2))])
    keys = replay.insert_many(np.arange(8), {"t": np.zeros(8)})["t"]  # the first two are gone
    replay.delete("t", keys[4:5])
    replay.update_priorities("t", keys[2:4], [8, 16])
    # of the third one: 0 + (8 - 0) / 4 = 2, then 2 + (16 - 2) / 2 = 9; of the fourth (16 - 0) / 4
    assert priorities(replay) == [8, 16, 9, 4, 0]


def test_diffusion_goes_on_from_a_checkpoint_and_from_the_log(tmp_path: Path) -> None:
    def used(folder: Path | None, *, again: bool) -> list[float]:
        replay = Replay([table(diffusion(0.5))], folder=folder)
        keys = replay.insert_many(np.arange(6), {"t": np.zeros(6)})["t"]
        for checkpoint in (True, False):
            if again and checkpoint:
                replay.checkpoint()
            if again:
                replay.close()
                replay = Replay([table(diffusion(0.5))], folder=folder)
            replay.update_priorities("t", keys[2:3], [8])
            replay.insert(0, {"t": 0})
        if again:
            replay.close()
            replay = Replay([table(diffusion(0.5))], folder=folder)
        return priorities(replay)

    assert used(tmp_path, again=True) == used(None, again=False) == [8, 6, 0, 0, 0, 0]


def test_statistics_say_what_happened() -> None:
    heard = Statistics()
    replay = Replay([table(heard.extension(), max_size=3)])
    keys = [replay.insert(n, {"t": n}, fields=Fields(policy_version=n))["t"] for n in range(3)]
    replay.sample("t", 4)
    replay.update_priorities("t", keys[:1], [9])
    replay.sample("t", 2)
    replay.insert_many(np.arange(2), {"t": np.zeros(2)})  # the first two go: sampled twice, and never
    assert (heard.inserts, heard.samples, heard.updates, heard.deletes, heard.never_sampled) == (5, 6, 1, 2, 1)
    assert heard.times == {2: 1, 0: 1}
    expected = {"priority": (4 * 2 + 2 * 9) / 6, "staleness": 2 * 2 / 6, "times_sampled": 1.0, "never_sampled": 0.5}
    assert heard.means() == pytest.approx(expected)
    replay.reset("t")
    assert heard == Statistics()


@pytest.mark.parametrize(("share", "reach"), [(0.0, 1), (1.5, 1), (0.5, 0), (float("nan"), 1)])
def test_a_diffusion_that_cannot_be_is_refused(share: float, reach: int) -> None:
    with pytest.raises(ValueError, match="expected a share above 0, at most 1, and a whole reach from 1"):
        diffusion(share, reach)
    with pytest.raises(ValueError, match="got share=0.5 and reach=1.5; expected"):
        diffusion(0.5, 1.5)  # type: ignore[arg-type]
