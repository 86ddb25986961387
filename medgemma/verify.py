"""Whether a checkpoint, as it lies on this machine, is read and asked here as plain transformers reads and asks it.

The report can be passed on: it has no path, no picture of a patient and no text but what is made here.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from medgemma.checkpoints.info import layout_of, parameters_by_part
from medgemma.checkpoints.layouts import CLASSES, kind_of, matched_folder
from medgemma.checkpoints.memory import machine_memory_bytes
from medgemma.plain_transformers import (
    MAX_NEW_TOKENS,
    TEXTS,
    conversations,
    made_pixels,
    peak_memory_bytes,
)
from medgemma.prompts.special_tokens import special_ids, turn_tokens, with_one_bos
from medsiglip.checkpoints.folders import read_json
from medsiglip.checkpoints.safetensors_files import stored_tensors

if TYPE_CHECKING:
    from medgemma.model import MedGemma
    from medsiglip.preprocess import Preprocessing

GREY_LEVEL = 2 / 255
"""One step of a picture's 256 values, where they span -1 to 1: as far apart as two resizers that round may be."""
TIE = {"float32": 1e-3, "bfloat16": 0.25}
"""Two tokens whose log-probabilities are so close may be swapped by the order of additions."""
COSINE = {"float32": 1e-5, "bfloat16": 1e-2}
"""So far from 1 may the cosine of our vector and transformers' be."""
PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "pillow")


class Found(NamedTuple):
    """What a comparison gave."""

    passed: bool
    said: str


class Check(NamedTuple):
    """One thing that was compared."""

    name: str
    passed: bool
    found: str


@dataclass(frozen=True)
class Verification:
    """What `medgemma verify` says."""

    model_class: str
    dtype: str
    device: str
    checks: tuple[Check, ...]
    machine: Mapping[str, Any]

    @property
    def passed(self) -> bool:
        """Whether nothing differs."""
        return all(check.passed for check in self.checks)


class Theirs(NamedTuple):
    """What plain transformers made of the folder; see `medgemma.plain_transformers`."""

    said: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]


def verify(folder: Path, *, device: str = "auto", dtype: str | None = None) -> Verification:
    """Compare a Gemma 3 or SigLIP folder, as this package uses it, with plain transformers.

    Transformers runs first and in a process of its own, so that one copy of the weights is in memory at a time.

    Args:
        folder: of the checkpoint.
        device: "auto", or a torch device name; both sides use it.
        dtype: "float32" or "bfloat16"; None as `MedGemma.from_pretrained` chooses.

    Raises:
        ValueError: the folder holds no such model.
    """
    from medgemma.checkpoints.loading import computing_dtype
    from medsiglip.encoder import pick_device

    kind = kind_of(read_json(folder / "config.json"), folder)
    if kind not in ("gemma3", "gemma3_text", "siglip"):
        raise ValueError(f"model_type {kind!r}: verify takes a Gemma 3 or a whole SigLIP, not one tower alone")
    place = pick_device(device)
    computed = str(computing_dtype(folder, dtype, place)).removeprefix("torch.")
    checks = [_told("keys", lambda: _keys(folder, kind))]
    if checks[0].passed:
        try:
            theirs = _plain_transformers(folder, computed, place)
            compared = (_encoder_checks if kind == "siglip" else _decoder_checks)(folder, computed, place, theirs)
            checks += [_told(name, check) for name, check in compared.items()]
            checks.append(_memory(folder, theirs))
        except ValueError as error:
            checks.append(Check("load", False, str(error)))
    shareable = tuple(check._replace(found=_without_paths(check.found, folder)) for check in checks)
    return Verification(CLASSES[kind], computed, place, shareable, _machine())


def _told(name: str, check: Callable[[], Found]) -> Check:
    """A check, failed with its error where it raises one."""
    try:
        return Check(name, *check())
    except (ValueError, OSError) as error:
        return Check(name, False, " ".join(str(error).split()))


# A decoder


def _decoder_checks(folder: Path, dtype: str, device: str, theirs: Theirs) -> dict[str, Callable[[], Found]]:
    from medgemma.model import MedGemma

    gemma = MedGemma.from_pretrained(folder, device=device, dtype=dtype)
    checks: dict[str, Callable[[], Found]] = {
        "template": partial(_template, gemma, theirs),
        "one bos": partial(_one_bos, gemma),
        "stops": partial(_stops, gemma),
        "special tokens": partial(_special_tokens, gemma, theirs),
    }
    if gemma.preprocessing is not None:
        checks["pixels"] = partial(_pixels, gemma.preprocessing, theirs)
    return checks | {f"tokens, {name}": partial(_tokens, gemma, name, theirs) for name in theirs.said["tokens"]}


def _template(gemma: "MedGemma", theirs: Theirs) -> Found:
    if not gemma.tokenizer.chat_template:
        return Found(False, "none is there; a tuned checkpoint needs its chat_template.jinja")
    talks = conversations()
    differing = [
        name for name, ids in theirs.said["prompts"].items() if list(gemma.prompt(talks[name], 1).input_ids) != ids
    ]
    if differing:
        return Found(False, f"prompts differ from transformers': {', '.join(differing)}")
    lengths = ", ".join(f"{name} {len(ids)} tokens" for name, ids in theirs.said["prompts"].items())
    return Found(True, f"prompts are transformers': {lengths}")


def _one_bos(gemma: "MedGemma") -> Found:
    bos = gemma.tokenizer.bos_token_id
    prompts = [gemma.prompt(conversations()["text"], 1).input_ids, with_one_bos(gemma.tokenizer, [bos, bos, 5])]
    adds = bos in gemma.tokenizer("a").input_ids
    passed = all(ids[0] == bos and ids.count(bos) == 1 for ids in prompts)
    return Found(passed, f"id {bos}; the tokenizer {'adds' if adds else 'does not add'} it by itself")


def _stops(gemma: "MedGemma") -> Found:
    end = turn_tokens(gemma.tokenizer).end
    named = ", ".join(f"{i} {gemma.tokenizer.convert_ids_to_tokens(i)}" for i in sorted(gemma.stop_ids))
    settings = gemma.model.generation_config.eos_token_id
    return Found(end in gemma.stop_ids, f"{named}; the generation config says {settings}, a turn ends with {end}")


def _special_tokens(gemma: "MedGemma", theirs: Theirs) -> Found:
    ends = (gemma.tokenizer.convert_ids_to_tokens(i) for i in turn_tokens(gemma.tokenizer) if i is not None)
    taken = []
    for token in dict.fromkeys((*theirs.said["special_tokens"], *ends)):
        with suppress(ValueError):
            gemma.prompt([{"role": "user", "content": f"a {token} b"}], 1)
            taken.append(token)
    added = len(gemma.tokenizer.added_tokens_decoder)
    special = ", ".join(map(str, sorted(special_ids(gemma.tokenizer))))
    said = (
        f"{added:,} added tokens, special: {special}; thinking {'can' if gemma.asking.markers else 'cannot'} be asked"
    )
    return Found(not taken, f"questions may hold {', '.join(taken)}" if taken else said)


def _tokens(gemma: "MedGemma", name: str, theirs: Theirs) -> Found:
    from medgemma.engine import Request, Sampling
    from medsiglip.imaging import Picture

    expected = theirs.said["tokens"][name]
    prompt = gemma.prompt(conversations()[name], MAX_NEW_TOKENS)
    pictures = (Picture.from_array(made_pixels()),) * prompt.num_images
    request = Request(prompt, pictures, Sampling(max_new_tokens=MAX_NEW_TOKENS))
    started = time.perf_counter()
    ((said,),) = gemma.engine.generate([request])
    took = f"{time.perf_counter() - started:.1f} s, transformers {theirs.said['seconds'][name]:.1f} s"
    ours = list(said.token_ids)
    if ours == expected:
        return Found(True, f"{len(ours)} greedy tokens are transformers'; {took}")
    place = next((i for i, pair in enumerate(zip(ours, expected, strict=False)) if pair[0] != pair[1]), len(ours))
    if place >= min(len(ours), len(expected)):
        return Found(False, f"{len(ours)} tokens where transformers has {len(expected)}")
    [scores] = gemma.engine.score_choices([(request, [ours[: place + 1], expected[: place + 1]])])
    apart = abs(scores[0].logprob - scores[1].logprob)
    tie = apart <= TIE[str(gemma.model.dtype).removeprefix("torch.")]
    where = f"token {place + 1} is {ours[place]}, transformers' {expected[place]}, log-probabilities {apart:.3g} apart"
    return Found(tie, f"{where}{': a tie' if tie else ''}; {took}")


# An encoder


def _encoder_checks(folder: Path, dtype: str, device: str, theirs: Theirs) -> dict[str, Callable[[], Found]]:
    from medsiglip.encoder import MedSigLIP, tokenize
    from medsiglip.imaging import Picture

    encoder = MedSigLIP.from_pretrained(folder, device=device, dtype=dtype)

    def texts() -> Found:
        same = tokenize(encoder.tokenizer, TEXTS).tolist() == theirs.said["ids"]
        return Found(same, f"{len(TEXTS)} texts padded to 64 ids {'are' if same else 'are not'} transformers'")

    def vectors(name: str, ours: Callable[[], np.ndarray]) -> Found:
        apart = 1 - float((ours() * theirs.arrays[name]).sum(-1).min())
        return Found(apart <= COSINE[dtype], f"cosines with transformers' differ from 1 by {apart:.1g} at most")

    return {
        "pixels": partial(_pixels, encoder.preprocessing, theirs),
        "text ids": texts,
        "picture vectors": partial(
            vectors, "images", lambda: encoder.encode_images([Picture.from_array(made_pixels())])
        ),
        "text vectors": partial(vectors, "texts", lambda: encoder.encode_texts(TEXTS)),
    }


# Either


def _keys(folder: Path, kind: str) -> Found:
    stored = stored_tensors(folder)
    matched = matched_folder(folder)
    total = sum(parameters_by_part({key: tensor.shape for key, tensor in matched.items()}).values())
    return Found(True, f"{len(stored)} tensors, {total:,} parameters, layout: {layout_of(stored, kind)}")


def _pixels(preprocessing: "Preprocessing", theirs: Theirs) -> Found:
    from medsiglip.imaging import Picture

    resized = preprocessing.resized(Picture.from_array(made_pixels()))
    ours, expected = preprocessing.pixel_values([resized]).numpy(), theirs.arrays["pixels"]
    if ours.shape != expected.shape:
        return Found(False, f"shape {ours.shape}, transformers' is {expected.shape}")
    apart = float(np.abs(ours - expected).max())
    return Found(
        apart <= GREY_LEVEL + 1e-5, f"{preprocessing.policy}, {preprocessing.size_px} px, at most {apart:.1g} apart"
    )


def _memory(folder: Path, theirs: Theirs) -> Check:
    weights = sum(tensor.num_bytes for tensor in stored_tensors(folder).values())
    sizes = {"weights": weights, "peak": peak_memory_bytes(), "transformers' peak": theirs.said["peak_memory_bytes"]}
    return Check("memory", True, ", ".join(f"{name} {size / 1e9:.3g} GB" for name, size in sizes.items()))


def _plain_transformers(folder: Path, dtype: str, device: str) -> Theirs:
    """Run the other side.

    Raises:
        ValueError: plain transformers fails on the folder.
    """
    program = [sys.executable, "-m", "medgemma.plain_transformers"]
    with tempfile.TemporaryDirectory() as out:
        found = Path(out) / "found"
        done = subprocess.run(
            [*program, str(folder.resolve()), dtype, device, str(found)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
            raise ValueError(f"plain transformers does not run this folder: {reason[:300]}")
        with np.load(f"{found}.npz") as arrays:
            return Theirs(json.loads(Path(f"{found}.json").read_text(encoding="utf-8")), dict(arrays))


def _without_paths(text: str, folder: Path) -> str:
    for path in (folder, folder.resolve()):
        text = text.replace(str(path), "MODEL")
    return text.replace(str(Path.home()), "~")


def _machine() -> dict[str, Any]:
    memory = machine_memory_bytes()
    return {
        "system": platform.system(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "memory_gb": memory and round(memory / 1e9, 1),
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }
