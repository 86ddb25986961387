"""dm-reverb 0.14 as the oracle: the same draws of the same table, and limiters that let the same calls through."""

import json
import os
import random
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experience.replay import Replay, Table, rate_limiters, selectors
from experience.replay.tables.rate_limiters import RateLimiter

DRAW: dict[str, Any] = {
    "exponent": 0.6,
    "priorities": [float(number % 10) for number in range(50)],
    "updates": {"3": 30.0, "7": 0.0, "11": 0.25, "40": 5.0},
    "deleted": [5, 29],
    "count": 20_000,
}
LIMITERS = [
    [1.5, 2, -1.0, 3.0],
    [5.0, 2, 0.0, 5.0],
    [1.0, 1, 0.0, 4.0],
    [2.0, 5, 5.0, 15.0],
    [1.0, 3, -1e300, 1e300],
]


def calls(seed: int) -> list[str]:
    chosen = random.Random(seed)
    return [chosen.choice(["insert", "insert", "sample"]) for _ in range(60)] + ["sample"] * 20


@pytest.fixture(scope="module")
def theirs() -> Any:
    python = str(Path(os.environ["EPISODES_RLDS_PYTHON"]).absolute())
    limiters = [{"limiter": limiter, "calls": calls(number)} for number, limiter in enumerate(LIMITERS)]
    done = subprocess.run(
        [python, str(Path(__file__).with_name("reverb_alone.py"))],
        input=json.dumps({"draw": DRAW, "limiters": limiters}),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_the_same_table_is_drawn_from_alike(theirs: Any) -> None:
    sampler = selectors.Prioritized(DRAW["exponent"])
    replay = Replay([Table("t", sampler, selectors.Fifo(), 1000, rate_limiters.MinSize(1))])
    keys = replay.insert_many(np.arange(50), {"t": np.array(DRAW["priorities"])})["t"]
    replay.update_priorities("t", keys[[int(item) for item in DRAW["updates"]]], list(DRAW["updates"].values()))
    replay.delete("t", keys[DRAW["deleted"]])
    batch = replay.sample("t", DRAW["count"])
    ours = np.bincount(batch.data, minlength=50)
    counts, reported = (np.array(one) for one in theirs["drawn"])
    both = ours + counts
    assert both[[0, 7, 10, 20, 30, *DRAW["deleted"]]].sum() == 0 and (both > 0).sum() == 43
    statistic = ((ours - counts)[both > 0] ** 2 / both[both > 0]).sum()
    assert statistic < 76.1  # two samples of one size, chi-square of 42 degrees of freedom: p = 0.001
    mine = np.zeros(50)
    mine[batch.data] = batch.info.probability
    assert np.allclose(mine[both > 0], reported[both > 0], rtol=0, atol=1e-9)


@pytest.mark.parametrize("number", range(len(LIMITERS)))
def test_limiters_let_the_same_calls_through(theirs: Any, number: int) -> None:
    samples_per_insert, min_size, min_diff, max_diff = LIMITERS[number]
    limiter = RateLimiter(samples_per_insert, int(min_size), min_diff, max_diff)
    replay = Replay([Table("t", selectors.Fifo(), selectors.Fifo(), 8, limiter)])
    found = []
    for call in calls(number):
        found.append([replay.can_insert("t"), replay.can_sample("t")])
        if call == "insert" and found[-1][0]:
            replay.insert(0, {"t": 1.0})
        elif call == "sample" and found[-1][1]:
            replay.sample("t")
    assert found == theirs["allowed"][number]
    assert [True, False] in found and (number == 4 or any(not insert for insert, _ in found))
