"""What a group's update costs when its prompt is computed once, beside once a sample.

    OMP_NUM_THREADS=1 python -m benchmarks.group_update --prompt 300 --completion 30 --group 8

One forward and backward pass of REINFORCE over one group, on nano's decoder, float32: packed with the prompt shared,
and padded, a row a sample, as trainers do it. The gradients are compared before anything is timed. CPU seconds are
those of the process, medians of rounds in which both take turns.
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import Neighbours, append, machine, provenance
from finetune.algorithms.reinforce import Reinforce
from finetune.on_policy import Network, Rollout, normalised
from finetune.on_policy.normalising import counted
from finetune.packing import Layout
from finetune.training import Turn
from medgemma import MedGemma


def main() -> None:
    """Measure, print a table, append a record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--prompt", type=int, default=300, help="tokens of the prompt")
    parser.add_argument("--completion", type=int, default=30, help="tokens of each sample")
    parser.add_argument("--group", type=int, default=8, help="samples")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "group_update.jsonl")
    given = parser.parse_args()
    neighbours = Neighbours()
    model = MedGemma.from_pretrained(given.model, device="cpu", dtype="float32").model
    ways = {"shared": Update(model, given, True), "unshared": Update(model, given, False)}
    difference = largest_difference(ways["shared"].gradients(), ways["unshared"].gradients())
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(given.repeats):
        for name in list(ways) if turn % 2 == 0 else reversed(ways):
            started = time.process_time()
            ways[name].run()
            seconds[name].append(time.process_time() - started)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratio = medians["shared"] / medians["unshared"]
    print(f"| way | tokens | CPU seconds, median (range) |\n|---|---|---|\n{table(ways, seconds)}")
    print(f"shared / unshared {ratio:.3f}; gradients differ by {difference:.1e} of the largest")
    figures = {"cpu_seconds": seconds, "ratio": ratio, "gradient_difference": difference}
    append({**provenance(), "machine": machine(), "others": neighbours.share(), **figures}, given.out)


class Update:
    """One group's gradient, laid out one way."""

    def __init__(self, model: Any, given: argparse.Namespace, is_shared: bool) -> None:
        self.model, self.policy = model, Network(model)
        self.algorithm = Reinforce(given.group, 0.0)
        layout = Layout(
            0, None, given.prompt + given.group * given.completion, packed=is_shared, share_prompts=is_shared
        )
        rollouts, advantages = group(given, int(model.config.get_text_config().vocab_size))
        examples = [rollout.example(a) for rollout, a in zip(rollouts, advantages, strict=True)]
        [part] = layout.parts(normalised(examples, self.algorithm.normalisation))
        self.batch = part.drawn
        self.tokens = self.batch.input_ids.numel()

    def run(self) -> None:
        """Forward and backward."""
        self.model.zero_grad(set_to_none=True)
        turn = Turn(0, counted(self.batch, self.algorithm.normalisation))
        torch.autograd.backward(self.algorithm.loss(self.policy, self.batch, turn, 1.0))

    def gradients(self) -> dict[str, torch.Tensor]:
        """By name."""
        self.run()
        return {name: p.grad.clone() for name, p in self.model.named_parameters() if p.grad is not None}


def group(given: argparse.Namespace, vocabulary: int) -> tuple[list[Rollout], list[float]]:
    """Random samples of one random prompt, and their advantages."""
    drawn = torch.Generator().manual_seed(0)
    prompt = tuple(torch.randint(10, vocabulary, (given.prompt,), generator=drawn).tolist())
    zeros = (0.0,) * given.completion
    rollouts = [
        Rollout(prompt, tuple(ids), (), "prompt", 0, True, zeros, zeros, "v0")
        for ids in torch.randint(10, vocabulary, (given.group, given.completion), generator=drawn).tolist()
    ]
    return rollouts, torch.randn(given.group, generator=drawn).tolist()


def largest_difference(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """Of any element, over the largest gradient of its tensor."""
    assert ours.keys() == theirs.keys()
    return max(float((ours[n] - g).abs().max() / g.abs().max().clamp(min=1e-12)) for n, g in theirs.items())


def table(ways: dict[str, Update], seconds: dict[str, list[float]]) -> str:
    """A line a way."""
    lines = []
    for name, values in seconds.items():
        spread = f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"
        lines.append(f"| {name} | {ways[name].tokens:,} | {spread} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
