"""Items and a reward become an aligned MedGemma: what every recipe that samples its own policy shares.

OUT/adapter loads in PEFT and in `--adapter`, OUT/model is a whole checkpoint. OUT/reward_kl.svg has the reward over the
KL to the start, on trained and held-out questions, and Best-of-N of the start beside them.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from evals.items import Item
from finetune.adapters import AdapterSection, adapt, trained_table
from finetune.algorithms.best_of_n import best_of, best_of_n_kl_bound
from finetune.algorithms.bond import Bond
from finetune.algorithms.critic import critic_of
from finetune.algorithms.entailment import EntailmentRL
from finetune.algorithms.following import Following
from finetune.algorithms.grpo import Grpo, Variant
from finetune.algorithms.j_bond import JBond
from finetune.algorithms.reinforce import MovingBaseline, Reinforce
from finetune.algorithms.warp import Warp
from finetune.configuration import Section, keep_config
from finetune.on_policy import (
    Algorithm,
    Anchor,
    EngineSampler,
    Frozen,
    HeldOut,
    Network,
    OnPolicy,
    PromptRow,
    Reward,
    base_of,
    copy_of,
    train_on_policy,
)
from finetune.on_policy.records import curves_of, reward_kl_chart
from finetune.on_policy.rewards import graded
from finetune.on_policy.rollouts import groups_of
from finetune.packing import Layout
from finetune.tables.learning import AnswersConfig, Lessons, learn, save_tuned
from finetune.training import Loop, Precision, Schedule, join_ranks, leave_ranks
from finetune.training.draws import seed_of
from medgemma import MedGemma
from medgemma.asking import AnswerOptions
from medgemma.checkpoints.adapters.merge import merge
from medgemma.engine import Sampling
from medgemma.nano import NANO_FOLDER
from medgemma.prompts.chat import user_message
from medgemma.prompts.content import Part, open_study, study_parts
from medsiglip.checkpoints.folders import resolve_model
from medsiglip.command import one_line, progress, say, whole_file
from medsiglip.imaging import Picture

QUICK_STEPS, QUICK_HELD_OUT = 8, 16
STAGE = "align"
POINT = ("n", "kl_bound", "reward", "held_out_reward")


class AlgorithmSection(Section):
    """By which algorithm; what another one takes is not looked at."""

    name: Literal["j-bond", "bond", "reinforce", "grpo", "warp", "entailment"]
    n: int = Field(default=4, ge=2)
    """bond: N of the Best-of-N."""
    beta: float = Field(default=0.5, ge=0, le=1)
    """j-bond, bond: 0 forward KL alone, 1 backward alone."""
    gamma: float = Field(default=0.0, ge=0)
    """j-bond: held to the anchor beside its own KL."""
    follow: float = Field(default=0.02, ge=0, le=1)
    """j-bond, bond, warp: the share of the way that the anchor goes to the policy; 0: it stays."""
    follow_every: int = Field(default=1, ge=1)
    """Steps between two moves of the anchor; iterative BOND has follow 1 and some dozens."""
    num_samples: int = Field(default=4, ge=1)
    """reinforce, grpo, warp, entailment: of each prompt."""
    kl_coefficient: float = Field(default=0.1, ge=0)
    """reinforce, grpo: β of the KL to the start; warp: to the anchor."""
    baseline: Literal["leave-one-out", "moving", "value"] = "leave-one-out"
    """reinforce, entailment: the mean of the prompt's other samples; reinforce: of earlier steps; entailment: a learned
    value."""
    variant: Variant = "grpo"
    alpha: float = Field(default=0.2, gt=0, lt=1)
    """entailment: the reward counts 1 - alpha, the KL to the start alpha."""
    critic: Literal["whole", "head"] = "whole"
    """What of the value is learned: a second model, or a head over the start's own states."""
    critic_learning_rate: float = Field(default=1e-4, gt=0)
    trace: float = Field(default=0.95, ge=0, le=1)
    """λ of the value's advantages; 1: of what was earned alone."""

    @model_validator(mode="after")
    def _fits(self) -> "AlgorithmSection":
        refused = {"reinforce": "value", "entailment": "moving"}
        if refused.get(self.name) == self.baseline:
            raise ValueError(f"{self.name} has no baseline {self.baseline}; choose leave-one-out, or another algorithm")
        return self

    def made(self, policy: Network, max_new_tokens: int, reference: Frozen) -> Algorithm:
        """The algorithm, its anchor or its value at the policy as it is."""
        following = Following(self.follow, self.follow_every)
        if self.name == "j-bond":
            return JBond(Anchor(policy), following, self.beta, self.gamma)
        if self.name == "bond":
            return Bond(self.n, Anchor(policy), following, self.beta)
        if self.name == "warp":
            return Warp(self.num_samples, Anchor(policy), following, self.kl_coefficient)
        if self.name == "grpo":
            return Grpo(self.num_samples, self.kl_coefficient, self.variant, max_new_tokens)
        if self.name == "entailment":
            learned = self.baseline == "value"
            under = reference if self.critic == "head" else None
            critic = critic_of(policy, under, self.critic_learning_rate, self.trace) if learned else None
            return EntailmentRL(self.num_samples, self.alpha, critic)
        moving = MovingBaseline() if self.baseline == "moving" else None
        return Reinforce(self.num_samples, self.kl_coefficient, moving)


class AlignConfig(Section):
    """What is aligned, and how; the values are in the recipe's YAML."""

    model: str
    start: str
    """An adapter of `model` that is aligned further, merged into it at the beginning; empty: the model itself."""
    seed: int
    quick: bool
    device: str
    adapter: AdapterSection
    algorithm: AlgorithmSection
    learning_rate: float = Field(gt=0)
    steps: int = Field(ge=1)
    prompts_per_step: int = Field(ge=1)
    temperature: float = Field(gt=0)
    top_p: float = Field(gt=0, le=1)
    max_new_tokens: int = Field(ge=1)
    max_tokens: int = Field(ge=1)
    tokens_a_part: int = Field(ge=1)
    evaluations: int = Field(ge=1)
    held_out_items: int = Field(ge=1)
    best_of: tuple[int, ...]
    merge: bool


class StartSection(Section):
    """What is learned by SFT before it is aligned."""

    method: Literal["full", "lora"]
    learning_rate: float = Field(gt=0)
    epochs: float = Field(gt=0)
    examples_per_step: int = Field(ge=1)
    evaluations: int = Field(ge=0)
    evaluated_rows: int = Field(ge=1)


@dataclass(frozen=True)
class Questions:
    """What is asked, and what answers earn."""

    source: str
    identity: str
    """A line kept in OUT/config.yaml: what was learned from, with a hash."""
    train: Sequence[Item]
    held_out: Sequence[Item]
    rewards: Sequence[Reward]
    held_out_rewards: Sequence[Reward]
    """Not learned from."""
    columns: Callable[[Item], Mapping[str, Any]]
    """What rewards know of an item."""
    prompt_form: Mapping[str, Any]
    """Kept beside the adapter."""


def align(
    config: AlignConfig,
    questions: Questions,
    out: Path,
    quiet: bool,
    score: Callable[[str, Any, Any], None] | None = None,
) -> None:
    """Sample, grade, learn; write OUT/adapter, OUT/model, OUT/best_of_n.json and OUT/reward_kl.svg; then score.

    Args:
        config: the recipe's.
        questions: what is asked and earned.
        out: of the run; an interrupted one goes on to the same bits.
        quiet: no progress bars.
        score: gets the device and what loads the start and the aligned model.

    Raises:
        ValueError: nothing is on the training side, or a reward has a fault.
    """
    ranks, device = join_ranks(config.device)
    keep_config(config, out, questions.identity)
    if not questions.train or not questions.held_out:
        raise ValueError(
            f"{questions.source}: {len(questions.train)} questions to learn from, {len(questions.held_out)} held out"
        )
    base = _start(config, out)
    full = config.adapter.method == "full"
    gemma = MedGemma.from_pretrained(base, device=str(device), dtype="float32" if full else None)
    precision: Precision = "bfloat16" if device.type == "cuda" else "float32"
    held_out = questions.held_out[: QUICK_HELD_OUT if config.quick else config.held_out_items]
    with progress(len(questions.train) + len(held_out), "questions read", quiet) as advance:
        pictures: list[Picture] = []
        rows, held = (
            prompt_rows(items, gemma, questions.columns, pictures, advance) for items in (questions.train, held_out)
        )
    adapted = adapt(gemma.model, config.adapter, seed=config.seed)
    if ranks.rank == 0:
        say(trained_table(gemma.model))
    policy, sampler = Network(gemma.model, gemma.preprocessing, pictures, precision), EngineSampler(gemma, pictures)
    sampling = Sampling(max_new_tokens=config.max_new_tokens, temperature=config.temperature, top_p=config.top_p)
    if ranks.rank == 0:
        _best_of_n(config, questions, held, sampler, sampling, out)
    steps = min(config.steps, QUICK_STEPS) if config.quick else config.steps
    reference = copy_of(policy) if adapted.peft is None else base_of(policy, adapted.peft)
    train_on_policy(
        policy,
        config.algorithm.made(policy, config.max_new_tokens, reference),
        rows,
        sampler,
        questions.rewards,
        reference,
        Schedule(config.learning_rate, steps, warmup_steps=max(1, steps // 20), weight_decay=0.0, shape="constant"),
        out / "stages" / STAGE,
        Loop(config.seed, ranks, quiet=quiet),
        how=OnPolicy(config.prompts_per_step, sampling, _layout(config, gemma)),
        settings={"base": gemma.fingerprint, "rows": len(rows), "algorithm": config.algorithm.model_dump(mode="json")},
        held_out=HeldOut(held, questions.held_out_rewards, max(1, steps // config.evaluations)),
    )
    if ranks.rank == 0:
        _draw(out)
        save_tuned(adapted, gemma, str(base), questions.prompt_form, out)
        if not full and config.merge:
            merge(resolve_model(str(base), NANO_FOLDER), out / "adapter", out / "model", overwrite=True)
        if score is not None:
            _score(str(base), full, str(device), out, score)
    leave_ranks(ranks)


def taught_first(config: AlignConfig, start: StartSection | None, lessons: Lessons, out: Path, quiet: bool) -> str:
    """Teach the model the right answers in OUT/sft, and return the whole checkpoint that is aligned from there.

    Args:
        config: the recipe's; with a `start` of the user's own nothing is taught.
        start: how it is taught; None: not at all.
        lessons: what is right.
        out: of the run; an interrupted one goes on.
        quiet: no progress bars.
    """
    if config.start or start is None:
        return config.model
    taught = AnswersConfig(
        model=config.model,
        seed=config.seed,
        quick=config.quick,
        device=config.device,
        faulty_rows="refused",
        labels="real",
        adapter=config.adapter.model_copy(update={"method": start.method}),
        learning_rate=start.learning_rate,
        epochs=start.epochs,
        examples_per_step=start.examples_per_step,
        tokens_a_part=config.tokens_a_part,
        max_tokens=config.max_tokens,
        packed=True,
        checkpoint_activations=False,
        evaluations=start.evaluations,
        evaluated_rows=start.evaluated_rows,
        merge=True,
    )
    if not (out / "sft" / "model").is_dir():
        learn(taught, lessons, out / "sft", quiet, lambda *_: None)
    return str(out / "sft" / "model")


def prompt_rows(
    items: Sequence[Item],
    gemma: MedGemma,
    columns: Callable[[Item], Mapping[str, Any]],
    pictures: list[Picture],
    advance: Callable[[int], object],
) -> list[PromptRow]:
    """Items as prompts of a model; every study is opened once, its pictures added to `pictures`.

    Raises:
        ValueError: a picture cannot be read, or a prompt does not fit; the item is named.
    """
    studies: dict[tuple[str, ...], list[Part]] = {}
    numbers: dict[tuple[str, ...], tuple[int, ...]] = {}
    rows = []
    for item in items:
        try:
            if item.files not in studies:
                studies[item.files] = study_parts(open_study([Path(file) for file in item.files])) if item.files else []
            asked = gemma.asking.question(studies[item.files], item.prompt, AnswerOptions(), 1).request
        except (ValueError, OSError) as fault:
            raise ValueError(f"{item.item_id}: {one_line(fault)}") from fault
        if item.files not in numbers:
            numbers[item.files] = tuple(range(len(pictures), len(pictures) + len(asked.pictures)))
            pictures += asked.pictures
        messages = [user_message(item.prompt, len(asked.pictures))]
        rows.append(PromptRow(asked.prompt, messages, numbers[item.files], columns(item), item.item_id))
        advance(1)
    return rows


def _start(config: AlignConfig, out: Path) -> str | Path:
    """The model, or the model with its tuned adapter merged in: what the KL is to."""
    if not config.start:
        return config.model
    if not (out / "start").is_dir():
        merge(resolve_model(config.model, NANO_FOLDER), Path(config.start), out / "start")
    return out / "start"


def _best_of_n(
    config: AlignConfig,
    questions: Questions,
    rows: Sequence[PromptRow],
    sampler: EngineSampler,
    sampling: Sampling,
    out: Path,
) -> None:
    """OUT/best_of_n.json: the mean reward of the best of N samples of the start, by what is learned from."""
    path, most = out / "best_of_n.json", max(config.best_of, default=0)
    if path.is_file() or not most:
        return
    sampler.gemma.model.eval()
    seeds = [seed_of(config.seed, "best of n", place) for place in range(len(rows))]
    rollouts = sampler.sample(rows, seeds, most, sampling)
    learned, held = (
        graded(rewards, rows, rollouts).total for rewards in (questions.rewards, questions.held_out_rewards)
    )
    points = []
    for n in config.best_of:
        best = [group[best_of([learned[place] for place in group[:n]])] for group in groups_of(rollouts)]
        means = (sum(of[place] for place in best) / len(best) for of in (learned, held))
        points.append(dict(zip(POINT, (n, best_of_n_kl_bound(n), *means), strict=True)))
    with whole_file(path) as file:
        file.write(json.dumps(points, indent=1) + "\n")


def _draw(out: Path) -> None:
    """OUT/reward_kl.svg: the run's curves, and Best-of-N's at the bound of its KL."""
    curves = dict(curves_of(out / "stages" / STAGE))
    if (out / "best_of_n.json").is_file():
        points = json.loads((out / "best_of_n.json").read_text(encoding="utf-8"))
        curves["best of N of the start, held out (KL at most)"] = [
            (p["kl_bound"], p["held_out_reward"]) for p in points
        ]
    with whole_file(out / "reward_kl.svg") as file:
        file.write(reward_kl_chart(curves))


def _layout(config: AlignConfig, gemma: MedGemma) -> Layout:
    return Layout(
        pad_id=gemma.tokenizer.pad_token_id,
        image_id=getattr(gemma.model.config, "image_token_id", None),
        max_tokens=config.max_tokens,
        tokens_a_part=config.tokens_a_part,
        packed=True,
        share_prompts=True,
    )


def _score(base: str, full: bool, device: str, out: Path, score: Callable[[str, Any, Any], None]) -> None:
    adapter = None if full else out / "adapter"

    def before() -> MedGemma:
        return MedGemma.from_pretrained(base, device=device)

    def after() -> MedGemma:
        return MedGemma.from_pretrained(out / "model" if full else base, device=device, adapter=adapter)

    score(device, before, after)
