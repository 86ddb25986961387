"""Entailment RL on a tiny MedGemma, through engine and loop: an interrupted run ends with the same bits, critic too."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune.adapters import AdapterSection, adapt
from finetune.algorithms.critic import critic_of
from finetune.algorithms.entailment import EntailmentRL
from finetune.on_policy import EngineSampler, Network, OnPolicy, PromptRow, Reward, base_of, copy_of, train_on_policy
from finetune.packing import Layout
from finetune.training import Loop, Schedule
from medgemma import MedGemma
from medgemma.engine import Sampling
from tests import tiny


class Pulled(RuntimeError):
    """The plug is."""


def distinct(completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
    return [len(set(ids)) / 8 - 1 for ids in completion_ids]


def pulling(step: int) -> Callable[[Any], None]:
    """An `on_round` that fails when a step has been sampled, graded and valued."""

    def pull(round: Any) -> None:
        if round.number == step:
            raise Pulled

    return pull


def run(
    folder: Path, out: Path, method: str, critic: str, on_round: Callable[[Any], None] | None = None
) -> dict[str, torch.Tensor]:
    """What is trained at the end, and the critic."""
    gemma = MedGemma.from_pretrained(folder, device="cpu", dtype="float32")
    adapted = adapt(gemma.model, AdapterSection.model_validate({"method": method, "rank": 2}), seed=0)
    policy = Network(gemma.model, gemma.preprocessing, ())
    reference = copy_of(policy) if adapted.peft is None else base_of(policy, adapted.peft)
    value = critic_of(policy, reference if critic == "head" else None, 1e-2)
    rows = [
        PromptRow(gemma.asking.prompts.render([{"role": "user", "content": text}]), text, place=text)
        for text in ("one", "two", "three")
    ]
    train_on_policy(
        policy,
        EntailmentRL(2, 0.3, value),
        rows,
        EngineSampler(gemma),
        [Reward(distinct)],
        reference,
        Schedule(1e-2, 4, warmup_steps=1),
        out / "stage",
        Loop(save_every_s=0, quiet=True, log_every_steps=1),
        how=OnPolicy(2, Sampling(max_new_tokens=6, temperature=1.0), Layout(gemma.tokenizer.pad_token_id, None, 256)),
        settings={},
        on_round=on_round,
    )
    trained = {n: p.detach().clone() for n, p in gemma.model.named_parameters() if p.requires_grad}
    return trained | {n: tensor.clone() for n, tensor in value.tensors().items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.decoder_folder(tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize(("method", "critic"), [("lora", "whole"), ("full", "head")])
def test_interrupted_is_uninterrupted(folder: Path, tmp_path: Path, method: str, critic: str) -> None:
    """The plug is pulled when the critic knows what the step has shown, and has not learned it."""
    whole = run(folder, tmp_path / "whole", method, critic)
    with pytest.raises(Pulled):
        run(folder, tmp_path / "cut", method, critic, pulling(2))
    again = run(folder, tmp_path / "cut", method, critic)
    assert whole.keys() == again.keys()
    for key, value in whole.items():
        assert torch.equal(value, again[key]), key
    log = (tmp_path / "whole" / "stage" / "log.jsonl").read_text()
    assert log.count("critic_error") == 4


def test_the_whole_critic_begins_as_the_start_and_leaves_it_alone(folder: Path, tmp_path: Path) -> None:
    trained = run(folder, tmp_path, "lora", "whole")
    layers = [key for key in trained if key.startswith("critic.") and "layers" in key]
    gemma = MedGemma.from_pretrained(folder, device="cpu", dtype="float32")
    start = {name: parameter.detach() for name, parameter in gemma.model.named_parameters()}
    names = {key: key.removeprefix("critic.").replace(".base_layer", "") for key in layers}
    moved = [key for key in layers if not torch.equal(trained[key], start[names[key]])]
    assert len(layers) > 8 and moved == layers and not any("lora_" in key for key in layers)
    assert trained["critic.weight"].abs().max() > 0
