"""An engine of scripted answers: what a constraint allows, else one fixed sentence; no weights."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medgemma.asking import Asking
from medgemma.engine.request import Completion, Request
from medgemma.prompts.chat import Prompts

SENTENCE = "The lungs are clear"


def scripted_asking(folder: Path) -> Asking:
    prompts = Prompts.from_folder(folder, "tiny")
    stop_ids = frozenset(prompts.tokenizer.convert_tokens_to_ids(["<eos>", "<end_of_turn>"]))
    return Asking(prompts, len(prompts.tokenizer), stop_ids)


def scripted_generate(asking: Asking, requests: Sequence[Request]) -> list[list[Completion]]:
    return [[_completion(asking, request, i) for i in range(request.sampling.num_samples)] for request in requests]


def _completion(asking: Asking, request: Request, seed: int) -> Completion:
    if "fail here" in asking.tokenizer.decode(request.prompt.input_ids):
        return Completion((), (), "error", "the engine failed this one")
    rng = np.random.default_rng(seed)
    script = asking.tokenizer(f"{SENTENCE}<end_of_turn>", add_special_tokens=False).input_ids
    state = request.constraint.start() if request.constraint else None
    ids: list[int] = []
    while len(ids) < request.sampling.max_new_tokens:
        mask = state.allowed() if state else None
        if mask is None:
            token = script[len(ids)]
        else:
            allowed = np.flatnonzero(mask)
            closing = [i for i in allowed if i in asking.stop_ids or asking.tokenizer.decode([int(i)]) in '"}']
            token = int(rng.choice(closing or allowed))
        ids.append(token)
        if token in asking.stop_ids:
            return Completion(tuple(ids), (-0.5,) * len(ids), "stop")
        if state:
            state.advance(token)
            if state.finished():
                return Completion(tuple(ids), (-0.5,) * len(ids), "stop")
    return Completion(tuple(ids), (-0.5,) * len(ids), "length")
