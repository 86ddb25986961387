"""GKD: its exact toys by enumeration, rows G4, G5, G6, G7, G8 and G10 with their planted faults, and what it refuses.

The toys are bigram models in float64: a token's distribution is the row of a table that the token before it names.
"""

import itertools
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn

from finetune.algorithms.gkd import GKD, answered, shared_tokens
from finetune.collate import Batch, Conversations, Example, collate
from finetune.losses.completion import completion_loss
from finetune.losses.divergence import divergence_loss
from finetune.on_policy import Frozen, Network, PromptRow, Rollout, Round, normalised
from finetune.on_policy.normalising import counted
from finetune.packing import Layout
from finetune.training import Ranks, Turn
from medgemma import MedGemma
from medgemma.prompts.chat import ImageTokens, Prompt, user_message
from medsiglip.imaging import Picture

VOCABULARY = 3
LAYOUT = Layout(pad_id=0, image_id=None, max_tokens=16)
SAMPLES = tuple(itertools.product(range(VOCABULARY), repeat=3))
"""All 27 completions of three tokens."""
WRITTEN = (2, 2, 0)


class Bigram:
    """What GKD asks of a network."""

    soft_cap = None
    device = torch.device("cpu")

    def __init__(self, seed: int, uniform: bool = False) -> None:
        torch.manual_seed(seed)
        table = torch.randn(VOCABULARY, VOCABULARY, dtype=torch.float64)
        self.model = nn.ParameterDict({"table": nn.Parameter(table * 0 if uniform else table)})

    @property
    def table(self) -> torch.Tensor:
        return self.model["table"]

    def states(self, batch: Batch) -> torch.Tensor:
        return self.table[batch.input_ids.flatten()[batch.predictors]]

    def head(self) -> torch.Tensor:
        return torch.eye(VOCABULARY, dtype=torch.float64)


STUDENT, TEACHER = Bigram(0), Bigram(1)


def gkd(**changes: Any) -> GKD:
    given: dict[str, Any] = {
        "teacher": Frozen("teacher", cast(Network, TEACHER)),
        "student_fraction": 1.0,
        "beta": 0.1,
        "vocabulary": VOCABULARY,
        "answers": {},
    }
    return GKD(**{**given, **changes})


def sample(completion: tuple[int, ...], group: int = 0) -> Rollout:
    zeros = (0.0,) * len(completion)
    return Rollout((1,), completion, (), f"row {group}", group, True, zeros, zeros, "v0")


def loss(algorithm: GKD, examples: Any, student: Bigram = STUDENT, temperature: float = 1.0) -> torch.Tensor:
    """As the core asks for it: one part."""
    [part] = LAYOUT.parts(normalised(examples, algorithm.normalisation))
    turn = Turn(0, counted(part.drawn, algorithm.normalisation))
    return algorithm.loss(cast(Network, student), part.drawn, turn, temperature)


def gradient(of: torch.Tensor, student: Bigram = STUDENT) -> torch.Tensor:
    return torch.autograd.grad(of, student.table)[0]


def log_distributions(network: Bigram, temperature: float = 1.0) -> torch.Tensor:
    return torch.log_softmax(network.table / temperature, 1)


def probability(completion: tuple[int, ...], student: Bigram = STUDENT) -> torch.Tensor:
    """Of a completion behind the prompt, token 1."""
    said, before = [], 1
    for token in completion:
        said.append(log_distributions(student)[before, token])
        before = token
    return torch.stack(said).sum().exp()


def jsd(contexts: tuple[int, ...], beta: float, temperature: float = 1.0) -> torch.Tensor:
    """By autograd, the mean over the tokens behind these contexts."""
    p, q = (log_distributions(n, temperature)[list(contexts)] for n in (TEACHER, STUDENT))
    p = p.detach()
    m = (beta * p.exp() + (1 - beta) * q.exp()).log()
    return (beta * p.exp() * (p - m) + (1 - beta) * q.exp() * (q - m)).sum(1).mean()


class Played:
    """A round whose draw u and whose samples are given."""

    def __init__(self, u: float, samples: list[Rollout], rewards: tuple[float, ...] = ()) -> None:
        self.rng = SimpleNamespace(random=lambda: u)
        self.rows = [PromptRow(Prompt((1,), (0,), 0), "", place="row 0")]
        self.number, self.samples, self.rewards = 7, samples, rewards
        self.rollouts: list[Rollout] = []
        self.is_exact = True

    learnable = Round.learnable

    def sample(self, num_samples: int) -> list[Rollout]:
        self.rollouts += self.samples
        return self.samples

    def grade(self, rollouts: list[Rollout]) -> Any:
        return SimpleNamespace(total=self.rewards)


# G4: λ


def expected_gradient(student_fraction: float) -> torch.Tensor:
    """Over u on a grid and every sample of the student, of what Algorithm 1 minimises."""
    algorithm = gkd(student_fraction=student_fraction, answers={"row 0": WRITTEN})
    total = torch.zeros_like(STUDENT.table)
    for u in (torch.arange(4) + 0.5) / 4:
        for completion in SAMPLES:
            examples = algorithm.examples(cast(Round, Played(float(u), [sample(completion)])))
            total += probability(completion).detach() / 4 * gradient(loss(algorithm, examples))
    return total


@pytest.mark.parametrize("student_fraction", [0.0, 0.25, 1.0])
def test_the_expected_gradient_is_the_mixture_of_both(student_fraction: float) -> None:
    on_data = gradient(jsd((1, 2, 2), 0.1))
    on_policy = sum(probability(y).detach() * gradient(jsd((1, *y[:2]), 0.1)) for y in SAMPLES)
    expected = (1 - student_fraction) * on_data + student_fraction * on_policy
    torch.testing.assert_close(expected_gradient(student_fraction), expected, rtol=0, atol=1e-9)


def test_lambda_is_drawn_a_step_and_not_a_token() -> None:
    """Control: were each token the student's or the data's, sequences of both would lead elsewhere."""
    q = log_distributions(STUDENT).detach().exp()
    written = torch.eye(VOCABULARY, dtype=torch.float64)[2]
    by_token = torch.zeros_like(STUDENT.table)
    for first, second in itertools.product(range(VOCABULARY), repeat=2):
        weight = (0.5 * q[1] + 0.5 * written)[first] * (0.5 * q[first] + 0.5 * written)[second]
        by_token += weight * gradient(jsd((1, first, second), 0.1))
    assert (expected_gradient(0.5) - by_token).abs().max() > 1e-3
    algorithm = gkd(student_fraction=0.5, answers={"row 0": WRITTEN})
    drawn = {algorithm.examples(cast(Round, Played(u, [sample((0, 1))])))[0].completion_ids for u in (0.49, 0.51)}
    assert drawn == {(0, 1), WRITTEN}


def test_the_draw_is_the_steps_and_alike_on_every_rank() -> None:
    """The real round's generator: same for a step, whichever rank asks; its share is λ."""
    from finetune.on_policy.rounds import Tools

    def draws(ranks: Ranks, seed: int = 3) -> list[float]:
        tools = cast(Tools, SimpleNamespace(seed=seed, name="gkd", ranks=ranks))
        return [Round(tools, step, []).rng.random() for step in range(400)]

    first, second = draws(Ranks(0, 2)), draws(Ranks(1, 2))
    assert first == second and first != draws(Ranks(0, 2), seed=4)
    assert abs(sum(u < 0.3 for u in first) / 400 - 0.3) < 4 * (0.3 * 0.7 / 400) ** 0.5


# G5: no gradient through sampling


def test_the_gradient_leaves_the_sampling_alone() -> None:
    algorithm = gkd()
    found = sum(probability(y).detach() * gradient(loss(algorithm, [sample(y).example()])) for y in SAMPLES)
    held = sum(probability(y).detach() * jsd((1, *y[:2]), 0.1) for y in SAMPLES)
    torch.testing.assert_close(found, gradient(cast(torch.Tensor, held)), rtol=0, atol=1e-9)
    through = sum(probability(y) * jsd((1, *y[:2]), 0.1) for y in SAMPLES)  # control
    assert (found - gradient(cast(torch.Tensor, through))).abs().max() > 1e-3


# G6: normalisation


@pytest.mark.parametrize("normalisation", ["sequence-mean", "token"])
@pytest.mark.parametrize("tokens_a_part", [None, 8, 4])
def test_any_micro_batches_make_one_gradient_over_what_was_generated(normalisation: Any, tokens_a_part: Any) -> None:
    """Four samples of 1, 2, 2 and 3 tokens, where the data set's answers have 40 each."""
    algorithm = gkd(normalisation=normalisation, answers={"row 0": (2,) * 10})
    samples = [sample(y) for y in ((0,), (1, 2), (2, 2), (0, 1, 2))]
    examples = normalised(algorithm.examples(cast(Round, Played(0.0, samples))), normalisation)
    parts = replace(LAYOUT, tokens_a_part=tokens_a_part).parts(examples)
    assert len(parts) == {None: 1, 8: 2, 4: 4}[tokens_a_part]
    denominator = sum(counted(part.drawn, normalisation) for part in parts)
    assert denominator == (8 if normalisation == "token" else 4)
    total = sum(
        gradient(algorithm.loss(cast(Network, STUDENT), part.drawn, Turn(0, denominator), 1.0)) for part in parts
    )
    contexts = [(1,), (1, 1), (1, 2), (1, 0, 1)]
    if normalisation == "token":
        expected = sum(jsd(c, 0.1) * len(c) for c in contexts) / 8
    else:
        expected = sum(jsd(c, 0.1) for c in contexts) / 4
    expected_gradient = gradient(cast(torch.Tensor, expected))
    torch.testing.assert_close(total, expected_gradient, rtol=0, atol=1e-7 if normalisation != "token" else 1e-9)
    over_data = sum(  # control: over the answers that were not learned, as GKDTrainer of TRL 1.16.0
        gradient(algorithm.loss(cast(Network, STUDENT), part.drawn, Turn(0, 40.0), 1.0)) for part in parts
    )
    assert (over_data - expected_gradient).abs().max() > 1e-2 * expected_gradient.abs().max()


@pytest.mark.parametrize("world", [2, 3, 5])
def test_ranks_make_the_gradient_of_one(world: int) -> None:
    """Each over the sequences of all; a rank without one of its own adds nothing. Control: over its own alone."""
    algorithm = gkd()
    examples = normalised([sample(y).example() for y in ((0,), (1, 2), (2, 2), (0, 1, 2))], algorithm.normalisation)
    whole = gradient(loss(algorithm, [sample(y).example() for y in ((0,), (1, 2), (2, 2), (0, 1, 2))]))
    parts = [part for rank in range(world) for part in LAYOUT.parts(examples, Ranks(rank, world)) if part.weight]
    assert len(parts) == min(world, 4)

    def summed(denominator_of: Any) -> torch.Tensor:
        losses = (algorithm.loss(cast(Network, STUDENT), p.drawn, Turn(0, denominator_of(p)), 1.0) for p in parts)
        return cast(torch.Tensor, sum(map(gradient, losses)))

    torch.testing.assert_close(summed(lambda part: 4.0), whole, rtol=0, atol=1e-9)
    of_own = summed(lambda part: counted(part.drawn, algorithm.normalisation))
    assert (of_own - whole).abs().max() > 1e-3


# G7: temperatures


def test_the_losss_temperature_is_another_than_the_samplings() -> None:
    algorithm, examples = gkd(temperature=2.0), [sample((0, 2)).example()]
    found = loss(algorithm, examples, temperature=0.5)
    torch.testing.assert_close(found, jsd((1, 0), 0.1, temperature=2.0), rtol=0, atol=1e-12)
    torch.testing.assert_close(gradient(found), gradient(jsd((1, 0), 0.1, temperature=2.0)), rtol=0, atol=1e-9)
    assert (loss(gkd(), examples) - loss(algorithm, examples)).abs() > 1e-2  # control: TRL's GKD gives one number


# G8: with a reward


@pytest.mark.parametrize("distilled", [0.0, 0.3, 1.0])
def test_a_reward_and_the_divergence_are_mixed_by_alpha(distilled: float) -> None:
    """A student that says all completions alike, and each of them once: the batch is the expectation."""
    student = Bigram(0, uniform=True)
    rewards = torch.arange(27.0, dtype=torch.float64) - 13
    algorithm = gkd(distilled=distilled)
    examples = [sample(y).example(float(r)) for y, r in zip(SAMPLES, rewards, strict=True)]
    if distilled == 1:
        examples = [replace(example, weights=None) for example in examples]
    found = gradient(loss(algorithm, examples, student), student)
    reward = sum(probability(y, student) * r for y, r in zip(SAMPLES, rewards, strict=True))
    by_policy = -gradient(cast(torch.Tensor, reward), student)
    p = log_distributions(TEACHER).detach()
    divergences = []
    for y in SAMPLES:
        contexts = [1, *y[:2]]
        q = log_distributions(student)[contexts]
        m = (0.1 * p[contexts].exp() + 0.9 * q.exp()).log()
        d = 0.1 * p[contexts].exp() * (p[contexts] - m) + 0.9 * q.exp() * (q - m)
        divergences.append(d.sum(1).mean())
    by_teacher = gradient(torch.stack(divergences).mean(), student)
    assert by_policy.abs().max() > 0.1 and by_teacher.abs().max() > 1e-3
    expected = distilled * by_teacher + (1 - distilled) * by_policy
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-7)
    swapped = (1 - distilled) * by_teacher + distilled * by_policy  # control: α taken the other way round
    assert (found - swapped).abs().max() > 1e-2


def test_advantages_are_against_the_other_samples_of_the_prompt() -> None:
    algorithm = gkd(distilled=0.5, num_samples=2)
    samples = [sample((0, 1)), sample((1, 2)), sample((2, 2), 1), sample((0, 0), 1)]
    examples = algorithm.examples(cast(Round, Played(0.0, samples, rewards=(1.0, 0.0, 5.0, 5.0))))
    assert [example.weights for example in examples] == [(1.0, 1.0), (-1.0, -1.0), (0.0, 0.0), (0.0, 0.0)]
    alike = gradient(loss(algorithm, examples[2:]))  # a group that earned the same learns from the teacher alone
    torch.testing.assert_close(alike, 0.5 * gradient(loss(gkd(), [sample(y).example() for y in ((2, 2), (0, 0))])))


# What is refused, and what is named


def test_empty_completions_are_named_and_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    samples = [sample((0, 1)), sample((), 1), sample((2,), 2)]
    examples = gkd().examples(cast(Round, Played(0.0, samples)))
    assert [example.completion_ids for example in examples] == [(0, 1), (2,)]
    assert "step 7: 1 of 3 completions are empty (row 1); they are left out" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"step 7: 1 of 1 completions are empty \(row 1\)"):
        gkd().examples(cast(Round, Played(0.0, [sample((), 1)])))


def test_an_answer_stands_behind_its_own_prompt_and_pictures() -> None:
    row = PromptRow(Prompt((1, 2), (0, 0), 0), "", (4,), place="row 3")
    example = answered(row, {"row 3": (5, 6), "row 4": (7,)})
    assert (example.prompt_ids, example.completion_ids, example.pictures, example.place) == (
        (1, 2),
        (5, 6),
        (4,),
        "row 3",
    )


@pytest.mark.parametrize("answers", [{}, {"row 0": ()}])
def test_a_prompt_without_an_answer_is_named(answers: Any) -> None:
    with pytest.raises(ValueError, match="row 0: no answer to learn"):
        gkd(student_fraction=0.5, answers=answers).examples(cast(Round, Played(0.9, [])))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"student_fraction": 1.5}, "student_fraction is 1.5"),
        ({"distilled": -1.0}, "distilled is -1.0"),
        ({"distilled": 0.5, "student_fraction": 0.5}, "set student_fraction to 1"),
    ],
)
def test_settings_that_make_no_sense(changes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gkd(**changes)


class Words:
    """A tokenizer of so many words, of which the last few are special."""

    def __init__(self, words: int, special: tuple[int, ...] = (), other: int = -1) -> None:
        self.words, self.all_special_ids, self.other = words, list(special), other
        self.added_tokens_decoder: dict[int, Any] = {}

    def __len__(self) -> int:
        return self.words

    def convert_ids_to_tokens(self, ids: Any) -> Any:
        if isinstance(ids, list):
            return [self.convert_ids_to_tokens(n) for n in ids]
        return "<other>" if ids == self.other else f"w{ids}"


def test_the_tokens_that_two_models_share() -> None:
    assert shared_tokens(Words(10), Words(10), 10, 16) == 10
    assert shared_tokens(Words(10), Words(11, special=(10,)), 10, 16) == 10  # the image token of a larger head
    assert shared_tokens(Words(11, special=(10,)), Words(11, special=(10,)), 16, 10) == 10
    with pytest.raises(ValueError, match="token 4 is 'w4' for the student and '<other>' for the teacher"):
        shared_tokens(Words(10), Words(10, other=4), 10, 10)
    with pytest.raises(ValueError, match="the teacher alone has token 10, 'w10', and 1 more"):
        shared_tokens(Words(10), Words(12), 10, 16)


# G10: pictures

QUESTIONS = (
    ("Is there a mass?", "no"),
    ("What organ system is shown, and in which plane was it taken?", "the chest, axial"),
    ("Which modality?", "ct"),
)


@pytest.fixture(scope="module")
def nano() -> MedGemma:
    return MedGemma.from_pretrained("nano", device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def with_pictures(nano: MedGemma) -> tuple[GKD, Network, list[Example]]:
    """nano as teacher, nano with another last layer as student, three examples with pictures."""
    pictures = [Picture.from_array(np.full((64, 64, 3), shade, np.uint8)) for shade in (30, 120, 220)]
    conversations = Conversations.of(nano.tokenizer, ImageTokens.of(nano.model.config, nano.tokenizer))
    student = MedGemma.from_pretrained("nano", device="cpu", dtype="float32").model
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in student.model.language_model.layers[-1].parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    network = Network(student.requires_grad_(False), nano.preprocessing, pictures)
    student.model.language_model.layers[-1].requires_grad_(True)
    teacher = Frozen("teacher", Network(nano.model.requires_grad_(False), nano.preprocessing, pictures))
    algorithm = gkd(teacher=teacher, vocabulary=len(nano.tokenizer))
    examples = [
        conversations.example([user_message(question, 1)], reply, [picture], question)
        for picture, (question, reply) in enumerate(QUESTIONS)
    ]
    return algorithm, network, examples


def picture_loss(nano: MedGemma, case: Any, examples: Any, **layout: Any) -> list[torch.Tensor]:
    """The loss, and its gradients in the student's last layer."""
    algorithm, student, _ = case
    image_id = nano.model.config.image_token_id
    made = Layout(pad_id=nano.tokenizer.pad_token_id, image_id=image_id, max_tokens=256, **layout)
    parts = made.parts(normalised(examples, "sequence-mean"))
    losses = [algorithm.loss(student, part.drawn, Turn(0, float(len(examples))), 1.0) for part in parts]
    parameters = [p for p in student.model.parameters() if p.requires_grad]
    total = torch.stack(losses).sum()
    return [total.detach(), *torch.autograd.grad(total, parameters)]


def test_pictures_padding_packing_and_order_change_nothing(nano: MedGemma, with_pictures: Any) -> None:
    examples = with_pictures[2]
    together = picture_loss(nano, with_pictures, examples)
    assert together[0] > 1e-4
    for other in (
        picture_loss(nano, with_pictures, examples[::-1]),
        picture_loss(nano, with_pictures, examples, tokens_a_part=1),
        picture_loss(nano, with_pictures, examples, packed=True, share_prompts=True),
    ):
        for one, two in zip(together, other, strict=True):
            torch.testing.assert_close(two, one, rtol=1e-3, atol=2e-6)

    swapped = [replace(e, pictures=((e.pictures[0] + 1) % 3,)) for e in examples]
    assert (picture_loss(nano, with_pictures, swapped)[0] - together[0]).abs() > 1e-5  # control: they are looked at


def test_image_tokens_are_never_learned(nano: MedGemma, with_pictures: Any) -> None:
    _, _, examples = with_pictures
    image_id = nano.model.config.image_token_id
    batch = collate(examples, pad_id=nano.tokenizer.pad_token_id, image_id=image_id, max_tokens=256)
    assert (batch.input_ids == image_id).sum() == 3 * nano.model.config.mm_tokens_per_image
    assert image_id not in batch.targets.tolist()
    assert len(batch.targets) == sum(len(example.completion_ids) for example in examples)


def test_a_gkd_step_is_the_losses_it_is_made_of(nano: MedGemma, with_pictures: Any) -> None:
    """Against `divergence_loss` on states that the two networks give for themselves."""
    algorithm, student, examples = with_pictures
    image_id = nano.model.config.image_token_id
    batch = collate(examples, pad_id=nano.tokenizer.pad_token_id, image_id=image_id, max_tokens=256)
    lengths = torch.tensor([len(e.completion_ids) for e in examples])
    alone = divergence_loss(
        student.states(batch), student.head(), algorithm.teacher.states(batch), algorithm.teacher.head(), beta=0.1,
        denominator=3, weights=(1 / lengths).repeat_interleave(lengths),
    )  # fmt: skip
    found = picture_loss(nano, with_pictures, examples)[0]
    torch.testing.assert_close(found, alone.detach(), rtol=1e-4, atol=1e-7)
    sft = completion_loss(student.states(batch), student.head(), batch.targets, denominator=3)
    assert (found - sft.detach()).abs() > 1e-2  # control: it is no cross-entropy
