"""A tiny policy with pictures, prompts for it, and a reward: what the tests of the on-policy core train."""

from pathlib import Path
from typing import Any

import torch

from finetune.adapters import Adapted, AdapterSection, adapt
from finetune.algorithms.reinforce import Reinforce
from finetune.on_policy import EngineSampler, Frozen, Network, OnPolicy, PromptRow, Reward, base_of, train_on_policy
from finetune.packing import Layout
from finetune.training import ALONE, Loop, Ranks, Schedule
from medgemma import MedGemma
from medgemma.engine import Sampling
from medgemma.prompts.chat import user_message
from medsiglip.imaging import Picture, open_pictures
from tests import tiny

QUESTIONS = (
    "Is it benign?",
    "Which view is this?",
    "Name the organ.",
    "Describe the tissue.",
    "Is the heart enlarged?",
)
SAMPLING = Sampling(max_new_tokens=6, temperature=1.0)


def gemma_of(folder: Path) -> MedGemma:
    return MedGemma.from_pretrained(folder, device="cpu", dtype="float32")


def pictures() -> list[Picture]:
    return list(open_pictures([tiny.picture_array(n) for n in range(3)]))


def rows_of(gemma: MedGemma) -> list[PromptRow]:
    """Five prompts; the third is of text alone, the others have one of three pictures."""
    made = []
    for number, question in enumerate(QUESTIONS):
        seen = () if number == 2 else (number % 3,)
        messages = [user_message(question, len(seen))]
        prompt = gemma.prompt(messages, SAMPLING.max_new_tokens)
        made.append(PromptRow(prompt, messages, seen, {"answer": f"answer {number}"}, f"q.csv:{number}"))
    return made


def evenness(prompts: Any, completions: Any, completion_ids: list[list[int]], **columns: Any) -> list[float]:
    """A graded reward of the tokens alone."""
    return [sum(token % 7 for token in ids) / 10 for ids in completion_ids]


def layout_of(gemma: MedGemma, **options: Any) -> Layout:
    options = {"packed": True, "share_prompts": True, "max_tokens": 96, **options}
    return Layout(gemma.tokenizer.pad_token_id, gemma.model.config.image_token_id, **options)


def adapted(gemma: MedGemma, **section: Any) -> Adapted:
    section = {"rank": 4, "alpha": 8, "parts": ("language", "projector"), **section}
    found = adapt(gemma.model, AdapterSection(**section), seed=0)
    gemma.model.eval()
    return found


def moved(gemma: MedGemma, size: float = 0.05) -> None:
    """Updates that are no longer zero."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in gemma.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=size, generator=generator)


def trained(
    folder: Path,
    checkpoint: Path,
    *,
    ranks: Ranks = ALONE,
    steps: int = 3,
    algorithm: Any = None,
    make: Any = None,
    layout: dict[str, Any] | None = None,
    dropout: float = 0.0,
    rewards: Any = None,
    save_every_s: float = -1,
    **options: Any,
) -> MedGemma:
    """A few steps of REINFORCE on an adapter and the projector; the reference is the base."""
    torch.set_num_threads(1)
    gemma = gemma_of(checkpoint)
    peft = adapted(gemma, dropout=dropout).peft
    policy = Network(gemma.model, gemma.preprocessing, pictures())
    reference: Frozen = base_of(policy, peft)
    train_on_policy(
        policy,
        algorithm or (make(policy) if make else Reinforce(4, 0.05)),
        rows_of(gemma),
        EngineSampler(gemma, policy.pictures),
        rewards or [Reward(evenness)],
        reference,
        Schedule(3e-3, steps, warmup_steps=1, weight_decay=0.0, clip_norm=0.5),
        folder,
        Loop(ranks=ranks, save_every_s=save_every_s, log_every_steps=1, quiet=True),
        how=OnPolicy(2, SAMPLING, layout_of(gemma, **(layout or {}))),
        settings={},
        **options,
    )
    return gemma


def weights(gemma: MedGemma) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in gemma.model.named_parameters() if p.requires_grad}
