"""Reward against KL of alignment algorithms on a language model so small that a run takes half a minute.

The model walks on a circle of 60 tokens; a prompt says where to start and where to go. The reward is graded: how close
the tokens are to the goal, in 0..1. It can be had cheaply by standing still at the goal, which the second figure, never
trained on, counts against an answer. The reference is the model as it has learned walks alone.

Every finished run is a line of results/reward_kl.jsonl, and a run that is there is not done again. The table says, for
each algorithm, how far its curve lies above the front of the REINFORCE settings: the mean over the KLs that both reach,
a seed each.
"""

import argparse
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from benchmarks.measure import append, machine, provenance
from finetune.algorithms.best_of_n import best_of, best_of_n_kl_bound
from finetune.algorithms.bond import Bond
from finetune.algorithms.following import Following
from finetune.algorithms.grpo import Grpo
from finetune.algorithms.j_bond import JBond
from finetune.algorithms.reinforce import Reinforce
from finetune.on_policy import Anchor, Frozen, Network, OnPolicy, PromptRow, Reward, Rollout, copy_of, train_on_policy
from finetune.on_policy.records import reward_kl_chart
from finetune.packing import Layout
from finetune.training import Loop, Schedule
from medgemma.engine import Sampling
from medgemma.prompts.chat import Prompt

RECORDS = Path(__file__).parent / "results" / "reward_kl.jsonl"
CIRCLE, FIRST, END, PAD = 60, 2, 1, 0
MAX_TOKENS, PROMPTS_A_STEP, STEPS, SEEDS = 12, 32, 150, (0, 1, 2)
LEARNING_RATE = 1e-3
EVERY_STEPS, HELD_OUT, SAMPLES = 10, 48, 8
BEST_OF = (1, 2, 4, 8, 16, 32)
DRAWN = ("best of n", "j-bond", "bond 16", "iterative bond 4", "grpo", "reinforce 0.01", "reinforce 0.1", "reinforce 1")


class WalkSampler:
    """Samples by plain forward passes: the model is so small that a cache would not pay."""

    is_exact = True

    def __init__(self, model: Any, tell: Callable[[], None]) -> None:
        self.model, self.tell, self.version, self.updates = model, tell, "", 0

    def weights_changed(self, version: str) -> None:
        """See `finetune.on_policy.Sampler`; the curve's points are taken here."""
        if self.updates % EVERY_STEPS == 0:
            self.tell()
        self.version, self.updates = version, self.updates + 1

    def sample(
        self,
        rows: Sequence[PromptRow],
        seeds: Sequence[int],
        num_samples: int,
        sampling: Sampling,
        *,
        of: Frozen | None = None,
    ) -> list[Rollout]:
        """See `finetune.on_policy.Sampler`."""
        prompts = torch.tensor([row.prompt.input_ids for row in rows for _ in range(num_samples)])
        draws = [torch.rand(num_samples, MAX_TOKENS, generator=torch.Generator().manual_seed(s)) for s in seeds]
        with nullcontext() if of is None else of.running():
            said = walk(self.model, prompts, torch.cat(draws))
        version = self.version if of is None else of.name
        return [
            Rollout(row.prompt.input_ids, ids, (), row.place, group, ids[-1] == END, logprobs, logprobs, version)
            for group, row in enumerate(rows)
            for ids, logprobs in said[group * num_samples : (group + 1) * num_samples]
        ]


def walk(model: Any, prompts: torch.Tensor, draws: torch.Tensor) -> list[tuple[tuple[int, ...], tuple[float, ...]]]:
    """A sample of each prompt at temperature 1, and its tokens' log-probabilities; `draws` (B, T) in 0..1 decide it."""
    ids, logprobs = prompts, torch.zeros(len(prompts), 0)
    with torch.no_grad():
        for step in range(draws.shape[1]):
            said = functional.log_softmax(model(input_ids=ids).logits[:, -1].float(), 1)
            token = torch.searchsorted(said.exp().cumsum(1), draws[:, step, None].contiguous()).clamp_max(
                said.shape[1] - 1
            )
            ids, logprobs = torch.cat([ids, token], 1), torch.cat([logprobs, said.gather(1, token)], 1)
    samples = []
    for row, scores in zip(ids[:, prompts.shape[1] :].tolist(), logprobs.tolist(), strict=True):
        length = row.index(END) + 1 if END in row else len(row)
        samples.append((tuple(row[:length]), tuple(scores[:length])))
    return samples


def closeness(token: int, goal: int) -> float:
    """1 at the goal, 0 on the other side of the circle or off it."""
    if token < FIRST or token >= FIRST + CIRCLE:
        return 0.0
    apart = abs(token - goal) % CIRCLE
    return 1 - 2 * min(apart, CIRCLE - apart) / CIRCLE


def near_the_goal(completion_ids: Sequence[Sequence[int]], goal: Sequence[int], **_: Any) -> list[float]:
    """The mean closeness of an answer's tokens, its end left out; 0 of an answer without any."""
    said = [[token for token in ids if token != END] for ids in completion_ids]
    return [
        sum(closeness(token, aim) for token in ids) / len(ids) if ids else 0.0
        for ids, aim in zip(said, goal, strict=True)
    ]


def near_without_standing(completion_ids: Sequence[Sequence[int]], goal: Sequence[int], **_: Any) -> list[float]:
    """`near_the_goal` less the share of tokens that repeat the one before: what is really wanted, never trained on."""
    still = [sum(a == b for a, b in zip(ids, ids[1:], strict=False)) / len(ids) for ids in completion_ids]
    return [near - share for near, share in zip(near_the_goal(completion_ids, goal), still, strict=True)]


def rows_of(count: int, seed: int) -> list[PromptRow]:
    """Prompts: a place to start at and a goal."""
    places = torch.randint(FIRST, FIRST + CIRCLE, (count, 2), generator=torch.Generator().manual_seed(seed)).tolist()
    return [PromptRow(Prompt((s, g), (0, 0), 0), "", (), {"goal": g}, f"walk {s} to {g}") for s, g in places]


def walker(seed: int) -> Any:
    """A copy of the model that a run begins with."""
    return deepcopy(_walker(seed))


@lru_cache
def _walker(seed: int) -> Any:
    """A Gemma 3 of 40,000 weights that has learned walks of one to three places, which end one time in ten."""
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    torch.manual_seed(seed)
    config = Gemma3TextConfig(
        vocab_size=FIRST + CIRCLE,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=24,
        max_position_embeddings=64,
        sliding_window=32,
        pad_token_id=PAD,
        eos_token_id=END,
        bos_token_id=END,
        attn_implementation="eager",
    )
    model = Gemma3ForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(300):
        optimizer.zero_grad()
        ids, learned = walks(64)
        logits = model(input_ids=ids).logits[:, 1:-1]
        functional.cross_entropy(logits.flatten(0, 1), torch.where(learned, ids, -100)[:, 2:].flatten()).backward()
        optimizer.step()
    return model.eval()


def walks(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids (B, 2 + T) of start, goal and walk, and which are learned; drawn from the global stream."""
    steps = torch.randint(1, 4, (count, MAX_TOKENS)) * (torch.randint(0, 2, (count, MAX_TOKENS)) * 2 - 1)
    start, goal = torch.randint(0, CIRCLE, (2, count, 1)).unbind()
    ends = (torch.rand(count, MAX_TOKENS) < 0.1).int().cumsum(1)
    ids = torch.where(ends > 0, END, FIRST + (start + steps.cumsum(1)) % CIRCLE)
    prompts = torch.cat([start, goal], 1) + FIRST
    return torch.cat([prompts, ids], 1), torch.cat([prompts > 0, ends.cumsum(1) <= 1], 1)


@dataclass(frozen=True)
class Setting:
    """An algorithm of the study."""

    make: Callable[[Network], Any]
    generations: int
    """Samples a prompt, of the policy and of others."""


def settings() -> dict[str, Setting]:
    """By name. η, β and γ of J-BOND and the four β of REINFORCE are the paper's; GRPO's β is that of its own."""
    found = {
        "j-bond": Setting(lambda policy: JBond(Anchor(policy), Following(0.05)), 3),
        "j-bond gamma 1": Setting(lambda policy: JBond(Anchor(policy), Following(0.05), gamma=1.0), 3),
        "grpo": Setting(lambda _: Grpo(4, 0.04), 4),
    }
    for n in (4, 8, 16):
        found[f"bond {n}"] = Setting(lambda policy, n=n: Bond(n, Anchor(policy)), 17)
    for n in (2, 4):
        found[f"iterative bond {n}"] = Setting(lambda policy, n=n: Bond(n, Anchor(policy), Following(1.0, 25)), 17)
    for beta in (0.001, 0.01, 0.1, 1.0):
        found[f"reinforce {beta:g}"] = Setting(lambda _, beta=beta: Reinforce(2, beta), 2)
    return found


def curve_of(setting: Setting, seed: int, steps: int) -> list[dict[str, float]]:
    """KL to the reference, reward and the held-out figure every few steps, on prompts that were not trained on."""
    model = walker(seed)
    policy = Network(model)
    reference = copy_of(policy)
    points: list[dict[str, float]] = []
    sampler = WalkSampler(model, lambda: points.append(measured(model, reference.network.model, seed)))
    with tempfile.TemporaryDirectory() as folder:
        train_on_policy(
            policy,
            setting.make(policy),
            rows_of(512, seed),
            sampler,
            [Reward(near_the_goal)],
            reference,
            Schedule(LEARNING_RATE, steps, warmup_steps=10, weight_decay=0.0, shape="constant"),
            Path(folder) / "walks",
            Loop(seed, quiet=True),
            how=OnPolicy(
                PROMPTS_A_STEP,
                Sampling(max_new_tokens=MAX_TOKENS, temperature=1.0, stop_ids=frozenset({END})),
                Layout(PAD, None, max_tokens=2 + MAX_TOKENS),
            ),
            settings={},
        )
    sampler.tell()
    return [{"step": place * EVERY_STEPS, **point} for place, point in enumerate(points)]


def measured(model: Any, reference: Any, seed: int) -> dict[str, float]:
    """Means over held-out prompts; the KL sums, along samples, that between the distributions of the next token."""
    rows = rows_of(HELD_OUT, 10_000 + seed)
    prompts = torch.tensor([row.prompt.input_ids for row in rows]).repeat_interleave(SAMPLES, 0)
    draws = torch.rand(len(prompts), MAX_TOKENS, generator=torch.Generator().manual_seed(seed))
    said = [ids for ids, _ in walk(model, prompts, draws)]
    goals = [row.columns["goal"] for row in rows for _ in range(SAMPLES)]
    padded = torch.tensor([[*ids, *[END] * (MAX_TOKENS - len(ids))] for ids in said])
    ids, lengths = torch.cat([prompts, padded], 1), torch.tensor([len(one) for one in said])
    with torch.no_grad():
        ours, theirs = (functional.log_softmax(one(input_ids=ids).logits[:, 1:-1], 2) for one in (model, reference))
    kl = (ours.exp() * (ours - theirs)).sum(2) * (torch.arange(MAX_TOKENS) < lengths[:, None])
    rewards, real = near_the_goal(said, goals), near_without_standing(said, goals)
    return {
        "kl": float(kl.sum(1).mean()),
        "reward": statistics.fmean(rewards),
        "held_out": statistics.fmean(real),
        "tokens": statistics.fmean(map(len, said)),
    }


def best_of_n(seed: int) -> list[dict[str, float]]:
    """Best-of-N of the reference itself, at the bound of its KL."""
    model, rows, most = walker(seed), rows_of(HELD_OUT, 10_000 + seed), max(BEST_OF)
    prompts = torch.tensor([row.prompt.input_ids for row in rows]).repeat_interleave(most, 0)
    draws = torch.rand(len(prompts), MAX_TOKENS, generator=torch.Generator().manual_seed(seed))
    said = [ids for ids, _ in walk(model, prompts, draws)]
    goals = [row.columns["goal"] for row in rows for _ in range(most)]
    rewards, real = near_the_goal(said, goals), near_without_standing(said, goals)
    points = []
    for n in BEST_OF:
        best = [s + best_of(rewards[s : s + n]) for b in range(0, len(said), most) for s in range(b, b + most, n)]
        means = {
            "reward": statistics.fmean(rewards[p] for p in best),
            "held_out": statistics.fmean(real[p] for p in best),
        }
        points.append({"n": float(n), "kl_bound": best_of_n_kl_bound(n), **means})
    return points


def run(only: Sequence[str], seeds: Sequence[int], steps: int) -> None:
    """Do what is not recorded yet."""
    recorded = {(record["algorithm"], record["seed"], record["steps"]) for record in records()}
    for seed in seeds:
        if ("best of n", seed, steps) not in recorded:
            _record({"algorithm": "best of n", "seed": seed, "steps": steps, "points": best_of_n(seed)})
        for name, setting in settings().items():
            if (only and name not in only) or (name, seed, steps) in recorded:
                continue
            begin = time.monotonic()
            points = curve_of(setting, seed, steps)
            took = {"seconds": round(time.monotonic() - begin, 1), "generations_a_prompt": setting.generations}
            _record({"algorithm": name, "seed": seed, "steps": steps, **took, "points": points})


def records() -> list[dict[str, Any]]:
    """All finished runs."""
    return [json.loads(line) for line in RECORDS.read_text().splitlines()] if RECORDS.is_file() else []


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: where each algorithm ends, and how far it lies above the front of REINFORCE."""
    by_name: dict[str, dict[int, list[dict[str, float]]]] = {}
    for record in found:
        if record["algorithm"] != "best of n":
            by_name.setdefault(record["algorithm"], {})[record["seed"]] = record["points"]
    fronts = {name: by_seed for name, by_seed in by_name.items() if name.startswith("reinforce")}
    lines = [
        "| algorithm | seeds | KL at the end | reward at the end | held-out figure | above REINFORCE's front [95 %] |",
        "|---|---|---|---|---|---|",
    ]
    for name, by_seed in by_name.items():
        ends = [points[-1] for points in by_seed.values()]
        kl, reward, held = (_spread([end[key] for end in ends]) for key in ("kl", "reward", "held_out"))
        above = [lead for seed, points in by_seed.items() if (lead := _lead(points, fronts, seed)) is not None]
        said = "" if name in fronts else _spread(above) if above else "no KL in common"
        lines.append(f"| {name} | {len(by_seed)} | {kl} | {reward} | {held} | {said} |")
    return "\n".join(lines)


def chart(found: Sequence[Mapping[str, Any]], seed: int) -> str:
    """An SVG of one seed's curves, Best-of-N of the start among them, at the bound of its KL."""
    curves = {}
    for record in found:
        if record["seed"] == seed and record["algorithm"] in DRAWN:
            place = "kl_bound" if record["algorithm"] == "best of n" else "kl"
            name = "best of N (KL at most)" if place == "kl_bound" else record["algorithm"]
            curves[name] = [(point[place], point["reward"]) for point in record["points"]]
    return reward_kl_chart(curves)


def _lead(points: Sequence[Mapping[str, float]], fronts: Mapping[str, Any], seed: int) -> float | None:
    """Mean of reward less the best REINFORCE setting's of the same seed, over a grid of KLs that both reach."""
    others = [by_seed[seed] for by_seed in fronts.values() if seed in by_seed]
    reached = min(max(p["kl"] for p in points), max((p["kl"] for other in others for p in other), default=0.0))
    leads = []
    for place in range(1, 21):
        at = reached * place / 20
        ours = _reward_at(points, at)
        theirs = [value for other in others if (value := _reward_at(other, at)) is not None]
        if ours is not None and theirs:
            leads.append(ours - max(theirs))
    return statistics.fmean(leads) if leads else None


def _reward_at(points: Sequence[Mapping[str, float]], kl: float) -> float | None:
    """The reward where a curve first reaches a KL, on the line between its points."""
    for before, after in zip(points, points[1:], strict=False):
        if before["kl"] <= kl <= after["kl"]:
            share = (kl - before["kl"]) / ((after["kl"] - before["kl"]) or 1.0)
            return before["reward"] + share * (after["reward"] - before["reward"])
    return None


def _spread(values: Sequence[float]) -> str:
    """Mean and 95 % interval by Student's t over the seeds."""
    from scipy.stats import t

    mean = statistics.fmean(values)
    if len(values) < 2:
        return f"{mean:.3f}"
    half = float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean:.3f} [{mean - half:.3f}, {mean + half:.3f}]"


def _record(facts: Mapping[str, Any]) -> None:
    append({**facts, **provenance(), "machine": machine()}, RECORDS)


def main() -> None:
    """Run the study, or print what is recorded."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=[], help="names of algorithms")
    parser.add_argument("--seeds", nargs="*", type=int, default=list(SEEDS))
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--table", action="store_true", help="print the recorded runs alone")
    parser.add_argument("--chart", type=Path, help="an SVG of the first seed's curves")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if not asked.table:
        run(asked.only, asked.seeds, asked.steps)
    if asked.chart:
        asked.chart.write_text(chart(records(), asked.seeds[0]), encoding="utf-8")
    print(table([record for record in records() if record["steps"] == asked.steps]))  # noqa: T201


if __name__ == "__main__":
    main()
