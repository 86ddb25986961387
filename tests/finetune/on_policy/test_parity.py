"""The engine's and the trainer's log-probabilities, on nano, under the Hub's files, and with an adapter.

What samples and what learns must be one policy: a ratio between them is an off-policy error that nobody asked for.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune.losses.policy import policy_loss
from finetune.on_policy import EngineSampler, Network, PromptRow, Rollout, base_of, copy_of
from finetune.on_policy.rounds import scored
from finetune.training import ALONE
from medgemma import MedGemma
from medgemma.engine import Sampling
from medgemma.prompts.chat import user_message
from tests import hub_shapes
from tests.finetune.on_policy import small
from tests.nano import needs_nano

QUESTIONS = ("Which view is this?", "Is there a pneumothorax?", "Describe this picture.", "What is diabetes?")
WAYS = [Sampling(12, 1.0), Sampling(12, 0.6, top_p=0.8), Sampling(12, 1.7, top_k=20)]


def sampled(gemma: MedGemma, sampling: Sampling) -> tuple[Network, list[Rollout]]:
    """Four prompts, the last of text alone, three samples each."""
    policy = Network(gemma.model, gemma.preprocessing, small.pictures())
    rows = []
    for number, question in enumerate(QUESTIONS):
        seen = (number,) if number < 3 else ()
        messages = [user_message(question, len(seen))]
        rows.append(PromptRow(gemma.prompt(messages, 12), messages, seen, place=f"row {number}"))
    return policy, EngineSampler(gemma, policy.pictures, max_rows=5).sample(rows, range(4), 3, sampling)


def assert_parity(gemma: MedGemma, sampling: Sampling) -> None:
    policy, rollouts = sampled(gemma, sampling)
    layout = small.layout_of(gemma, max_tokens=512)
    trainer = scored(policy, rollouts, layout, sampling.temperature, ALONE)
    ours = [value for rollout in rollouts for value in rollout.logprobs]
    theirs = [value for values in trainer for value in values]
    assert len(ours) > 20 and ours == pytest.approx(theirs, abs=1e-5)
    for kind in (layout, replace(layout, packed=False, share_prompts=False)):
        [part] = kind.parts([rollout.example() for rollout in rollouts])
        own = policy.logprobs(part.drawn, sampling.temperature)
        found = policy_loss(
            policy.states(part.drawn),
            policy.head(),
            part.drawn.targets,
            weights=torch.ones(len(own)),
            denominator=1.0,
            sampled_logprobs=own,
            temperature=sampling.temperature,
        )
        assert torch.equal(found.ratios, torch.ones(len(own)))  # to the bit, against the trainer's own forward pass


@needs_nano
@pytest.mark.parametrize("sampling", WAYS, ids=["whole", "cut", "hot"])
def test_on_nano_both_agree_and_the_ratio_is_one(sampling: Sampling) -> None:
    """Also at a temperature that is not 1 and with top-p below 1; the cut distribution's are another number."""
    gemma = MedGemma.from_pretrained("nano", device="cpu", dtype="float32")
    assert_parity(gemma, sampling)
    if sampling.top_p < 1:
        _, rollouts = sampled(gemma, sampling)
        whole, cut = (sum(sum(getattr(r, kind)) for r in rollouts) for kind in ("logprobs", "sampled_logprobs"))
        assert cut > whole + 0.1


@needs_nano
@pytest.mark.slow
def test_under_the_hubs_files_both_agree(tmp_path: Path) -> None:
    gemma = MedGemma.from_pretrained(hub_shapes.medgemma_folder(tmp_path / "hub"), device="cpu", dtype="float32")
    assert_parity(gemma, WAYS[1])


def test_with_an_adapter_both_agree_and_its_base_is_the_reference(checkpoint: Path) -> None:
    """The reference of a LoRA policy is its base in place; of a full one, a copy: neither has moved."""
    gemma, plain = small.gemma_of(checkpoint), small.gemma_of(checkpoint)
    peft = small.adapted(gemma).peft
    small.moved(gemma)
    assert_parity(gemma, WAYS[1])
    policy, rollouts = sampled(gemma, WAYS[0])
    layout = small.layout_of(gemma)

    def of(model: Any) -> list[float]:
        return [v for values in scored(model, rollouts, layout, 1.0, ALONE) for v in values]

    original = of(Network(plain.model, plain.preprocessing, policy.pictures))
    now = of(policy)
    held = copy_of(policy)
    assert of(base_of(policy, peft)) == pytest.approx(original, abs=1e-6)
    assert max(abs(a - b) for a, b in zip(now, original, strict=True)) > 1e-2
    small.moved(gemma, 0.3)
    assert of(held) == pytest.approx(now, abs=1e-6) and of(policy) != pytest.approx(now, abs=1e-2)
    assert not any(p.requires_grad for p in held.network.model.parameters())
