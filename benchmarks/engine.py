"""Questions on one picture, single-stream decoding and choice scoring: our engine against transformers' own generate.

    OMP_PROC_BIND=true OMP_WAIT_POLICY=active python -m benchmarks.engine --repeats 5

Work of a fixed shape with random weights: a decoder 640 wide with 16 layers, MLP 2,560 and 8,192 tokens, a tower 192
wide with 27 layers at 896 px; prompts of 300 tokens (256 of them the picture), answers of 8. *film*: fourteen
questions on one picture. *decode*: a token of one stream, by an answer of 65 tokens less one of 1; beside it the bound,
which is the weights' bytes over the bandwidth of reading a large array. *choices*: options of four tokens behind a
prompt of 300. Both sides get the same tokens, and their answers are compared before their times mean anything.
*batches*: how often a token changes with the batch in bfloat16.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measure import Neighbours, append, machine, medians, provenance, seconds_of
from medgemma import MedGemma
from medgemma.engine import Engine, Request, Sampling
from medgemma.engine.prefill import prefill
from medgemma.prompts.chat import Prompt
from medsiglip.imaging import Picture, open_pictures
from medsiglip.preprocess import Preprocessing

NUM_QUESTIONS, PROMPT_TOKENS, ANSWER_TOKENS, DECODE_TOKENS = 14, 300, 8, 64
OPTIONS, OPTION_TOKENS = (4, 14), 4
BEGIN, END, SOFT = 8001, 8002, 8003
TARGETS = {"film": 5.0, "decode": 2.0, "bandwidth": 0.75, "choices": 1.15, "forwards": 3.0}

Cases = dict[str, Callable[[], Any]]


def main() -> None:
    """Measure, print tables, append a record; the exit status is 1 if the two sides disagree."""
    options = _options()
    wanted = options.jobs.split(",")
    neighbours = Neighbours()
    record: dict[str, Any] = {"benchmark": "engine", **provenance(), "machine": machine(), "repeats": options.repeats}
    jobs = {"film": film, "decode": decode, "choices": choices, "batches": batches}
    for name in wanted:
        record[name] = jobs[name](options)
    record["share_of_other_programs"] = neighbours.share()
    append(record, options.out)
    print(table(record))


# Models


def fixed_shape(dtype: torch.dtype, device: str) -> Any:
    """Random weights in the shape of the module's docstring."""
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    text = {
        "hidden_size": 640,
        "intermediate_size": 2560,
        "num_hidden_layers": 16,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 256,
        "vocab_size": 8192,
        "sliding_window": 512,
        "max_position_embeddings": 4096,
    }
    vision = {
        "hidden_size": 192,
        "intermediate_size": 768,
        "num_hidden_layers": 27,
        "num_attention_heads": 3,
        "image_size": 896,
        "patch_size": 14,
        "vision_use_head": False,
    }
    ids = {"boi_token_index": BEGIN, "eoi_token_index": END, "image_token_index": SOFT}
    torch.manual_seed(0)
    model = Gemma3ForConditionalGeneration(
        Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=256, **ids)
    )
    with torch.no_grad():  # transformers starts the projector at zero: pictures would say nothing
        model.model.multi_modal_projector.mm_input_projection_weight.normal_(std=0.02)
    return model.to(device, dtype).eval()


def prompts(count: int, with_picture: bool) -> list[Prompt]:
    """Prompts that share the picture and 20 tokens of text before their own question."""
    generator = torch.Generator().manual_seed(0)
    shared = [2, *torch.randint(10, 8000, (19,), generator=generator).tolist()]
    image = (
        [BEGIN, *[SOFT] * 256, END] if with_picture else torch.randint(10, 8000, (258,), generator=generator).tolist()
    )
    rest = PROMPT_TOKENS - len(shared) - len(image)
    made = []
    for _ in range(count):
        ids = [*shared, *image, *torch.randint(10, 8000, (rest,), generator=generator).tolist()]
        made.append(Prompt(tuple(ids), tuple(int(i == SOFT) for i in ids), int(with_picture)))
    return made


def picture() -> Picture:
    """A film of noise, 896 px square."""
    noise = np.random.default_rng(0).integers(0, 256, (896, 896, 3), dtype=np.uint8)
    return next(iter(open_pictures([noise])))


# Jobs


def film(options: argparse.Namespace) -> dict[str, Any]:
    """Fourteen questions on one picture, the picture not seen before."""
    model = fixed_shape(torch.float32, options.device)
    preprocessing = Preprocessing(896, "huggingface")
    asked, image = prompts(NUM_QUESTIONS, True), picture()
    sampling = Sampling(max_new_tokens=ANSWER_TOKENS)
    requests = [Request(prompt, (image,), sampling) for prompt in asked]
    pixels = preprocessing.pixel_values([preprocessing.resized(image)]).to(options.device)
    ids = torch.tensor([prompt.input_ids for prompt in asked], device=options.device)
    types = torch.tensor([prompt.token_type_ids for prompt in asked], device=options.device)
    engine = Engine(model, preprocessing, stop_ids=frozenset())

    def ours() -> list[list[int]]:
        engine.weights_changed()  # nothing of the round before is kept
        return [list(samples[0].token_ids) for samples in engine.generate(requests)]

    def theirs(**settings: Any) -> list[list[int]]:
        with torch.inference_mode():
            done = model.generate(
                input_ids=ids,
                token_type_ids=types,
                attention_mask=torch.ones_like(ids),
                pixel_values=pixels.expand(NUM_QUESTIONS, -1, -1, -1),
                max_new_tokens=ANSWER_TOKENS,
                min_new_tokens=ANSWER_TOKENS,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
                **settings,
            )
        return done[:, ids.shape[1] :].tolist()

    cases: Cases = {
        "ours": ours,
        "transformers, batched": theirs,
        "transformers, batched, static cache": lambda: theirs(cache_implementation="static"),
    }
    _agree(cases["ours"](), cases["transformers, batched"]())
    cases["limit: the tower once"] = lambda: _tower(model, pixels)
    return _timed(cases, max(1, options.repeats // 2), "ours", "transformers")


def decode(options: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds a token of one stream, and the share of the bandwidth bound, of each model."""
    return {name: _decoded(model, options) for name, model in _decoders(options)}


def _decoded(model: Any, options: argparse.Namespace) -> dict[str, Any]:
    ids = [i % 2000 + 10 for i in prompts(1, False)[0].input_ids]
    prompt = Prompt(tuple(ids), (0,) * len(ids), 0)
    fast = Engine(model, stop_ids=frozenset(), compile_mode=options.compile_mode, prefix_bytes=0)
    plain = Engine(model, stop_ids=frozenset(), prefix_bytes=0)
    started = time.perf_counter()
    said = _ours(fast, prompt, 32)
    compile_s = time.perf_counter() - started
    sides: dict[str, Callable[[int], list[int]]] = {
        "ours": lambda count: _ours(fast, prompt, count),
        "ours, not compiled": lambda count: _ours(plain, prompt, count),
        "transformers": lambda count: _theirs(model, ids, count),
        "transformers, static cache": lambda count: _theirs(model, ids, count, cache_implementation="static"),
    }
    alike = _common(said, _theirs(model, ids, 32))
    seconds = seconds_of({**_short_and_long(sides), "read bandwidth": _reader(options.device)}, options.repeats)
    each = _per_token(seconds)
    text = [p for n, p in model.named_parameters() if not n.startswith(("model.vision", "model.multi"))]
    size = sum(p.numel() * p.element_size() for p in text)
    bandwidth = READ_BYTES / medians(seconds)["read bandwidth"]
    return {
        "seconds": seconds,
        "ms_a_token": {case: value * 1e3 for case, value in each.items()},
        "compile_s": compile_s,
        "weights_mb": size / 1e6,
        "bandwidth_gb_s": bandwidth / 1e9,
        "share_of_bound": size / bandwidth / each["ours"],
        "ours / peer": min(v for case, v in each.items() if case.startswith("transformers")) / each["ours"],
        "first tokens alike of 32": alike,
    }


def _short_and_long(sides: dict[str, Callable[[int], list[int]]]) -> Cases:
    return {
        f"{side}, {count} token{'s' * (count > 1)}": partial(say, count)
        for side, say in sides.items()
        for count in (1, DECODE_TOKENS + 1)
    }


def choices(options: argparse.Namespace) -> dict[str, Any]:
    """Options behind one prompt: the cost over the prefill alone, and a forward pass an option beside it."""
    model = fixed_shape(torch.float32, options.device)
    engine = Engine(model, stop_ids=frozenset(), prefix_bytes=0)
    prompt = prompts(1, False)[0]
    generator = torch.Generator().manual_seed(1)
    given = [
        tuple(torch.randint(10, 8000, (OPTION_TOKENS,), generator=generator).tolist()) for _ in range(max(OPTIONS))
    ]
    request = Request(prompt)
    prepared = engine.preparing.prepared(request)

    @torch.inference_mode()
    def alone() -> float:
        done = prefill(engine.network, [prepared])
        return float(engine.network.logits(done.hidden[0]).log_softmax(-1)[0])

    @torch.inference_mode()
    def forward_each(count: int) -> list[float]:
        scores = []
        for option in given[:count]:
            ids = torch.tensor([[*prompt.input_ids, *option]], device=options.device)
            logits = model(input_ids=ids, logits_to_keep=OPTION_TOKENS + 1).logits[0, :-1]
            targets = torch.tensor(option, device=options.device)[:, None]
            scores.append(float(logits.float().log_softmax(-1).gather(1, targets).sum()))
        return scores

    def ours(count: int) -> list[float]:
        return [score.logprob for score in engine.score_choices([(request, given[:count])])[0]]

    difference = max(abs(a - b) for a, b in zip(ours(max(OPTIONS)), forward_each(max(OPTIONS)), strict=True))
    if difference > 1e-2:
        sys.exit(f"choices: the sides differ by {difference}: their times do not compare")
    cases: Cases = {"prefill alone": alone}
    for count in OPTIONS:
        cases[f"ours, {count} options"] = lambda count=count: ours(count)
        cases[f"a forward an option, {count} options"] = lambda count=count: forward_each(count)
    seconds = seconds_of(cases, options.repeats)
    median = medians(seconds)
    return {
        "seconds": seconds,
        "largest_difference": difference,
        "over_prefill": {k: median[f"ours, {k} options"] / median["prefill alone"] for k in OPTIONS},
        "forwards_over_ours": {
            k: median[f"a forward an option, {k} options"] / median[f"ours, {k} options"] for k in OPTIONS
        },
    }


def batches(options: argparse.Namespace) -> dict[str, Any]:
    """Answers of nano alone against all together: the share of answers, and of tokens up to a first difference."""
    found = {}
    for dtype in ("float32", "bfloat16"):
        gemma = MedGemma.from_pretrained("nano", device=options.device, dtype=dtype)
        words = [
            "the lung",
            "a CT scan",
            "the left side",
            "a fracture",
            "pneumonia",
            "the tissue",
            "an MRI",
            "the view",
        ]
        questions = [f"{verb} {what}?" for verb in ("Is there", "Describe", "What about", "Where is") for what in words]
        requests = [Request(gemma.prompt([_user(q)], 32), (), Sampling(max_new_tokens=32)) for q in questions]
        together = [list(samples[0].token_ids) for samples in gemma.engine.generate(requests)]
        gemma.engine.weights_changed()
        alone = [list(gemma.engine.generate([request])[0][0].token_ids) for request in requests]
        alike = [_common(a, b) for a, b in zip(alone, together, strict=True)]
        tokens = sum(min(len(a), n + 1) for a, n in zip(alone, alike, strict=True))
        found[dtype] = {
            "answers": len(questions),
            "answers that differ": sum(a != b for a, b in zip(alone, together, strict=True)),
            "tokens": tokens,
            "tokens that differ": sum(a != b for a, b in zip(alone, together, strict=True)),
        }
    return found


# Parts

READ_BYTES = 512 * 2**20


def _reader(device: str) -> Callable[[], Any]:
    """Read half a gigabyte once, as fast as torch can."""
    data = torch.ones(READ_BYTES // 4, device=device)
    return lambda: float(data.sum())


@torch.inference_mode()
def _tower(model: Any, pixels: torch.Tensor) -> Any:
    return model.model.vision_tower(pixel_values=pixels).last_hidden_state


def _decoders(options: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    yield "fixed shape, bfloat16", fixed_shape(torch.bfloat16, options.device)
    for dtype in ("float32", "bfloat16"):
        yield f"nano, {dtype}", MedGemma.from_pretrained("nano", device=options.device, dtype=dtype).model


def _ours(engine: Engine, prompt: Prompt, count: int) -> list[int]:
    return list(engine.generate([Request(prompt, (), Sampling(max_new_tokens=count))])[0][0].token_ids)


@torch.inference_mode()
def _theirs(model: Any, prompt: list[int], count: int, **settings: Any) -> list[int]:
    lengths = {"max_new_tokens": count, "min_new_tokens": count}
    ids = torch.tensor([prompt], device=model.device)
    with _quiet():
        done = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            **lengths,
            **settings,
        )
    return list(done[0, ids.shape[1] :].tolist())


@contextmanager
def _quiet() -> Iterator[None]:
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    yield
    logging.set_verbosity(before)


def _user(question: str) -> dict[str, Any]:
    return {"role": "user", "content": question}


def _per_token(seconds: dict[str, list[float]]) -> dict[str, float]:
    """Median seconds of a decoded token: long answers less short ones, round by round."""
    found = {}
    for case in [case.removesuffix(", 1 token") for case in seconds if case.endswith(", 1 token")]:
        pairs = zip(seconds[f"{case}, {DECODE_TOKENS + 1} tokens"], seconds[f"{case}, 1 token"], strict=True)
        found[case] = float(np.median([long - short for long, short in pairs])) / DECODE_TOKENS
    return found


def _common(a: list[int], b: list[int]) -> int:
    """Tokens before the first difference."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _agree(ours: list[list[int]], theirs: list[list[int]]) -> None:
    if ours != theirs:
        sys.exit(f"film: {sum(a != b for a, b in zip(ours, theirs, strict=True))} answers differ: times do not compare")


def _timed(cases: Cases, repeats: int, ours: str, peer: str) -> dict[str, Any]:
    seconds = seconds_of(cases, repeats)
    median = medians(seconds)
    best = min(value for case, value in median.items() if case.startswith(peer))
    return {"seconds": seconds, "ours / peer": best / median[ours]}


# The page


def table(record: dict[str, Any]) -> str:
    """Markdown tables of one record."""
    lines = []
    if "film" in record:
        lines += ["| film | seconds, median (range) |", "|---|---|"]
        lines += [f"| {case} | {_spread(values)} |" for case, values in record["film"]["seconds"].items()]
        lines += ["", f"film: {record['film']['ours / peer']:.1f}x transformers (goal {TARGETS['film']:g}x)", ""]
    if "decode" in record:
        lines += [
            "| decode, ms a token | ours | ours, not compiled | transformers | static cache | bound | share of bound "
            "| ours / peer | compiling, s |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for name, row in record["decode"].items():
            ms = row["ms_a_token"]
            bound = row["weights_mb"] / row["bandwidth_gb_s"]
            cells = [ms["ours"], ms["ours, not compiled"], ms["transformers"], ms["transformers, static cache"], bound]
            shares = [f"{row['share_of_bound']:.0%}", f"{row['ours / peer']:.1f}x", f"{row['compile_s']:.0f}"]
            lines.append(f"| {name} | " + " | ".join([*(f"{cell:.2f}" for cell in cells), *shares]) + " |")
        lines.append("")
    if "choices" in record:
        found = record["choices"]
        lines += ["| choices | seconds, median (range) |", "|---|---|"]
        lines += [f"| {case} | {_spread(values)} |" for case, values in found["seconds"].items()]
        for count, ratio in found["over_prefill"].items():
            forwards = found["forwards_over_ours"][count]
            lines.append(f"\n{count} options: {ratio:.2f}x the prefill alone (goal at most {TARGETS['choices']}),")
            lines.append(f"{forwards:.1f}x less than a forward an option (goal {TARGETS['forwards']:g}x)")
        lines.append("")
    for dtype, row in record.get("batches", {}).items():
        lines.append(f"batches, {dtype}: {row['answers that differ']} of {row['answers']} answers differ,")
        lines.append(f"{row['tokens that differ']} of {row['tokens']} tokens up to a first difference")
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    return f"{np.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile-mode", default="default", help="of our decode step; reduce-overhead on a GPU")
    parser.add_argument("--jobs", default="film,decode,choices,batches")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "engine.jsonl")
    return parser.parse_args()


if __name__ == "__main__":
    main()
