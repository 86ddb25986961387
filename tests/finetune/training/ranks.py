"""What several processes train in the tests: a small Gemma 3 with pictures, started by torchrun."""

import json
import random
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from finetune.collate import Example
from finetune.packing import Layout
from finetune.supervised import tune_decoder
from finetune.training import ALONE, Loop, Ranks, Schedule, join_ranks, leave_ranks, rows_of_step
from tests import checkpoints
from tests.finetune.test_packing import EXAMPLES, IMAGE

SCHEDULE = Schedule(3e-3, 4, warmup_steps=1, clip_norm=0.5)
PADDED = Layout(0, IMAGE, 64, tokens_a_part=40)


def drawn(step: int) -> list[Example]:
    rows = [1, 4, 5] if step == 2 else rows_of_step(len(EXAMPLES), 4, 0, step)
    return [EXAMPLES[row] for row in rows]


def tuned(
    folder: Path,
    ranks: Ranks = ALONE,
    parallel: Any = "ddp",
    layout: Layout = PADDED,
    *,
    dropout: float = 0.0,
    stops_at: int | None = None,
    spoiled: float = 0.0,
) -> Any:
    """Four steps with augmented pictures; the third is of text alone: projector and tower have no gradient in it."""
    torch.set_num_threads(1)
    model = checkpoints.multimodal(vision_layers=1)
    for layer in model.model.language_model.layers:
        layer.self_attn.attention_dropout = dropout
    pixels = torch.rand(3, 3, 28, 28, generator=torch.Generator().manual_seed(3)) * 2 - 1
    pixels[2] += spoiled

    def see(number: int, rng: torch.Generator) -> torch.Tensor:
        return pixels[number] + 0.1 * torch.randn(3, 28, 28, generator=rng)

    def draw(step: int, rng: random.Random) -> list[Example]:
        if step == stops_at:
            raise KeyboardInterrupt
        return drawn(step)

    loop = Loop(ranks=ranks, parallel=parallel, save_every_s=-1, log_every_steps=1, quiet=True)
    tune_decoder(model, draw, see, SCHEDULE, folder, loop, layout=layout, precision="float32", settings={})
    return model


def main(out: Path, ranks: Ranks, parallel: Any) -> None:
    model = tuned(out / "whole" / "stage", ranks, parallel)
    held = {
        name: [p.numel(), (p.to_local() if hasattr(p, "to_local") else p).numel()]
        for name, p in model.named_parameters()
    }
    (out / f"held-{ranks.rank}.json").write_text(json.dumps(held))
    tuned(out / "dropout" / "stage", ranks, parallel, dropout=0.2)
    for stops_at in (2, None):
        try:
            tuned(out / "resumed" / "stage", ranks, parallel, dropout=0.2, stops_at=stops_at)
        except KeyboardInterrupt:
            assert stops_at
    with suppress(KeyboardInterrupt):
        tuned(out / "cut" / "stage", ranks, parallel, stops_at=2)
    try:
        tuned(out / "spoiled" / "stage", ranks, parallel, spoiled=float("nan"))
    except FloatingPointError as error:
        (out / f"spoiled-{ranks.rank}.txt").write_text(str(error))
    (out / f"done-{ranks.rank}").touch()


if __name__ == "__main__":
    ranks_here, _ = join_ranks("cpu")
    main(Path(sys.argv[1]), ranks_here, sys.argv[2])
    leave_ranks(ranks_here)
