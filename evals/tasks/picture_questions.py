"""Short questions about labelled pictures: modality, body part, lung tissue, view, chest findings.

Yes/no questions come in pairs: the same text is asked of one picture where it is true and of one where it is
not, so an answerer that does not look scores 50 %.
"""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from data_cards.readers.pictures import NIH14_FINDINGS, LabelledPicture, read_labelled_pictures
from data_cards.split import SIDES, Side
from data_cards.split import side as side_of
from evals.items import Item
from evals.tasks.phrasings import Wordings
from evals.tasks.task import ItemOptions, Task, checked_side
from evals.tasks.vqa_rad import grade_output, parse_answer, prompt
from evals.tasks.wording import (
    ARTICLES,
    CLOSED_QUESTIONS,
    FINDING_PREVALENCE,
    FINDINGS,
    NO_FINDING,
    OPEN_QUESTIONS,
    OVERLAPPING,
    VALUES,
)

Fact = TypeVar("Fact")

CARDS = ("modality-mednist", "histo-lc25000-lung", "cxr-nih14")
"""The sets asked about."""
FACT_CARDS = (*CARDS, "cxr-nih14-64px", "vqa-rad")
"""The sets whose labels `facts` puts into words."""

HELD_OUT_SIDES = ("held-out", "final", "train")
"""What --side may be, the default first."""

MEDNIST_FACTS: dict[str, dict[str, str]] = {
    "AbdomenCT": {"modality": "CT", "body_part": "abdomen"},
    "BreastMRI": {"modality": "MRI", "body_part": "breast"},
    "CXR": {"modality": "X-ray", "body_part": "chest"},
    "ChestCT": {"modality": "CT", "body_part": "chest"},
    "Hand": {"modality": "X-ray", "body_part": "hand"},
    "HeadCT": {"modality": "CT", "body_part": "head"},
}

ORGANS = {"HEAD": "head", "CHEST": "chest", "ABD": "abdomen"}
"""VQA-RAD's body parts."""

TISSUES = {
    "lung_n": "benign lung tissue",
    "lung_aca": "lung adenocarcinoma",
    "lung_scc": "lung squamous cell carcinoma",
}


@dataclass(frozen=True)
class QuestionAnswer:
    """A question, without the instruction that `vqa_rad.prompt` adds, and its answer."""

    question: str
    answer: str
    attribute: str
    """modality, body_part, tissue, view, `no finding` or the finding's name."""
    kind: Literal["closed", "open"]


@dataclass(frozen=True)
class PictureQuestion:
    """A question about one picture."""

    picture: LabelledPicture
    asked: QuestionAnswer
    claim: str
    """What a closed question claims; empty for an open one."""


def facts(picture: LabelledPicture) -> dict[str, str]:
    """Return what the labels say of a picture, in the words of wording.VALUES and wording.FINDINGS.

    Example: `{"modality": "X-ray", "body_part": "chest", "view": "PA", "pneumonia": "present", ...}`.

    Raises:
        ValueError: The set or a label is unknown.
    """
    if picture.card == "modality-mednist":
        return dict(_look_up(MEDNIST_FACTS, picture))
    if picture.card == "histo-lc25000-lung":
        return {"modality": "histology", "body_part": "lung", "tissue": _look_up(TISSUES, picture)}
    if picture.card in ("cxr-nih14", "cxr-nih14-64px"):
        return _chest_facts(picture.labels)
    if picture.card == "vqa-rad":
        return _vqa_rad_facts(picture)
    raise ValueError(f"{picture.path}: got a picture of {picture.card!r}; expected one of {', '.join(FACT_CARDS)}")


def questions_about(facts: Mapping[str, str], seed: int | str, wordings: Wordings = "train") -> list[QuestionAnswer]:
    """Draw questions about one picture: an open and a yes/no one per attribute, findings as yes/no.

    A false value is claimed half of the time. A finding that is there is always asked about, one that is not
    only so often that, over a set with the prevalence of cxr-nih14, yes and no are equally frequent.
    `balanced_questions` balances a given set exactly.

    Args:
        facts: As `facts(picture)` returns them.
        seed: Another for each picture and epoch, or all get the same draw.
        wordings: `train`, or `held-out` for phrasings that no recipe may use.
    """
    rng = random.Random(f"questions:{seed}")
    asked = []
    for attribute, value in facts.items():
        if attribute in VALUES:
            asked.append(_open(attribute, value, rng, wordings))
            claim = value if rng.random() < 0.5 else rng.choice(false_claims(attribute, value))
            asked.append(_closed(attribute, claim, claim == value, rng, wordings))
        elif value == "present" or rng.random() < _share_of_absent(attribute):
            asked.append(_closed(attribute, "present", value == "present", rng, wordings))
    return asked


def false_claims(attribute: str, value: str) -> list[str]:
    """Return the values of an attribute that are false where `value` is true."""
    return [claim for claim in VALUES[attribute] if _contradicts(attribute, claim, {attribute: value})]


def balanced_questions(
    pictures: Sequence[LabelledPicture],
    seed: int,
    wordings: Wordings = "train",
    pairs_per_claim: int | None = None,
) -> list[PictureQuestion]:
    """Ask one open question of every picture, and yes/no questions in pairs with the same text.

    Args:
        pictures: Labelled pictures of any of the sets.
        seed: Of the draw and the order.
        wordings: `train` or `held-out`.
        pairs_per_claim: At most so many pairs for every claim (attribute and value); all that can be made if
            None.

    Returns:
        Questions in a random order, the two of a pair beside each other, the yes first or second at random.
    """
    rng = random.Random(f"balanced:{seed}")
    known = [(picture, facts(picture)) for picture in pictures]
    blocks = [[_open_question(picture, about, rng, wordings)] for picture, about in known]
    for attribute, claim in _claims():
        true = [picture for picture, about in known if about.get(attribute) == claim]
        false = [picture for picture, about in known if _contradicts(attribute, claim, about)]
        count = min(len(true), len(false), pairs_per_claim or len(true))
        for yes, no in zip(rng.sample(true, count), rng.sample(false, count), strict=True):
            blocks.append(_pair(yes, no, attribute, claim, rng, wordings))
    rng.shuffle(blocks)
    return [question for block in blocks for question in block]


def items(
    data_dir: str | Path,
    per_set: int | None = 200,
    seed: int = 0,
    wordings: Wordings = "held-out",
    side: Side = "held-out",
    pairs_per_claim: int = 20,
) -> list[Item]:
    """Make the items over the sets in `data_dir`.

    Args:
        data_dir: A folder with one folder a card of CARDS, or one of these folders.
        per_set: At most so many pictures of each set, drawn by `seed`; None for all.
        seed: Of all draws.
        wordings: Phrasings; `held-out` ones are new to every recipe.
        side: Groups; `held-out` ones are new to every recipe.
        pairs_per_claim: At most so many yes/no pairs a claim.

    Raises:
        ValueError: A set is missing or broken, or the side is unknown.
    """
    checked_side(side, SIDES)
    pictures = [picture for card in _cards(data_dir) for picture in sample(data_dir, card, per_set, seed, side)]
    return [_item(question) for question in balanced_questions(pictures, seed, wordings, pairs_per_claim)]


def sample(data_dir: str | Path, card: str, limit: int | None, seed: int, side: Side) -> list[LabelledPicture]:
    """Draw pictures of one side of one set, of LC25000 one copy a tile, in a seeded order."""
    pictures = [
        picture
        for picture in read_labelled_pictures(data_dir, card)
        if side_of(picture.group) == side and picture.labels.get("copy", "1") == "1"
    ]
    random.Random(f"{card}:{seed}").shuffle(pictures)
    return pictures[:limit]


def _cards(data_dir: str | Path) -> tuple[str, ...]:
    root = Path(data_dir)
    if root.name in CARDS and (root / "labels.csv").is_file():
        return (root.name,)
    missing = [card for card in CARDS if not (root / card).is_dir()]
    if missing:
        raise ValueError(
            f"{root}: has no folder {', '.join(missing)}; expected one for each of {', '.join(CARDS)}, "
            "or one of these folders itself; `medgemma-data show NAME` says how to get a set"
        )
    return CARDS


def _look_up(table: Mapping[str, Fact], picture: LabelledPicture, column: str = "label") -> Fact:
    label = picture.labels[column]
    if label not in table:
        raise ValueError(
            f"{picture.path}: got {column} {label!r}; expected one of {', '.join(table)}; correct labels.csv"
        )
    return table[label]


def _vqa_rad_facts(picture: LabelledPicture) -> dict[str, str]:
    modality = picture.labels["modality"]
    return {"body_part": _look_up(ORGANS, picture, "organ")} | ({"modality": modality} if modality else {})


def _chest_facts(labels: Mapping[str, str]) -> dict[str, str]:
    known = {"modality": "X-ray", "body_part": "chest", "view": labels["view"]}
    for name in NIH14_FINDINGS:
        if name.lower() in FINDINGS:
            known[name.lower()] = "present" if labels[name] == "1" else "absent"
    known[NO_FINDING] = "present" if labels["no_finding"] == "1" else "absent"
    return known


def _share_of_absent(finding: str) -> float:
    prevalence = FINDING_PREVALENCE[finding]
    return min(1.0, prevalence / (1 - prevalence))


def _claims() -> Iterable[tuple[str, str]]:
    for attribute, values in VALUES.items():
        yield from ((attribute, value) for value in values)
    yield from ((finding, "present") for finding in (*FINDINGS, NO_FINDING))


def _contradicts(attribute: str, claim: str, about: Mapping[str, str]) -> bool:
    value = about.get(attribute)
    return value is not None and value != claim and frozenset({value, claim}) not in OVERLAPPING


def _open(attribute: str, value: str, rng: random.Random, wordings: Wordings) -> QuestionAnswer:
    return QuestionAnswer(rng.choice(OPEN_QUESTIONS[attribute].of(wordings)), value, attribute, "open")


def _closed(attribute: str, claim: str, is_true: bool, rng: random.Random, wordings: Wordings) -> QuestionAnswer:
    phrasings = CLOSED_QUESTIONS["finding" if attribute in FINDINGS else attribute].of(wordings)
    value = FINDINGS.get(attribute, claim)
    question = rng.choice(phrasings).format(value=value, a=ARTICLES.get(claim, value))
    return QuestionAnswer(question, "yes" if is_true else "no", attribute, "closed")


def _open_question(
    picture: LabelledPicture, about: Mapping[str, str], rng: random.Random, wordings: Wordings
) -> PictureQuestion:
    attribute = rng.choice([name for name in about if name in VALUES])
    return PictureQuestion(picture, _open(attribute, about[attribute], rng, wordings), claim="")


def _pair(
    yes: LabelledPicture,
    no: LabelledPicture,
    attribute: str,
    claim: str,
    rng: random.Random,
    wordings: Wordings,
) -> list[PictureQuestion]:
    asked = _closed(attribute, claim, True, rng, wordings)
    pair = [
        PictureQuestion(yes, asked, claim),
        PictureQuestion(no, QuestionAnswer(asked.question, "no", attribute, "closed"), claim),
    ]
    rng.shuffle(pair)
    return pair


def _item(question: PictureQuestion) -> Item:
    picture, asked = question.picture, question.asked
    claim = f"={question.claim}" if question.claim else ""
    return Item(
        item_id=f"{picture.picture_id}:{asked.attribute}{claim}",
        files=(str(picture.path),),
        prompt=prompt(asked.question),
        reference=asked.answer,
        kind=asked.kind,
        group=picture.group,
        meta={"card": picture.card, "attribute": asked.attribute},
    )


def _wording() -> object:
    tables = (OPEN_QUESTIONS, CLOSED_QUESTIONS, VALUES, ARTICLES, FINDINGS, NO_FINDING)
    return [prompt("QUESTION"), [repr(table) for table in tables]]


def _row(name: str, summary: str, wordings: Wordings) -> Task:
    def task_items(data_dir: str | Path, options: ItemOptions) -> list[Item]:
        return items(data_dir, seed=options.seed, wordings=wordings, side=checked_side(options.side, SIDES))

    return Task(
        name,
        CARDS,
        summary,
        "text",
        "short",
        items=task_items,
        grade=grade_output,
        wording=_wording,
        main_metric="closed_accuracy",
        parse=lambda item, text: parse_answer(text),
        sides=HELD_OUT_SIDES,
        breakdown="attribute",
        version=3,
    )


ROWS = (
    _row(
        "picture-questions",
        "modality, body part, tissue, view, chest findings; balanced yes/no, and short answers",
        "train",
    ),
    _row("picture-questions-new-wordings", "the same in wordings that no recipe of ours trains on", "held-out"),
)
