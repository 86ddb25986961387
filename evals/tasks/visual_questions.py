"""Short questions about pictures as the reports ask them: every reading of VQA-RAD's split, SLAKE, PathVQA.

Metrics: `token_f1_squad` over all questions (the reports' "tokenised F1"; they never define the tokens, SQuAD's are
taken), `closed_accuracy` over closed ones, `open_token_recall` and `open_exact_match_norm` over open ones.

Source: MedGemma technical report (arXiv:2507.05201), section 3 and appendix A7, in our words: SLAKE asks for a line
    `Final Answer: X`; VQA-RAD says what the picture may be and asks for a very short answer.
"""

import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal, cast

from data_cards.readers.tables import find_set
from data_cards.readers.visual_questions import (
    GOOGLE_SPLIT,
    PathologyQuestion,
    read_google_split,
    read_path_vqa,
    read_slake,
    read_vqa_rad_release,
)
from data_cards.readers.vqa_rad import VisualQuestion, read_vqa_rad
from data_cards.split import side as side_of
from evals.items import Item
from evals.metrics.answers import closed_match, exact_match_norm, token_f1_squad, token_recall
from evals.outputs import Output
from evals.tasks import vqa_rad
from evals.tasks.final_answer import parse_short
from evals.tasks.task import ItemOptions, Task, checked_side

VQA_RAD_PREAMBLE = (
    "The picture is a frontal chest X-ray, or one slice of a CT or MR examination of the head or the abdomen. "
    "Answer the question about it with one word or a very short phrase."
)
FINAL_ANSWER = 'You may reason first. End with a line of the form "Final Answer: X", X being the short answer.'

RELEASE_SIDES = (
    "balanced-test",
    "balanced-validation",
    "balanced-train",
    "balanced-all",
    "official-test",
    "official-train",
    "held-out",
    "train",
    "all",
)
"""balanced-*: Google's division (Yang et al. 2024), which text and card of the report name; balanced-all: its whole
table of 2,248, the number that the report gives; official-*: the owners' mark, not disjoint by picture; held-out and
train: by MedPix case, as recipes divide."""


def vqa_rad_prompt(question: str) -> str:
    """Return the text put to a model for VQA-RAD."""
    return f"{VQA_RAD_PREAMBLE}\nQuestion: {question.strip()}"


def final_answer_prompt(question: str) -> str:
    """Return the text put to a model for SLAKE and PathVQA."""
    return f"{question.strip()}\n{FINAL_ANSWER}"


def grade(item: Item, output: Output) -> dict[str, float]:
    """Grade one reply; an answer that cannot be told is wrong, never left out."""
    answer = parse_short(output.text)
    everywhere = {"token_f1_squad": token_f1_squad(answer, item.reference)}
    if item.kind == "closed":
        return {**everywhere, "closed_accuracy": closed_match(answer, item.reference)}
    return {
        **everywhere,
        "open_token_recall": token_recall(answer, item.reference),
        "open_exact_match_norm": exact_match_norm(answer, item.reference),
    }


def _visual_items(
    card: str, questions: Iterable[VisualQuestion], prompt: Callable[[str], str], options: ItemOptions
) -> list[Item]:
    items = [
        Item(
            item_id=question.item_id,
            files=(str(question.path),),
            prompt=prompt(question.question),
            reference=question.answer,
            kind="closed" if question.answer_type == "CLOSED" else "open",
            group=question.group,
            meta={"card": card, "question_type": question.question_type, "organ": question.organ},
        )
        for question in questions
    ]
    random.Random(options.seed).shuffle(items)
    return items


def release_items(data_dir: str | Path, options: ItemOptions) -> list[Item]:
    """Make the items of one reading of VQA-RAD's split.

    Raises:
        ValueError: The release is missing or broken, or a balanced side is asked for and Google's table is not there,
            names a question that the release lacks, or lacks one that it has.
    """
    folder = find_set(data_dir, "vqa-rad-full")
    questions = read_vqa_rad_release(folder)
    if options.side.startswith("balanced-"):
        questions = _balanced(folder, questions, options.side.removeprefix("balanced-"))
    elif options.side.startswith("official-"):
        questions = [q for q in questions if q.official_split == options.side.removeprefix("official-")]
    elif options.side != "all":
        questions = [q for q in questions if side_of(q.group) == options.side]
    return _visual_items("vqa-rad-full", questions, vqa_rad_prompt, options)


def kit_items(data_dir: str | Path, options: ItemOptions) -> list[Item]:
    """Make the items of the development part of VQA-RAD, asked as the report asks.

    Raises:
        ValueError: The set is missing or broken.
    """
    questions = read_vqa_rad(find_set(data_dir, vqa_rad.CARD))
    kept = [q for q in questions if vqa_rad.is_on(q, checked_side(options.side, vqa_rad.SIDES))]
    return _visual_items(vqa_rad.CARD, kept, vqa_rad_prompt, options)


def slake_items(data_dir: str | Path, options: ItemOptions) -> list[Item]:
    """Make the items of one split of SLAKE, English.

    Raises:
        ValueError: The set is missing or broken.
    """
    split = cast(Literal["train", "validate", "test"], options.side)
    questions = read_slake(find_set(data_dir, "slake"), split)
    return _visual_items("slake", questions, final_answer_prompt, options)


def path_vqa_items(data_dir: str | Path, options: ItemOptions) -> list[Item]:
    """Make the items of one split of PathVQA; its pictures are unpacked once into `pictures/` beside its tables.

    Raises:
        ValueError: The set is missing or broken, or its folder cannot be written to.
    """
    split = cast(Literal["train", "validation", "test"], options.side)
    folder = find_set(data_dir, "path-vqa")
    items = [
        Item(
            item_id=question.item_id,
            files=(str(_unpacked(folder / "pictures", question)),),
            prompt=final_answer_prompt(question.question),
            reference=question.answer,
            kind="closed" if question.answer_type == "CLOSED" else "open",
            group=question.group,
            meta={"card": "path-vqa"},
        )
        for question in read_path_vqa(folder, split)
    ]
    random.Random(options.seed).shuffle(items)
    return items


def _balanced(folder: Path, questions: list[VisualQuestion], part: str) -> list[VisualQuestion]:
    table = next(
        (place / GOOGLE_SPLIT for place in (folder, folder.parent / "vqa-rad-balanced")
         if (place / GOOGLE_SPLIT).is_file()),
        folder / GOOGLE_SPLIT,
    )  # fmt: skip
    division = read_google_split(table)
    missing = set(division) ^ {question.item_id for question in questions}
    if missing:
        raise ValueError(
            f"{table}: {len(missing)} question(s) are in it or in the release but not in both, such as "
            f"{min(missing)}; expected the division of this release; fetch both again"
        )
    return [q for q in questions if part in ("all", division[q.item_id].side)]


def _unpacked(folder: Path, question: PathologyQuestion) -> Path:
    path = folder / f"{question.group}.jpg"
    if path.is_file():
        return path
    try:
        folder.mkdir(exist_ok=True)
        draft = path.with_suffix(".tmp")
        draft.write_bytes(question.picture)
        draft.replace(path)
    except OSError as fault:
        raise ValueError(f"{path}: cannot be written ({fault}); PathVQA's pictures are unpacked there") from fault
    return path


def _row(
    name: str,
    card: str,
    summary: str,
    items: Callable[[str | Path, ItemOptions], list[Item]],
    sides: tuple[str, ...],
    prompt: Callable[[str], str],
    breakdown: str = "",
) -> Task:
    return Task(
        name,
        (card,),
        summary,
        "text",
        "short",
        items=items,
        grade=grade,
        wording=lambda: prompt("QUESTION"),
        sides=sides,
        main_metric="token_f1_squad",
        parse=lambda item, text: parse_short(text),
        breakdown=breakdown,
        max_new_tokens=256,
    )


ROWS = (
    _row(
        "vqa-rad-release",
        "vqa-rad-full",
        "VQA-RAD, whole, as the report asks; --side is the reading of its split",
        release_items,
        RELEASE_SIDES,
        vqa_rad_prompt,
        "organ",
    ),
    _row(
        "kit-vqa-rad-report-prompt",
        vqa_rad.CARD,
        "VQA-RAD, development part, as the report asks",
        kit_items,
        vqa_rad.SIDES,
        vqa_rad_prompt,
        "organ",
    ),
    _row(
        "slake",
        "slake",
        "SLAKE, English questions about radiology pictures",
        slake_items,
        ("test", "validate", "train"),
        final_answer_prompt,
        "organ",
    ),
    _row(
        "path-vqa",
        "path-vqa",
        "PathVQA, questions about pathology pictures",
        path_vqa_items,
        ("test", "validation", "train"),
        final_answer_prompt,
    ),
)
