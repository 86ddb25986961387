"""MedSigLIP's picture tower in bfloat16 and int8 against transformers', eager and compiled, on random weights.

    OMP_NUM_THREADS=1 python -m benchmarks.encoder_precision --repeats 3

So400m at 448 px, one picture, the same random weights on all sides. The peer at bfloat16 is the better of eager and
torch.compile. The roof is what the same machine needs for the tower's multiplications alone, at the rate of one large
matrix product in bfloat16. Random weights have no outliers, so int8's drift says little of the real ones'.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measure import Neighbours, append, machine, medians, provenance, seconds_of
from medsiglip.network.attention import use_one_head_after_the_other
from medsiglip.network.int8 import Int8Linear

PIXELS, LAYERS, WIDTH, INNER, PATCHES = 448, 27, 1152, 4304, 1024
MULTIPLICATIONS = LAYERS * (PATCHES * (4 * WIDTH**2 + 2 * WIDTH * INNER) + 2 * PATCHES**2 * WIDTH)
"""Of one picture; a floating-point operation is a multiplication or an addition, so twice as many."""
TARGETS = {"bfloat16 ours": 1.2, "int8 ours": 1.5}


def main() -> None:
    """Measure, print a table, append a record."""
    options = _options()
    towers = made_towers(compiled=not options.no_compile)
    picture = torch.randn(1, 3, PIXELS, PIXELS, generator=torch.Generator().manual_seed(0)).bfloat16()
    large = torch.randn(2048, 2048).bfloat16()

    def forward(tower: Any) -> torch.Tensor:
        with torch.inference_mode():
            return tower(pixel_values=picture).pooler_output.float()

    cases: dict[str, Any] = {name: lambda tower=tower: forward(tower) for name, tower in towers.items()}
    cases["bfloat16 product of 2048 x 2048"] = lambda: large @ large
    vectors = {name: forward(tower)[0].numpy() for name, tower in towers.items()}
    neighbours = Neighbours()
    seconds = {"one picture": seconds_of(cases, options.repeats)}
    middle = medians(seconds["one picture"])
    peer = min((name for name in middle if "peer" in name), key=middle.__getitem__)
    roof_s = MULTIPLICATIONS * middle["bfloat16 product of 2048 x 2048"] / 2048**3
    record = {
        "benchmark": "encoder_precision",
        **provenance(),
        "machine": machine(),
        "share_of_other_programs": neighbours.share(),
        "repeats": options.repeats,
        "seconds": seconds,
        "peer": peer,
        "ratios": {name: middle[peer] / middle[name] for name in TARGETS},
        "targets": TARGETS,
        "roof_s": roof_s,
        "share_of_roof": {name: roof_s / middle[name] for name in towers},
        "cosine_with_eager": {name: _cosine(v, vectors["bfloat16 peer, eager"]) for name, v in vectors.items()},
    }
    append(record, options.out)
    print(table(record, middle))


def made_towers(*, compiled: bool) -> dict[str, Any]:
    """The same random tower, four times."""
    from transformers import SiglipVisionConfig, SiglipVisionModel

    config = SiglipVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=16,
        image_size=PIXELS,
        patch_size=14,
        hidden_act="gelu_pytorch_tanh",
    )
    torch.manual_seed(0)
    eager = SiglipVisionModel(config).bfloat16().eval()
    towers = {"bfloat16 peer, eager": eager}
    if compiled:
        towers["bfloat16 peer, compiled"] = torch.compile(_copy(eager))
    ours, small = _copy(eager), _copy(eager)
    use_one_head_after_the_other(ours)
    for parent in [module for layer in small.encoder.layers for module in layer.modules()]:
        for name, child in list(parent.named_children()):
            if type(child) is torch.nn.Linear:
                setattr(parent, name, Int8Linear(child))
    use_one_head_after_the_other(small)
    return towers | {"bfloat16 ours": ours, "int8 ours": small}


def table(record: dict[str, Any], middle: dict[str, float]) -> str:
    """The record as Markdown for README.md."""
    lines = ["| case | seconds, median (range) | times the peer | share of the roof | cosine with eager |"]
    lines += ["|---|---|---|---|---|"]
    for name, cosine in record["cosine_with_eager"].items():
        values = record["seconds"]["one picture"][name]
        spread = f"{middle[name]:.2f} ({min(values):.2f} to {max(values):.2f})"
        times = middle[record["peer"]] / middle[name]
        lines.append(f"| {name} | {spread} | {times:.2f} | {record['share_of_roof'][name]:.2f} | {cosine:.5f} |")
    lines.append(f"share of the machine that other programs used: {record['share_of_other_programs']}")
    return "\n".join(lines)


def _copy(tower: Any) -> Any:
    from transformers import SiglipVisionModel

    other = SiglipVisionModel(tower.config).bfloat16().eval()
    other.load_state_dict(tower.state_dict())
    return other


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.encoder_precision", description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "encoder_precision.jsonl")
    return parser.parse_args()


if __name__ == "__main__":
    main()
