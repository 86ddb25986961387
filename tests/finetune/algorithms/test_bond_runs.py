"""BOND on a tiny MedGemma, through engine and loop: it learns, and an interrupted run ends with the same bits."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune.adapters import AdapterSection, adapt
from finetune.algorithms.bond import Bond
from finetune.algorithms.following import Following
from finetune.algorithms.j_bond import JBond
from finetune.on_policy import (
    Anchor,
    EngineSampler,
    Network,
    OnPolicy,
    PromptRow,
    Reward,
    base_of,
    copy_of,
    train_on_policy,
)
from finetune.packing import Layout
from finetune.training import Loop, Schedule
from medgemma import MedGemma
from medgemma.engine import Sampling
from tests import tiny

Made = Callable[[Anchor], Any]
ALGORITHMS: dict[str, Made] = {
    "bond": lambda anchor: Bond(2, anchor, Following(1.0, 2), ranked_among=3),
    "j-bond": lambda anchor: JBond(anchor, Following(0.3), gamma=0.5),
}


class Pulled(RuntimeError):
    """The plug is."""


def distinct(completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
    return [len(set(ids)) / 8 for ids in completion_ids]


def pulling(after: int) -> Callable[..., list[float]]:
    calls = iter(range(10_000))

    def distinct(completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:  # the same name: it is logged
        if next(calls) == after:
            raise Pulled
        return [len(set(ids)) / 8 for ids in completion_ids]

    return distinct


def run(folder: Path, out: Path, name: str, method: str, reward: Callable[..., list[float]]) -> dict[str, torch.Tensor]:
    """What is trained at the end, and the anchor."""
    gemma = MedGemma.from_pretrained(folder, device="cpu", dtype="float32")
    adapted = adapt(gemma.model, AdapterSection.model_validate({"method": method, "rank": 2}), seed=0)
    policy = Network(gemma.model, gemma.preprocessing, ())
    reference = copy_of(policy) if adapted.peft is None else base_of(policy, adapted.peft)
    anchor = Anchor(policy)
    rows = [
        PromptRow(gemma.asking.prompts.render([{"role": "user", "content": text}]), text, place=text)
        for text in ("one", "two", "three")
    ]
    train_on_policy(
        policy,
        ALGORITHMS[name](anchor),
        rows,
        EngineSampler(gemma),
        [Reward(reward)],
        reference,
        Schedule(1e-2, 4, warmup_steps=1),
        out / "stage",
        Loop(save_every_s=0, quiet=True),
        how=OnPolicy(2, Sampling(max_new_tokens=6, temperature=1.0), Layout(gemma.tokenizer.pad_token_id, None, 256)),
        settings={},
    )
    trained = {n: p.detach().clone() for n, p in gemma.model.named_parameters() if p.requires_grad}
    return trained | {f"anchor.{n}": value.clone() for n, value in anchor.tensors().items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.decoder_folder(tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("method", ["lora", "full"])
def test_interrupted_is_uninterrupted(folder: Path, tmp_path: Path, name: str, method: str) -> None:
    whole = run(folder, tmp_path / "whole", name, method, distinct)
    with pytest.raises(Pulled):
        run(folder, tmp_path / "cut", name, method, pulling(5))  # in its third step
    again = run(folder, tmp_path / "cut", name, method, distinct)
    assert whole.keys() == again.keys() and any(key.startswith("anchor.") for key in whole)
    for key, value in whole.items():
        assert torch.equal(value, again[key]), key
    anchored = [key for key in whole if key.startswith("anchor.")]
    if method == "full":
        names = [key for key in anchored if key.removeprefix("anchor.") in whole]
        assert any(not torch.equal(whole[key], whole[key.removeprefix("anchor.")]) for key in names)
