"""What fewer bits cost and save: memory, greedy tokens, scores on closed questions of VQA-RAD, and time.

    python -m benchmarks.quantize --data ../shared/data --model nano --questions 400 --seed 0

Every way of holding the weights is compared with whole weights in float32, on the same questions. nf4 needs CUDA.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from benchmarks.engine import fixed_shape
from benchmarks.measure import Neighbours, append, machine, medians, provenance, seconds_of
from benchmarks.resize_study import closed_questions, estimate
from data_cards.readers.vqa_rad import VisualQuestion
from data_cards.split import Side
from evals.tasks.vqa_rad import parse_answer, prompt
from medgemma import MedGemma
from medgemma.asking import AnswerOptions
from medgemma.checkpoints.quantize import Int8Linear, to_int8
from medgemma.engine import Completion, Engine, Request, Sampling
from medgemma.prompts.chat import Prompt
from medgemma.prompts.content import study_parts
from medsiglip.imaging import read_pictures

MAX_NEW_TOKENS = 16
WAYS = {
    "float32": ("float32", None),
    "bfloat16": ("bfloat16", None),
    "int8, float32": ("float32", "int8"),
    "int8, bfloat16": ("bfloat16", "int8"),
    "nf4, bfloat16": ("bfloat16", "nf4"),
}
"""Name to dtype and bits."""
SHORT, LONG = 8, 40
"""Tokens of two answers: what one has more than the other is decoding alone."""
LAYER, ROWS, CALLS = (640, 2560), (1, 14, 300), 20
"""Inputs and outputs of the layer that is timed, and rows: one answer, fourteen, a prompt."""


@dataclass(frozen=True)
class Run:
    """What one way answered."""

    completions: list[Completion]
    correct: np.ndarray
    logprobs: np.ndarray
    """Of the float32 model's answers."""
    weights_bytes: int
    layers_bytes: int
    """Of the decoder's layers, which are what is quantised."""


def main() -> None:
    """Measure, print tables, append one record."""
    options = _options()
    started, neighbours = time.perf_counter(), Neighbours()
    questions = closed_questions(options.data, options.questions, options.side, options.seed)
    runs: dict[str, Run] = {}
    for way, (dtype, bits) in WAYS.items():
        if bits != "nf4" or torch.cuda.is_available():
            model = MedGemma.from_pretrained(options.model, device=options.device, dtype=dtype, quantize=bits)
            runs[way] = answered(model, questions, runs.get("float32"))
    groups = [question.group for question in questions]
    record = {
        "benchmark": "quantize",
        **provenance(),
        "machine": machine(),
        "model": {"model": options.model, "fingerprint": MedGemma.from_pretrained(options.model).fingerprint},
        "side": options.side,
        "seed": options.seed,
        "answers": [row(way, run, runs["float32"], groups, options.seed) for way, run in runs.items()],
        "layer_seconds": layer_seconds(options.repeats) if options.device == "cpu" else {},
        "token_seconds": token_seconds(options.device, options.repeats),
    }
    append(
        {**record, "seconds": time.perf_counter() - started, "neighbours": neighbours.share()},
        options.out,
    )
    print(table(record))


def answered(model: MedGemma, questions: Sequence[VisualQuestion], reference: Run | None) -> Run:
    """Greedy answers, whether they are right, and how likely the reference's tokens are."""
    requests = [request(model, question) for question in questions]
    completions = [samples[0] for samples in model.engine.generate(requests)]
    said = reference.completions if reference else completions
    scores = model.engine.score_choices(
        [(asked, [answer.token_ids]) for asked, answer in zip(requests, said, strict=True)]
    )
    texts = [model.tokenizer.decode(c.token_ids, skip_special_tokens=True) for c in completions]
    right = [parse_answer(t).lower() == q.answer.lower() for t, q in zip(texts, questions, strict=True)]
    return Run(
        completions,
        np.array(right, np.float64),
        np.array([score.logprob for (score,) in scores]),
        _bytes(model.model),
        _bytes(model.engine.network.text.layers),
    )


def request(model: MedGemma, question: VisualQuestion) -> Request:
    """One question about its picture."""
    parts = study_parts(read_pictures(question.path))
    return model.asking.question(parts, prompt(question), AnswerOptions(), MAX_NEW_TOKENS).request


def row(way: str, run: Run, reference: Run, groups: Sequence[str], seed: int) -> dict[str, Any]:
    """One way against whole weights in float32; intervals over cases."""
    pairs = list(zip(run.completions, reference.completions, strict=True))
    differing = np.array([_differing(a.token_ids, b.token_ids) for a, b in pairs])
    tokens = np.array([max(len(a.token_ids), len(b.token_ids)) for a, b in pairs])
    changed = np.array([a.token_ids != b.token_ids for a, b in pairs], np.float64)

    def over(values: np.ndarray, statistic: Callable[[np.ndarray], Any] = np.mean) -> dict[str, Any]:
        return estimate(values, statistic, groups, seed)

    both = np.stack([differing, tokens], 1)
    return {
        "way": way,
        "tokens_differing": over(both, lambda rows: rows[:, 0].sum() / rows[:, 1].sum()),
        "answers_changed": over(changed),
        "accuracy": over(run.correct),
        "accuracy_change": over(run.correct - reference.correct),
        "logprob_change_mean_absolute": over(np.abs(run.logprobs - reference.logprobs)),
        "weights_bytes": run.weights_bytes,
        "layers_bytes": run.layers_bytes,
    }


def layer_seconds(repeats: int) -> dict[str, float]:
    """Median seconds of one linear layer, eager, by way and rows; `CALLS` of them a round."""
    cases: dict[str, Callable[[], object]] = {}
    for dtype in (torch.float32, torch.bfloat16):
        torch.manual_seed(0)
        plain = torch.nn.Linear(*LAYER, bias=False).to(dtype)
        for bits, layer in (("", plain), ("int8, ", Int8Linear(plain))):
            for rows in ROWS:
                x = torch.randn(rows, LAYER[0]).to(dtype)
                cases[f"{bits}{str(dtype).removeprefix('torch.')}, {rows} rows"] = _called(layer, x)
    return {name: seconds / CALLS for name, seconds in medians(seconds_of(cases, repeats)).items()}


def token_seconds(device: str, repeats: int) -> dict[str, float]:
    """Median seconds a token of one answer, on the engine benchmark's fixed shape with random weights."""
    cases: dict[str, Callable[[], object]] = {}
    for dtype in (torch.float32, torch.bfloat16):
        for bits in ("", "int8, "):
            model = fixed_shape(dtype, device)
            if bits:
                to_int8(model)
            for mode in (None, "default"):
                engine = Engine(model, stop_ids=frozenset(), compile_mode=mode, prefix_bytes=0)
                name = f"{bits}{str(dtype).removeprefix('torch.')}{', compiled' if mode else ''}"
                for count in (SHORT, LONG):
                    cases[f"{name}, {count}"] = partial(_said, engine, count)
    found = medians(seconds_of(cases, repeats))
    names = [name.removesuffix(f", {SHORT}") for name in found if name.endswith(f", {SHORT}")]
    return {name: (found[f"{name}, {LONG}"] - found[f"{name}, {SHORT}"]) / (LONG - SHORT) for name in names}


def _said(engine: Engine, count: int) -> None:
    ids = tuple(range(10, 74))
    engine.generate([Request(Prompt(ids, (0,) * len(ids), 0), (), Sampling(max_new_tokens=count))])


def table(record: dict[str, Any]) -> str:
    """The record as Markdown for README.md."""
    lines = [
        "| weights | tokens differing | answers changed | accuracy | change | log-probability moved by "
        "| all weights, MB | decoder layers, MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for found in record["answers"]:
        percents = ("tokens_differing", "answers_changed", "accuracy", "accuracy_change")
        cells = [found["way"], *(_text(found[name], 1, 100, " %") for name in percents)]
        cells += [_text(found["logprob_change_mean_absolute"], 3)]
        cells += [f"{found[name] / 1e6:.1f}" for name in ("weights_bytes", "layers_bytes")]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| layer of 640 × 2,560 | milliseconds |", "|---|---|"]
    lines += [f"| {name} | {seconds * 1e3:.3f} |" for name, seconds in record["layer_seconds"].items()]
    lines += ["", "| a token of one answer | milliseconds |", "|---|---|"]
    lines += [f"| {name} | {seconds * 1e3:.2f} |" for name, seconds in record["token_seconds"].items()]
    return "\n".join(lines)


def _called(layer: torch.nn.Module, x: torch.Tensor) -> Callable[[], None]:
    def called() -> None:
        with torch.inference_mode():
            for _ in range(CALLS):
                layer(x)

    return called


def _differing(a: Sequence[int], b: Sequence[int]) -> int:
    """Positions at which two answers differ, the longer one's tail included."""
    return sum(x != y for x, y in zip(a, b, strict=False)) + abs(len(a) - len(b))


def _bytes(module: torch.nn.Module) -> int:
    return sum(parameter.nbytes for parameter in module.parameters())


def _text(found: dict[str, Any], digits: int, scale: float = 1, unit: str = "") -> str:
    value, low, high = (bound * scale for bound in (found["value"], *found["ci95"]))
    return f"{value:.{digits}f}{unit} ({low:.{digits}f} to {high:.{digits}f})"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quantize", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="the real-data kit")
    parser.add_argument("--model", default="nano", help="nano, a folder or a Hub id")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--questions", type=int, default=400, help="closed questions of VQA-RAD at most")
    parser.add_argument("--side", choices=get_args(Side), default="held-out", help="see data_cards/split.py")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "quantize.jsonl")
    return parser.parse_args()


if __name__ == "__main__":
    main()
