"""`medgemma-finetune estimate` beside what two steps of training take: a random Gemma 3 of 146 million weights.

    python -m benchmarks.estimate

Every case is a process of its own: two steps through the recipe's own loop (`finetune.supervised.tune_decoder`) on a
CPU, in float32. Measured is the most resident memory (VmHWM) above the floor, which is what the process held, all
packages imported, before the network was made. The C library is told to give back at once what is freed: it would keep
some, and lay tensors so that holes remain. Linux only: memory is read from /proc.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import append, machine, provenance
from finetune.adapters import AdapterSection, adapt
from finetune.collate import Example
from finetune.estimate.estimate import Work, config_of, estimate
from finetune.forward import checkpoint_activations
from finetune.packing import Layout
from finetune.supervised import tune_decoder
from finetune.training import Loop, Schedule

LIMIT = 0.10
GIVES_BACK = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
"""glibc's settings, so that what is resident is what lives."""
CONFIG: Mapping[str, Any] = {
    "model_type": "gemma3",
    "text_config": {
        "model_type": "gemma3_text", "vocab_size": 262_208, "hidden_size": 448, "intermediate_size": 1792,
        "num_hidden_layers": 8, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 128,
        "query_pre_attn_scalar": 128, "sliding_window": 256, "pad_token_id": 0,
    },
    "vision_config": {
        "model_type": "siglip_vision_model", "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4,
        "num_attention_heads": 4, "image_size": 224, "patch_size": 14, "vision_use_head": False,
    },
    "mm_tokens_per_image": 16, "boi_token_index": 255_999, "eoi_token_index": 256_000, "image_token_index": 262_144,
}  # fmt: skip
CASES: Mapping[str, tuple[AdapterSection, Work, bool]] = {
    "full": (AdapterSection(method="full"), Work(256, 1, 16, 2, 2), False),
    "full, in two parts": (AdapterSection(method="full"), Work(256, 1, 16, 1, 2), False),
    "lora": (AdapterSection(), Work(512, 1, 16, 2, 2), False),
    "lora, text alone": (AdapterSection(), Work(512, 0, 128, 2, 2), False),
    "lora of the tower too": (AdapterSection(parts=("language", "tower")), Work(384, 1, 16, 2, 2), False),
    "lora, checkpointed": (AdapterSection(), Work(768, 1, 16, 2, 2), True),
}
"""Name to what is trained, on what, and whether activations are computed again."""


def main() -> None:
    """Estimate, measure, print a table, append a record; with --case, be one case."""
    options = _options()
    if options.case:
        print(json.dumps(measured(options.case, options.folder)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
        rows = {case: _row(case, scratch) for case in options.cases or CASES}
    print(table(rows))
    append({"benchmark": "estimate", **provenance(), "machine": machine(), "rows": rows}, options.out)


def table(rows: Mapping[str, Mapping[str, float]]) -> str:
    """Markdown."""
    lines = ["| case | estimated, MiB | measured, MiB | error | |", "|---|---|---|---|---|"]
    for case, row in rows.items():
        sizes = " | ".join(f"{row[name] / 2**20:,.0f}" for name in ("estimated", "measured"))
        met = "met" if abs(row["error"]) <= LIMIT else "missed"
        lines.append(f"| {case} | {sizes} | {row['error']:+.1%} | {met} |")
    return "\n".join(lines)


def measured(case: str, folder: str) -> dict[str, int]:
    """Two steps; bytes above the floor."""
    section, work, checkpointed = CASES[case]
    config = config_of(folder)
    small = deepcopy(config)
    small.text_config.update({"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2})
    _two_steps(small, section, work, checkpointed)  # imports what training imports, and starts its threads
    gc.collect()
    floor = _memory("VmRSS")
    _two_steps(config, section, work, checkpointed)
    return {"measured": _memory("VmHWM") - floor}


def _two_steps(config: Any, section: AdapterSection, work: Work, checkpointed: bool) -> None:
    from transformers import Gemma3ForConditionalGeneration

    with torch.no_grad():
        network = Gemma3ForConditionalGeneration(config)
    Path("/proc/self/clear_refs").write_text(
        "5", encoding="ascii"
    )  # the peak starts again: making it took a second head
    adapt(network, section, seed=0)
    if checkpointed:
        checkpoint_activations(network)
    examples = [_example(config, work, number) for number in range(work.examples_per_step)]
    side = config.vision_config.image_size
    with tempfile.TemporaryDirectory() as out:
        tune_decoder(
            network,
            lambda step, rng: examples,
            lambda number, rng: torch.zeros(3, side, side),
            Schedule(1e-4, 2),
            Path(out) / "tune",
            Loop(save_every_s=1e9, quiet=True),
            layout=Layout(0, config.image_token_id, work.tokens, tokens_a_part=work.examples * work.tokens),
            precision="float32",
            settings={},
        )


def _row(case: str, folder: str) -> dict[str, float]:
    section, work, checkpointed = CASES[case]
    said = estimate(folder, section, work, where="cpu", checkpointed=checkpointed)
    itself = [sys.executable, "-m", "benchmarks.estimate", "--case", case, "--folder", folder]
    done = subprocess.run(itself, capture_output=True, text=True, check=True, env=os.environ | GIVES_BACK)
    found = json.loads(done.stdout.strip().splitlines()[-1])["measured"]
    print(f"  {case:24} {said.peak_bytes / 2**20:8.0f} {found / 2**20:8.0f} MiB", file=sys.stderr)
    parts = {name: value for name, value in said._asdict().items() if name.endswith("_bytes")}
    return {
        **{f"work_{name}": value for name, value in asdict(work).items()},
        **parts,
        "estimated": said.peak_bytes,
        "measured": found,
        "error": said.peak_bytes / found - 1,
    }


def _example(config: Any, work: Work, number: int) -> Example:
    picture = (config.image_token_id,) * (config.mm_tokens_per_image * work.pictures)
    prompt = (2,) * (work.tokens - work.answer_tokens - len(picture)) + picture
    return Example(prompt, (5,) * work.answer_tokens, tuple(range(number, number + work.pictures)))


def _memory(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", help="some of the cases; all without")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "estimate.jsonl")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
