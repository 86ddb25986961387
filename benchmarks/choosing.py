"""Do proxies choose hyper-parameters? Imitation runs judged without a reward, and then by it.

    pip install -e '.[dev,imitation]'; make experts as benchmarks/experts.py says
    python -m benchmarks.choosing run behaviour_cloning Reacher-v5 --experts experts --out study  # goes on where it was
    python -m benchmarks.choosing reveal --experts experts --out study  # adds the true returns, not before
    python -m benchmarks.choosing table                                 # from benchmarks/results/choosing.jsonl

`run` draws hyper-parameters, trains with each some seeds, and writes what the proxies say of every checkpoint, a line a
run, to study/proxies.jsonl. The true returns of the same episodes go to study/sealed, where nothing looks, and the line
has their SHA-256. Draw 0 is the default setting.
"""

import argparse
import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np
import torch

from benchmarks.choosing_table import RESULTS, page
from benchmarks.experts import STEPS as TASKS
from experience import EpisodeDataset
from finetune.imitation.behaviour_cloning import BehaviourCloning, clone
from finetune.imitation.gail import GAIL, learn_gail
from finetune.imitation.interaction import Interaction
from finetune.imitation.policy import Policy, load_policy
from finetune.imitation.pwil import PWIL, learn_pwil
from finetune.imitation.rollouts import roll_out
from finetune.imitation.td3 import TD3Settings
from finetune.selection.action_error import action_error
from finetune.selection.demonstrations import Demonstrations, read_demonstrations
from finetune.selection.holding_out import hold_out
from finetune.selection.imitation_return import imitation_return, longest, pwil_of
from finetune.selection.state_distance import state_distance
from finetune.selection.support import fit_support, support_score
from finetune.training.draws import seed_of

Algorithm = Literal["behaviour_cloning", "pwil", "gail"]
DRAWS = {"behaviour_cloning": 21, "pwil": 6, "gail": 6}
SEEDS = {"behaviour_cloning": 3, "pwil": 2, "gail": 2}
LEARNED_FROM = 4
"""Demonstrations that a run learns from; those held out judge it."""
ROLLOUT_SEEDS = range(30_000, 30_005)
STATES = 500
"""Of the held-out demonstrations and of a policy's episodes, evenly spaced: what the proxies look at."""

Checkpoints = dict[int, Policy]


def drawn(algorithm: Algorithm, number: int) -> Any:
    """The hyper-parameters of a draw, the same for every task."""
    generator = np.random.default_rng(seed_of(0, algorithm, number))

    def one(*values: Any) -> Any:
        return values[int(generator.integers(len(values)))]

    def between(low: float, high: float) -> float:
        return float(f"{np.exp(generator.uniform(np.log(low), np.log(high))):.3g}")

    if algorithm == "behaviour_cloning":
        if number == 0:
            return BehaviourCloning(updates=600, checkpoint_every=200)
        return BehaviourCloning(
            updates=600,
            checkpoint_every=200,
            learning_rate=between(1e-5, 1e-2),
            learning_rate_shape=one("cosine", "constant"),
            batch_size=one(16, 64, 256),
            weight_decay=one(0.0, 0.01, 0.1, 1.0),
            hidden_units=one(8, 32, 128),
            hidden_layers=one(1, 2, 3),
            activation=one("relu", "tanh"),
            dropout=one(0.0, 0.0, 0.1, 0.3),
            standardize=one(True, True, False),
        )
    interaction = Interaction(steps=100_000, random_steps=1_000, updates_per_step=0.5, checkpoint_every=25_000)
    if number == 0:
        td3 = TD3Settings(hidden_units=64, batch_size=64)
        return PWIL(td3=td3, interaction=interaction) if algorithm == "pwil" else GAIL(td3=td3, interaction=interaction)
    td3 = TD3Settings(
        hidden_units=one(32, 64, 128),
        batch_size=64,
        actor_learning_rate=between(1e-4, 3e-3),
        critic_learning_rate=between(1e-4, 3e-3),
        discount=one(0.9, 0.97, 0.99),
        target_rate=one(0.005, 0.02),
        exploration_noise=one(0.1, 0.3),
    )
    if algorithm == "pwil":
        return PWIL(
            alpha=one(1.0, 5.0, 10.0),
            beta=one(1.0, 5.0, 10.0),
            subsampling=one(5, 20, 50),
            prefill=one(0, 10_000, 50_000),
            standardize=one(True, False),
            td3=td3,
            interaction=interaction,
        )
    return GAIL(
        reward=one("gail", "airl"),
        discriminator_every=one(1, 2, 4),
        discriminator_units=one(32, 64, 128),
        discriminator_learning_rate=between(1e-5, 1e-3),
        gradient_penalty=one(0.1, 1.0, 10.0),
        standardize=one(True, False),
        td3=td3,
        interaction=interaction,
    )


class Judges:
    """The proxies of a task, the same for all of its runs."""

    def __init__(self, kept: Demonstrations, held_out: Demonstrations) -> None:
        self.held_out, self.spaced = held_out, _spaced(held_out)
        self.support = fit_support(kept)
        self.pwil = pwil_of(self.spaced, longest(held_out))

    def __call__(self, policy: Policy, rollouts: Demonstrations) -> dict[str, float]:
        """What each says; of action_error and state_distance smaller is better."""

        def act(states: Any) -> Any:
            with torch.inference_mode():
                return policy(torch.from_numpy(states)).numpy()

        scores = {
            "action_error": action_error(act, self.held_out),
            "state_distance": state_distance(_spaced(rollouts), self.spaced),
            "support": support_score(self.support, rollouts),
            "imitation_return": imitation_return(self.pwil, rollouts),
        }
        return {name: float(f"{score.value:.6g}") for name, score in scores.items()}


def _spaced(of: Demonstrations) -> Demonstrations:
    """`STATES` of the steps, evenly spaced; of fewer some come again."""
    rows = np.linspace(0, len(of.observations) - 1, STATES).round().astype(np.int64)
    there = sorted(set(of.episodes[rows].tolist()))
    of = of.of_episodes(there)
    rows = np.linspace(0, len(of.observations) - 1, STATES).round().astype(np.int64)
    return Demonstrations(of.observations[rows], of.actions[rows], of.episodes[rows], of.episode_ids, of.groups)


class Study:
    """The runs of a task and algorithm that are left."""

    def __init__(self, algorithm: Algorithm, task: str, experts: Path, out: Path) -> None:
        self.algorithm, self.task, self.out = algorithm, task, out
        self.env = gymnasium.make(task)
        folder = experts / task / "demonstrations"
        kept, self.held_out = hold_out(read_demonstrations(folder), 0.2)
        self.kept = kept.of_episodes(range(LEARNED_FROM))
        self.judges = Judges(kept, self.held_out)
        self.episodes = [EpisodeDataset(folder)[one] for one in self.kept.episode_ids] if algorithm != BC else []

    def run(self, draws: range) -> None:
        """Train, judge, and write a line and what is sealed."""
        done = {(line["draw"], line["seed"]) for line in self._lines()}
        for number in draws:
            for seed in range(SEEDS[self.algorithm]):
                if (number, seed) not in done:
                    self._one(number, seed)

    def _one(self, number: int, seed: int) -> None:
        start, settings = time.process_time(), drawn(self.algorithm, number)
        name = f"draw-{number:02}-seed-{seed}"
        said: dict[str, dict[str, float]] = {}
        returns: dict[str, list[float]] = {}

        def look(step: int, policy: Policy) -> None:
            rollouts = roll_out(policy.act(), self.env, ROLLOUT_SEEDS)
            said[str(step)] = self.judges(policy, rollouts.steps)
            returns[str(step)] = [float(f"{one:.6g}") for one in rollouts.returns]

        self._train(settings, seed, self.out / "runs" / self.task / self.algorithm / name, look)
        sealed = json.dumps(returns)
        path = self.out / "sealed" / self.task / self.algorithm / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(sealed, encoding="utf-8")
        line = {"task": self.task, "algorithm": self.algorithm, "draw": number, "seed": seed}
        line |= {"settings": settings.model_dump(), "proxies": said, "core_s": round(time.process_time() - start, 1)}
        with (self.out / "proxies.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line | {"returns_sha256": hashlib.sha256(sealed.encode()).hexdigest()}) + "\n")

    def _train(self, settings: Any, seed: int, folder: Path, look: Callable[[int, Policy], None]) -> None:
        torch.manual_seed(seed)
        if isinstance(settings, BehaviourCloning):
            space = self.env.action_space
            pairs, held_out = ((one.observations, one.actions) for one in (self.kept, self.held_out))
            clone(pairs, (space.low, space.high), held_out, settings, folder, seed)
            for checkpoint in sorted((folder / "checkpoints").iterdir()):
                look(int(checkpoint.name), load_policy(checkpoint / "policy.safetensors"))
        else:
            learn = learn_pwil if isinstance(settings, PWIL) else learn_gail
            learn(gymnasium.make(self.task), self.episodes, settings, seed, look)

    def _lines(self) -> Iterator[dict[str, Any]]:
        path = self.out / "proxies.jsonl"
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
            found = json.loads(line)
            if (found["task"], found["algorithm"]) == (self.task, self.algorithm):
                yield found


BC = "behaviour_cloning"


def reveal(experts: Path, out: Path) -> None:
    """Write the results: every line of proxies with its true returns, and what the experts and random actions earn.

    A task and algorithm of which runs are missing stays sealed.
    """
    proxies = (out / "proxies.jsonl").read_bytes()
    lines = [json.loads(line) for line in proxies.splitlines()]
    there = Counter((line["task"], line["algorithm"]) for line in lines)
    lines = [line for line in lines if there[line["task"], line["algorithm"]] == _runs(line["algorithm"])]
    facts: dict[str, Any] = {"proxies_sha256": hashlib.sha256(proxies).hexdigest(), "tasks": {}}
    for task in sorted({line["task"] for line in lines}):
        facts["tasks"][task] = earned(experts, task)
    for line in lines:
        name = f"draw-{line['draw']:02}-seed-{line['seed']}.json"
        sealed = (out / "sealed" / line["task"] / line["algorithm"] / name).read_text(encoding="utf-8")
        if hashlib.sha256(sealed.encode()).hexdigest() != line.pop("returns_sha256"):
            raise SystemExit(f"{name}: the returns are not those that were sealed")
        line["returns"] = json.loads(sealed)
    RESULTS.write_text("".join(json.dumps(line) + "\n" for line in [facts, *lines]), encoding="utf-8")
    print(f"{len(lines)} runs in {RESULTS}; the proxies' SHA-256 is {facts['proxies_sha256']}")


def _runs(algorithm: Algorithm) -> int:
    return DRAWS[algorithm] * SEEDS[algorithm]


def earned(experts: Path, task: str) -> dict[str, list[float]]:
    """The mean and standard deviation of the returns of the demonstrations, and of random actions."""
    expert = [episode.total_reward for episode in EpisodeDataset(experts / task / "demonstrations")]
    env = gymnasium.make(task)
    env.action_space.seed(0)
    random = roll_out(lambda observation: env.action_space.sample(), env, range(10)).returns
    return {"expert": _mean_std(expert), "random": _mean_std(random)}


def _mean_std(values: list[float]) -> list[float]:
    return [round(float(np.mean(values)), 1), round(float(np.std(values)), 1)]


def main() -> None:
    """Read the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run")
    run.add_argument("algorithm", choices=DRAWS)
    run.add_argument("tasks", nargs="+", choices=TASKS)
    run.add_argument("--draws", type=int, help="How many; all if not given.")
    for one in (run, commands.add_parser("reveal")):
        one.add_argument("--experts", type=Path, required=True)
        one.add_argument("--out", type=Path, required=True)
    commands.add_parser("table")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.command == "run":
        studies = [Study(given.algorithm, task, given.experts, given.out) for task in given.tasks]
        for number in range(given.draws or DRAWS[given.algorithm]):  # all tasks of a draw, so that a cut one has all
            for study in studies:
                study.run(range(number, number + 1))
    elif given.command == "reveal":
        reveal(given.experts, given.out)
    else:
        print(page())


if __name__ == "__main__":
    main()
