"""DQN on CartPole from our replay and from its peers: uniform beside torchrl's, prioritized beside cpprb's.

    make bench-replay-dqn

One agent, four buffers; environment, weights and exploration of a seed are the same for all. Every run is a line of
results/replay_dqn.jsonl; runs that are there are not made again. Prints, for each pair, the return over the whole run
and at its end with 95 % intervals over seeds, an interval of the difference, and at how many points of the curves
the intervals do not meet.

Sources: van Hasselt et al., Deep Reinforcement Learning with Double Q-learning, arXiv:1509.06461 (2015); Schaul et
al., Prioritized Experience Replay, arXiv:1511.05952 (2016): exponent 0.6, weights (N p)^-0.4 over the largest of the
batch.
"""

import argparse
import json
import time
from collections.abc import Callable
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.measure import append, provenance

STEPS, GRID = 12_000, 600
CAPACITY, BATCH, START, UPDATE_EVERY = 10_000, 64, 500, 2
DISCOUNT, LEARNING_RATE, TARGET_EVERY = 0.99, 1e-3, 250
EXPLORATION_STEPS, LEAST_EXPLORATION = 3_000, 0.05
EXPONENT, CORRECTION, LEAST_ERROR = 0.6, 0.4, 1e-4
PACKAGES = ("torch", "torchrl", "cpprb", "gymnasium", "numpy")
NAMES = ("observation", "action", "reward", "next", "terminal")
SEEDS, T_95 = 10, 2.262
"""Student's t of nine degrees of freedom: the intervals are right for ten seeds."""
PAIRS = (("uniform, ours", "uniform, torchrl"), ("prioritized, ours", "prioritized, cpprb"))


class Buffer(NamedTuple):
    """A replay buffer as the agent uses it."""

    add: Callable[[dict[str, Any]], object]
    sample: Callable[[], tuple[dict[str, Any], Any, Any]]
    """Columns as arrays, weights (n,), and what `update` takes."""
    update: Callable[[Any, Any], object]
    """With absolute TD errors (n,)."""


def ours(seed: int, *, prioritized: bool) -> Buffer:
    """A table with limiter, remover and sampler."""
    from experience.replay import Replay, Table, rate_limiters, selectors

    sampler = selectors.Prioritized(EXPONENT) if prioritized else selectors.Uniform()
    replay = Replay([Table("t", sampler, selectors.Fifo(), CAPACITY, rate_limiters.MinSize(1))], seed=seed)
    largest = [1.0]

    def sample() -> tuple[dict[str, Any], Any, Any]:
        batch = replay.sample("t", BATCH)
        weights = np.ones(BATCH)
        if prioritized:
            weights = (batch.info.table_size * batch.info.probability) ** -CORRECTION
        return batch.data, weights / weights.max(), batch.info.key

    def update(keys: Any, errors: Any) -> None:
        if prioritized:
            largest[0] = max(largest[0], float(errors.max()) + LEAST_ERROR)
            replay.update_priorities("t", keys, errors + LEAST_ERROR)

    return Buffer(lambda step: replay.insert(step, {"t": largest[0]}), sample, update)


def torchrl(seed: int) -> Buffer:
    """ReplayBuffer on LazyTensorStorage, its uniform sampler."""
    import torch
    from tensordict import TensorDict
    from torchrl.data import LazyTensorStorage, ReplayBuffer

    buffer = ReplayBuffer(storage=LazyTensorStorage(CAPACITY), batch_size=BATCH)
    buffer.set_rng(torch.Generator().manual_seed(seed))

    def sample() -> tuple[dict[str, Any], Any, Any]:
        found = buffer.sample()
        return {name: found[name].numpy() for name in NAMES}, np.ones(BATCH), None

    return Buffer(
        lambda step: buffer.add(TensorDict({name: torch.as_tensor(one) for name, one in step.items()}, [])),
        sample,
        lambda keys, errors: None,
    )


def cpprb(seed: int) -> Buffer:
    """PrioritizedReplayBuffer, which seeds itself."""
    from cpprb import PrioritizedReplayBuffer

    floats, scalar = {"shape": 4, "dtype": np.float32}, {"shape": 1, "dtype": np.float32}
    columns = {"observation": floats, "next": floats, "action": {"shape": 1, "dtype": np.int64}}
    columns |= {"reward": scalar, "terminal": scalar}
    buffer = PrioritizedReplayBuffer(CAPACITY, columns, alpha=EXPONENT, eps=LEAST_ERROR)

    def sample() -> tuple[dict[str, Any], Any, Any]:
        found = buffer.sample(BATCH, CORRECTION)
        data = {name: found[name].reshape((BATCH, 4) if name in ("observation", "next") else BATCH) for name in NAMES}
        return data, found["weights"] / found["weights"].max(), found["indexes"]

    return Buffer(lambda step: buffer.add(**step), sample, buffer.update_priorities)


BUFFERS: dict[str, Callable[[int], Buffer]] = {
    "uniform, ours": lambda seed: ours(seed, prioritized=False),
    "uniform, torchrl": torchrl,
    "prioritized, ours": lambda seed: ours(seed, prioritized=True),
    "prioritized, cpprb": cpprb,
}


class Network:
    """Two hidden layers of 64 with ReLU, Adam, in NumPy: small matrices are faster there than in torch."""

    def __init__(self, random: np.random.Generator) -> None:
        sizes = (4, 64, 64, 2)
        self.weights = [
            random.uniform(-1, 1, shape).astype(np.float32) / np.float32(np.sqrt(below))
            for below, above in pairwise(sizes)
            for shape in ((below, above), (above,))
        ]
        self._moments = [[np.zeros_like(one) for one in self.weights] for _ in range(2)]
        self._updates = 0

    def values(self, seen: Any) -> tuple[Any, list[Any]]:
        """Value of each action, (n, 2), and what each layer was given."""
        given = [seen]
        for layer in (0, 2, 4):
            out = given[-1] @ self.weights[layer] + self.weights[layer + 1]
            given.append(np.maximum(out, 0) if layer < 4 else out)
        return given.pop(), given

    def step(self, given: list[Any], slope: Any) -> None:
        """One step of Adam down a loss whose slope by the values is known."""
        slopes: list[Any] = []
        for layer in (4, 2, 0):
            slopes = [given[layer // 2].T @ slope, slope.sum(0), *slopes]
            if layer:
                slope = (slope @ self.weights[layer].T) * (given[layer // 2] > 0)
        self._updates += 1
        rate = LEARNING_RATE * np.sqrt(1 - 0.999**self._updates) / (1 - 0.9**self._updates)
        for weight, first, second, gradient in zip(self.weights, *self._moments, slopes, strict=True):
            first += np.float32(0.1) * (gradient - first)
            second += np.float32(0.001) * (gradient * gradient - second)
            weight -= np.float32(rate) * first / (np.sqrt(second) + np.float32(1e-8))


def trained(buffer: Buffer, seed: int) -> list[float]:
    """Return the mean return of the episodes that ended in each GRID steps, or of the last ones that did."""
    import gymnasium

    random, environment = np.random.default_rng(seed), gymnasium.make("CartPole-v1", disable_env_checker=True)
    online, target = Network(random), Network(random)
    curve, ended, total = list[float](), list[float](), 0.0
    seen, _ = environment.reset(seed=seed)
    for step in range(STEPS):
        if step % TARGET_EVERY == 0:
            target.weights = [weight.copy() for weight in online.weights]
        if random.random() < max(LEAST_EXPLORATION, 1 - step / EXPLORATION_STEPS):
            action = int(random.integers(2))
        else:
            action = int(online.values(seen)[0].argmax())
        following, reward, terminal, cut, _ = environment.step(action)
        total += float(reward)
        values = (seen, np.int64(action), np.float32(reward), following, np.float32(terminal))
        buffer.add(dict(zip(NAMES, values, strict=True)))
        seen = following
        if terminal or cut:
            ended, total = [*ended, total], 0.0
            seen, _ = environment.reset()
        if step >= START and step % UPDATE_EVERY == 0:
            learn(buffer, online, target)
        if step % GRID == GRID - 1:
            curve.append(float(np.mean(ended)) if ended else curve[-1])
            ended = []
    return curve


def learn(buffer: Buffer, online: Network, target: Network) -> None:
    """One update by double DQN's target and Huber's loss."""
    data, weights, keys = buffer.sample()
    seen, action, reward, following, terminal = (data[name] for name in NAMES)
    each = np.arange(BATCH)
    best = online.values(following)[0].argmax(1)
    wanted = reward + np.float32(DISCOUNT) * (1 - terminal) * target.values(following)[0][each, best]
    said, given = online.values(seen)
    errors = said[each, action] - wanted
    slope = np.zeros_like(said)
    slope[each, action] = weights.astype(np.float32) * np.clip(errors, -1, 1) / BATCH
    online.step(given, slope)
    buffer.update(keys, np.abs(errors).astype(np.float64))


def mean_and_half(values: Any) -> tuple[Any, Any]:
    """Mean over the first axis, and half of Student's 95 % interval."""
    return values.mean(0), T_95 * values.std(0, ddof=1) / np.sqrt(len(values))


def show(lines: list[dict[str, Any]]) -> None:
    """Print what the runs of each pair come to."""
    curves = {name: np.array([one["curve"] for one in lines if one["buffer"] == name]) for name in BUFFERS}
    for pair in PAIRS:
        points = []
        for name in pair:
            if len(curves[name]) != SEEDS:
                raise SystemExit(f"{name}: {len(curves[name])} runs; expected {SEEDS}")
            for what, values in (("whole run", curves[name].mean(1)), ("last 3,000", curves[name][:, -5:].mean(1))):
                mean, half = mean_and_half(values)
                print(f"{name:20} {what:12} {mean:6.1f} [{mean - half:.1f}, {mean + half:.1f}]  n = {len(values)}")
            points.append(mean_and_half(curves[name]))
        one, other = (curves[name].mean(1) for name in pair)
        half = T_95 * np.sqrt(one.var(ddof=1) / len(one) + other.var(ddof=1) / len(other))
        difference = one.mean() - other.mean()
        print(f"  difference over the whole run {difference:.1f} [{difference - half:.1f}, {difference + half:.1f}]")
        (means, halves), (others, other_halves) = points
        apart = np.abs(means - others) > halves + other_halves
        print(f"  intervals do not meet at {int(apart.sum())} of {len(apart)} points")


def main() -> None:
    """Run what is missing, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "replay_dqn.jsonl")
    asked = parser.parse_args()
    lines = [json.loads(line) for line in asked.out.read_text().splitlines()] if asked.out.exists() else []
    done = {(one["buffer"], one["seed"]) for one in lines}
    for seed in range(SEEDS):
        for name, make in BUFFERS.items():
            if (name, seed) not in done:
                begin = time.perf_counter()
                curve = trained(make(seed), seed)
                line = {"buffer": name, "seed": seed, "curve": [round(one, 2) for one in curve]}
                line["seconds"] = round(time.perf_counter() - begin, 1)
                line["versions"] = {package: version(package) for package in PACKAGES}
                lines.append(line | provenance())
                append(lines[-1], asked.out)
    show(lines)


if __name__ == "__main__":
    main()
