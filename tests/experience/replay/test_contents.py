"""What lies in a table: steps of one arena or several, and items of several steps."""

import numpy as np
import pytest

from experience.replay import Replay, Table, rate_limiters, selectors
from experience.replay.data.items import leaves_of


@pytest.mark.parametrize("max_size", [1, 2, 5])
def test_steps_of_several_kinds_and_items_of_several_steps_in_one_table(max_size: int) -> None:
    """One after another, and in batches that fill the table or a part of it, in all orders."""
    for seed in range(20):
        random, expected = np.random.default_rng(seed), list[float]()
        replay = Replay([Table("t", selectors.Fifo(), selectors.Fifo(), max_size, rate_limiters.MinSize(1))])
        for number in range(60):
            kind = (np.float32, np.float64, np.int64)[int(random.integers(3))]
            count = int(random.integers(1, max_size + 1))
            if (what := random.random()) < 0.3:
                replay.insert(np.full(4, number, kind), {"t": 1})
            elif what < 0.6:
                replay.insert_many(np.full((count, 4), number, kind), {"t": np.ones(count)})
            elif what < 0.8:
                with replay.trajectory_writer(2) as writer:
                    writer.append(np.full(4, number, kind))
                    writer.create_item("t", 1, writer.history[-1:])
            else:
                replay.delete("t", replay.sample("t").info.key if expected else [])
            expected = expected[1:] if what >= 0.8 else expected + [number] * (count if 0.3 <= what < 0.6 else 1)
            expected = expected[-max_size:]
            state = replay.core.tables["t"].state
            found = [leaves_of(state.contents.of(row))[0] for row in state.order.oldest(len(state)).tolist()]
            assert [set(np.ravel(one).tolist()) for one in found] == [{one} for one in expected]
        replay.reset("t")
        assert replay.num_bytes == 0
