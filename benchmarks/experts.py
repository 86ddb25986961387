"""Experts for the study of choosing: TD3 on Gymnasium's MuJoCo tasks, and their episodes as demonstrations.

    pip install -e '.[dev,imitation]'
    python -m benchmarks.experts train Reacher-v5 --out experts  # a policy every 10,000 steps, returns.jsonl
    python -m benchmarks.experts record Reacher-v5 --out experts  # the best: Reacher-v5/demonstrations

One core each. A policy is the best by the mean return of five episodes; demonstrations are measured anew.
"""

import argparse
import json
import time
from pathlib import Path

import gymnasium
import numpy as np
import torch

from experience import EpisodeDataset
from experience.recorder import Provenance
from finetune.imitation.interaction import Interaction, OwnReward, interact
from finetune.imitation.policy import Policy, load_policy, save_policy
from finetune.imitation.rollouts import record, roll_out
from finetune.imitation.td3 import TD3, TD3Settings

STEPS = {"HalfCheetah-v5": 70_000, "InvertedDoublePendulum-v5": 30_000, "Reacher-v5": 10_000}
"""Of the environment, enough for a decent expert."""
UNITS = {"HalfCheetah-v5": 128, "InvertedDoublePendulum-v5": 128, "Reacher-v5": 64}
"""Of the networks' layers, and transitions of an update."""
EVALUATION_SEEDS = range(10_000, 10_005)
DEMONSTRATION_SEEDS = range(20_000, 20_025)


def train(task: str, out: Path, seed: int, steps: int) -> None:
    """Learn by the environment's reward; keep every checkpoint and its returns."""
    env, other = gymnasium.make(task), gymnasium.make(task)
    settings = TD3Settings(hidden_units=UNITS[task], batch_size=UNITS[task])
    torch.manual_seed(seed)
    bounds = env.action_space.low, env.action_space.high
    policy = Policy(env.observation_space.shape[0], *bounds, settings.shape)
    out.mkdir(parents=True, exist_ok=True)
    start = time.process_time()

    def checkpoint(step: int) -> None:
        save_policy(policy, out / f"policy-{step:07}.safetensors")
        returns = roll_out(policy.act(), other, EVALUATION_SEEDS).returns
        line = {"task": task, "seed": seed, "step": step, "core_s": round(time.process_time() - start)}
        with (out / "returns.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line | {"returns": [round(one, 1) for one in returns]}) + "\n")

    interaction = Interaction(steps=steps, random_steps=5_000, checkpoint_every=10_000)
    interact(env, TD3(policy, settings, seed), OwnReward(), interaction, seed, checkpoint)


def best(out: Path) -> Path:
    """The policy of the largest mean return."""
    lines = [json.loads(line) for line in (out / "returns.jsonl").read_text(encoding="utf-8").splitlines()]
    line = max(lines, key=lambda line: float(np.mean(line["returns"])))
    return out / f"policy-{line['step']:07}.safetensors"


def demonstrate(task: str, out: Path) -> None:
    """Record the best policy, without noise."""
    chosen = best(out)
    who = Provenance(agent_id=f"td3/{chosen.stem}", environment_config={"id": task}, experiment_id="experts")
    folder = out / "demonstrations"
    record(load_policy(chosen).act(), gymnasium.make(task), DEMONSTRATION_SEEDS, folder, who)
    returns = [episode.total_reward for episode in EpisodeDataset(folder)]
    print(f"{task}: {chosen.stem}, {len(returns)} episodes, return {np.mean(returns):.0f} ± {np.std(returns):.0f}")


def main() -> None:
    """Read the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["train", "record"])
    parser.add_argument("task", choices=STEPS)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.command == "train":
        train(given.task, given.out / given.task, given.seed, given.steps or STEPS[given.task])
    else:
        demonstrate(given.task, given.out / given.task)


if __name__ == "__main__":
    main()
