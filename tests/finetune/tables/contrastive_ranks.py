"""What several processes train in the tests of contrastive pairs: a tiny encoder, started by torchrun."""

import sys
from pathlib import Path
from typing import Any

import torch

from finetune.recipes.nano.models import new_encoder
from finetune.tables.contrastive import Mixture, train_pairs
from finetune.tables.pairs import Pairs
from finetune.training import ALONE, Evaluation, Loop, Ranks, Schedule, join_ranks, leave_ranks
from tests import tiny

SCHEDULE = Schedule(3e-3, 4, warmup_steps=1, clip_norm=0.5)
OWN, GENERAL = 9, 3


class MadePictures:
    """Pictures by number, in the place of `SeenPictures`; one may be spoiled."""

    def __init__(self, spoiled: int | None = None) -> None:
        self.values = torch.rand(20, 3, 56, 56, generator=torch.Generator().manual_seed(3)) * 2 - 1
        if spoiled is not None:
            self.values[spoiled] = float("nan")

    def pixel_values(self, number: int) -> torch.Tensor:
        return self.values[number]


def made_pairs() -> Pairs:
    """Nine rows, one of two pictures, with six captions and three classes, and three general ones."""
    own = Pairs(
        [(0, 12), *((number,) for number in range(1, OWN))],
        [f"text {number}" for number in range(6)],
        torch.tensor([0, 1, 2, 3, 4, 5, 0, 1, 2]),
        torch.tensor([0, 1, 2, 0, -1, -1, 0, 1, 2]),
        torch.zeros(OWN, 0),
        torch.zeros(OWN, 0),
        torch.zeros(OWN, dtype=torch.int64),
        [f"T.csv row {number + 2}" for number in range(OWN)],
        [f"g{number}" for number in range(OWN)],
    )
    general = Pairs(
        [(number,) for number in range(OWN, OWN + GENERAL)],
        [f"general {number}" for number in range(GENERAL)],
        torch.arange(GENERAL),
        torch.full((GENERAL,), -1),
        torch.zeros(GENERAL, 0),
        torch.zeros(GENERAL, 0),
        torch.zeros(GENERAL, dtype=torch.int64),
        [f"G.csv row {number + 2}" for number in range(GENERAL)],
        [f"h{number}" for number in range(GENERAL)],
    )
    return own.with_more(general)


def made_texts(pairs: Pairs) -> dict[str, torch.Tensor]:
    ids = torch.randint(3, 64, (len(pairs.texts), 64), generator=torch.Generator().manual_seed(5))
    return {"input_ids": ids}


def made_encoder() -> Any:
    torch.manual_seed(0)
    return tiny.lively(new_encoder(tiny.ENCODER))


def tuned(
    folder: Path,
    ranks: Ranks = ALONE,
    *,
    pairs_per_step: int = 7,
    pairs_a_part: int = 2,
    weight: float = 0.25,
    stops_at: int | None = None,
    spoiled: int | None = None,
    model: Any = None,
    steps: int = SCHEDULE.total_steps,
) -> Any:
    """Four steps of seven pairs, a quarter of them general."""
    torch.set_num_threads(1)
    model, pairs = model or made_encoder(), made_pairs()

    def metric(step: int) -> float:
        if step == stops_at:
            raise KeyboardInterrupt
        return float(step)

    evaluation = Evaluation(metric, "steps", 1) if stops_at else None
    train_pairs(
        model,
        pairs,
        Mixture(OWN, GENERAL, weight),
        made_texts(pairs),
        MadePictures(spoiled),  # type: ignore[arg-type]
        Schedule(3e-3, steps, warmup_steps=1, clip_norm=0.5),
        folder,
        Loop(ranks=ranks, save_every_s=-1, log_every_steps=1, quiet=True),
        pairs_per_step=pairs_per_step,
        pairs_a_part=pairs_a_part,
        precision="float32",
        settings={},
        evaluation=evaluation,
    )
    return model


def first_and_four(out: Path, ranks: Ranks = ALONE, *, pairs_a_part: int) -> None:
    """A run of one step, and one of four."""
    tuned(out / "first" / "stage", ranks, pairs_a_part=pairs_a_part, steps=1)
    tuned(out / "four" / "stage", ranks, pairs_a_part=pairs_a_part)


def main(out: Path, ranks: Ranks) -> None:
    for parts in (2, 100):
        first_and_four(out / f"parts-{parts}", ranks, pairs_a_part=parts)
    try:
        tuned(out / "spoiled" / "stage", ranks, spoiled=4)
    except FloatingPointError as error:
        (out / f"spoiled-{ranks.rank}.txt").write_text(str(error))
    (out / f"done-{ranks.rank}").touch()


if __name__ == "__main__":
    ranks_here, _ = join_ranks("cpu")
    main(Path(sys.argv[1]), ranks_here)
    leave_ranks(ranks_here)
