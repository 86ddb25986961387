"""Run by a Python that has dm-reverb: draws of a prioritized table, and what limiters let through; JSON to stdout."""

import json
import sys
from typing import Any

import numpy as np
import reverb


def main() -> None:
    asked = json.loads(sys.stdin.read())
    sys.stdout.write(
        json.dumps({"drawn": drawn(**asked["draw"]), "allowed": [allowed(**one) for one in asked["limiters"]]}) + "\n"
    )


def drawn(exponent: float, priorities: list[float], updates: dict[str, float], deleted: list[int], count: int) -> Any:
    """Number of draws of each item, and the probability reported with it."""
    selectors, limiter = reverb.selectors, reverb.rate_limiters.MinSize(1)
    table = reverb.Table("t", selectors.Prioritized(exponent), selectors.Fifo(), 1000, limiter)
    server = reverb.Server([table])
    client = reverb.Client(f"localhost:{server.port}")
    keys = {}
    for item in range(len(priorities)):
        client.insert(np.int64(item), {"t": 1.0})
        (only,) = client.sample("t", 1, emit_timesteps=False)  # of all items the one with a weight
        assert int(np.asarray(only.data[0]).reshape(-1)[0]) == item
        keys[item] = int(np.asarray(only.info.key).reshape(-1)[0])
        client.mutate_priorities("t", updates={keys[item]: 0.0})
    client.mutate_priorities("t", updates={keys[item]: priority for item, priority in enumerate(priorities)})
    client.mutate_priorities("t", updates={keys[int(item)]: priority for item, priority in updates.items()})
    client.mutate_priorities("t", deletes=[keys[item] for item in deleted])
    counts, probabilities = [0] * len(priorities), [0.0] * len(priorities)
    for sample in client.sample("t", count, emit_timesteps=False):
        item = int(np.asarray(sample.data[0]).reshape(-1)[0])
        counts[item] += 1
        probabilities[item] = float(np.asarray(sample.info.probability).reshape(-1)[0])
    server.stop()
    return [counts, probabilities]


def allowed(limiter: list[float], calls: list[str]) -> list[list[bool]]:
    """Whether an insert and a sample would be let through, before each call; a call that would not is left out."""
    samples_per_insert, min_size, min_diff, max_diff = limiter
    rate_limiter = reverb.rate_limiters.RateLimiter(samples_per_insert, int(min_size), min_diff, max_diff)
    table = reverb.Table("t", reverb.selectors.Fifo(), reverb.selectors.Fifo(), 8, rate_limiter)
    server = reverb.Server([table])
    client = reverb.Client(f"localhost:{server.port}")
    found = []
    for call in calls:
        info = [bool(table.can_insert(1)), bool(table.can_sample(1))]
        found.append(info)
        if call == "insert" and info[0]:
            client.insert(np.int64(0), {"t": 1.0})
        elif call == "sample" and info[1]:
            list(client.sample("t", 1, emit_timesteps=False))
    server.stop()
    return found


if __name__ == "__main__":
    main()
