"""gkd_vqa: a teacher, nano or a real one, teaches a smaller student to answer questions about radiology pictures.

The student has the teacher's tokenizer and vision tower, and a decoder of its own from nothing. It first learns
people's answers; from there every arm goes on alike: more of these (sft), the teacher's distribution over them
(supervised-kd), the teacher's own answers (sequence-kd), or the teacher's distribution over what the student itself
says (gkd). OUT/ARM is a checkpoint; OUT/runs.jsonl has a line an arm, OUT/curves its held-out figures over steps.

Source: GKD (arXiv:2306.13649) §4 for the arms; each starts from a student that has learned by SFT, as there.
"""

import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, model_validator

from evals.items import Item
from evals.report.over_steps import curve, differences, plot
from evals.running.options import RunOptions
from evals.tasks import vqa_rad
from finetune.algorithms.gkd import GKD, Answers, MaximumLikelihood, shared_tokens, written_by
from finetune.configuration import Section, keep_config
from finetune.live import task_metric
from finetune.on_policy import Algorithm, EngineSampler, Frozen, Network, OnPolicy, PromptRow, copy_of, train_on_policy
from finetune.packing import Layout
from finetune.recipes.nano.draws import short_answer
from finetune.tables.aligning import prompt_rows
from finetune.tables.examples import completion_ids
from finetune.training import Evaluation, Loop, Precision, Schedule
from medgemma import MedGemma
from medgemma.checkpoints.convert import copy_companions, whole_folder
from medgemma.checkpoints.layouts import save_in_hub_layout
from medgemma.checkpoints.plug import plug
from medgemma.engine import Sampling
from medsiglip.command import progress, say, whole_file
from medsiglip.imaging import Picture

Arm = Literal["sft", "supervised-kd", "sequence-kd", "gkd"]
[TASK] = vqa_rad.ROWS
HELD_OUT = RunOptions(side="held-out")
"""Looked at while it trains and never chosen by: the last weights count."""


class StudentSection(Section):
    """Sizes of the student's decoder."""

    layers: int = Field(ge=1)
    width: int = Field(ge=1)
    mlp: int = Field(ge=1)
    heads: int = Field(ge=1)
    key_value_heads: int = Field(ge=1)
    head_width: int = Field(ge=2, multiple_of=2)

    @model_validator(mode="after")
    def _divides(self) -> "StudentSection":
        """As transformers and attention ask of a Gemma 3."""
        if self.width % self.heads or self.heads % self.key_value_heads:
            raise ValueError("width must be a multiple of heads, and heads of key_value_heads")
        return self


class Config(Section):
    """Who teaches whom, and how; the values are in gkd_vqa.yaml."""

    teacher: str
    seed: int
    quick: bool
    device: str
    student: StudentSection
    arms: tuple[Arm, ...] = Field(min_length=1)
    start_steps: int = Field(ge=1)
    start_learning_rate: float = Field(gt=0)
    steps: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    prompts_per_step: int = Field(ge=1)
    student_fraction: float = Field(ge=0, le=1)
    beta: float = Field(ge=0, le=1)
    supervised_beta: float = Field(ge=0, le=1)
    temperature: float = Field(gt=0)
    sampling_temperature: float = Field(gt=0)
    max_new_tokens: int = Field(ge=1)
    evaluations: int = Field(ge=1)

    def number_of(self, steps: int) -> int:
        """A stage's steps; `quick` takes a tenth of them."""
        return max(1, steps // 10) if self.quick else steps


@dataclass(frozen=True)
class Questions:
    """The training side: prompts with pictures, and what people answered."""

    rows: tuple[PromptRow, ...]
    pictures: tuple[Picture, ...]
    answers: Answers


def run(config: Config, data: Path, out: Path, quiet: bool) -> None:
    """Train the student and every arm, and measure them on the held-out questions."""
    keep_config(config, out)
    teacher = MedGemma.from_pretrained(config.teacher, device=config.device, dtype=_dtype(config))
    teacher.model.requires_grad_(False)
    if not (out / "student").is_dir():
        _save(new_student(teacher, config), teacher, out / "student", torch.float32)
    student = MedGemma.from_pretrained(out / "student", device=config.device, dtype="float32")
    student.model.model.vision_tower.requires_grad_(False)
    with progress(None, "questions read", quiet) as advance:
        questions = read_questions(vqa_rad.items(data, "train"), student, advance)
    say(f"{len(questions.rows)} questions about {len(questions.pictures)} pictures to learn from")
    course = Course(config, data, out, quiet, teacher, student, questions)
    task_metric(teacher, TASK, data, out / "evals" / "teacher", HELD_OUT)(0)
    course.stage("start", MaximumLikelihood(questions.answers), config.start_steps, config.start_learning_rate)
    start = {name: tensor.clone() for name, tensor in student.model.state_dict().items()}
    seconds: dict[str, float] = {}
    for arm in config.arms:
        student.model.load_state_dict(start)
        began = time.monotonic()
        course.stage(arm, course.algorithm(arm), config.steps, config.learning_rate)
        _save(student.model, teacher, out / arm, torch.bfloat16)
        seconds[arm] = time.monotonic() - began
    write_runs([out], config, seconds, out)


class Course:
    """What all stages share."""

    def __init__(
        self,
        config: Config,
        data: Path,
        out: Path,
        quiet: bool,
        teacher: MedGemma,
        student: MedGemma,
        questions: Questions,
    ) -> None:
        self.config, self.data, self.out, self.quiet = config, data, out, quiet
        self.teacher, self.student, self.questions = teacher, student, questions
        precision: Precision = "bfloat16" if student.model.device.type == "cuda" else "float32"
        pictures = questions.pictures
        self.policy = Network(student.model, student.preprocessing, pictures, precision)
        self.frozen_teacher = Frozen("teacher", Network(teacher.model, teacher.preprocessing, pictures, precision))
        self.sampler = EngineSampler(student, pictures)

    def algorithm(self, arm: Arm) -> Algorithm:
        """What an arm learns by."""
        config, answers = self.config, self.questions.answers
        if arm == "sft":
            return MaximumLikelihood(answers)
        if arm == "sequence-kd":
            greedy = Sampling(max_new_tokens=config.max_new_tokens)
            sampler = EngineSampler(self.teacher, self.questions.pictures)
            return MaximumLikelihood(written_by(sampler, self.questions.rows, greedy))
        heads = [model.get_output_embeddings().weight for model in (self.student.model, self.teacher.model)]
        return GKD(
            self.frozen_teacher,
            student_fraction=config.student_fraction if arm == "gkd" else 0.0,
            beta=config.beta if arm == "gkd" else config.supervised_beta,
            vocabulary=shared_tokens(self.student.tokenizer, self.teacher.tokenizer, *map(len, heads)),
            answers=answers,
            temperature=config.temperature,
        )

    def stage(self, name: str, algorithm: Algorithm, steps: int, learning_rate: float) -> None:
        """Train, or go on with, one stage; held-out figures go to OUT/evals/NAME."""
        config, total = self.config, self.config.number_of(steps)
        evals = self.out / "evals" / name
        metric = task_metric(self.student, TASK, self.data, evals, HELD_OUT)
        if name != "start":
            self.student.model.eval()
            metric(0)
        train_on_policy(
            self.policy,
            algorithm,
            self.questions.rows,
            self.sampler,
            (),
            copy_of(self.policy),
            Schedule(learning_rate, total, weight_decay=0.0),
            self.out / "stages" / name,
            Loop(config.seed, quiet=self.quiet),
            how=OnPolicy(
                config.prompts_per_step,
                Sampling(max_new_tokens=config.max_new_tokens, temperature=config.sampling_temperature),
                _layout(self.student),
            ),
            settings={"teacher": self.teacher.fingerprint, "rows": len(self.questions.rows)},
            held_out=Evaluation(metric, TASK.main_metric, every_steps=max(1, total // config.evaluations)),
        )


def write_runs(runs: Sequence[Path], config: Config, seconds: Mapping[str, float], out: Path) -> None:
    """OUT/runs.jsonl, a line a finished arm, and OUT/curves, an SVG a metric.

    Args:
        runs: of one configuration with several seeds; figures are means over them.
        config: of the first.
        seconds: of each finished arm, in this process.
        out: gets the files.
    """
    arms = list(seconds)
    curves = {arm: curve(TASK, runs, arm) for arm in arms}
    with whole_file(out / "runs.jsonl") as file:
        for number, arm in enumerate(arms):
            line = {
                "recipe": "gkd_vqa",
                "arm": arm,
                "seeds": len(runs),
                "seconds": round(seconds[arm], 1),
                "curve": curves[arm],
                "minus": {other: differences(TASK, runs, arm, other) for other in ("start", *arms[:number])},
                "teacher": {name: points[-1] for name, points in curve(TASK, runs, "teacher").items()},
                "config": config.model_dump(mode="json"),
            }
            file.write(json.dumps(line, allow_nan=False) + "\n")
    for metric in curves[arms[0]]:
        with whole_file(out / "curves" / f"{metric}.svg") as file:
            file.write(plot({arm: points[metric] for arm, points in curves.items()}, metric))


def new_student(teacher: MedGemma, config: Config) -> Any:
    """A decoder from nothing around the teacher's vision tower."""
    sizes, whole = config.student, teacher.model.config
    text = type(whole.text_config)(
        **{
            **whole.text_config.to_dict(),
            "num_hidden_layers": sizes.layers,
            "hidden_size": sizes.width,
            "intermediate_size": sizes.mlp,
            "num_attention_heads": sizes.heads,
            "num_key_value_heads": sizes.key_value_heads,
            "head_dim": sizes.head_width,
            "query_pre_attn_scalar": sizes.head_width,
            "layer_types": ["sliding_attention"] * (sizes.layers - 1) + ["full_attention"],
        }
    )
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        return plug(
            teacher.model.model.vision_tower,
            text,
            mm_tokens_per_image=whole.mm_tokens_per_image,
            token_ids={name: getattr(whole, name) for name in ("boi_token_index", "eoi_token_index")}
            | {"image_token_index": whole.image_token_id},
        )


def read_questions(items: Sequence[Item], model: MedGemma, advance: Callable[[int], object]) -> Questions:
    """Questions as prompts of a model, in a drawn order, with people's answers; every picture is opened once."""
    pictures: list[Picture] = []
    rows = prompt_rows(items, model, lambda item: {}, pictures, advance)
    random.Random(0).shuffle(rows)
    answers = {item.item_id: completion_ids(model, short_answer(item.reference)) for item in items}
    return Questions(tuple(rows), tuple(pictures), answers)


def _layout(model: MedGemma) -> Layout:
    return Layout(
        pad_id=model.tokenizer.pad_token_id,
        image_id=model.model.config.image_token_id,
        max_tokens=512,
        tokens_a_part=16_384,
        packed=False,
    )


def _dtype(config: Config) -> str | None:
    return "float32" if config.device == "cpu" else None


def _save(model: Any, companions: MedGemma, folder: Path, dtype: torch.dtype) -> None:
    with whole_folder(folder, True, companions.folder) as into:
        save_in_hub_layout(model, into, dtype)
        copy_companions(companions.folder, into)
