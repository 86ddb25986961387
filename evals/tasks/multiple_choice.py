"""Multiple-choice questions, answered in words: the model reasons, then names a letter.

Source: MedGemma technical report (arXiv:2507.05201), appendix A6: solve step by step, then a line `Final Answer:` with
    the letter in parentheses; options on one line as in Google's notebook evaluate_on_medqa. The exact sentences are
    ours. Not the protocol of lm-evaluation-harness, which compares likelihoods: choice_likelihood.py has that one.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from evals.items import Item
from evals.measures import Answered, Measure, mean_over_parts
from evals.outputs import Output
from evals.tasks.final_answer import parse_letter
from evals.tasks.question_sets import SETS, ChoiceQuestion, QuestionSet
from evals.tasks.task import ItemOptions, Task

INSTRUCTION = (
    "Solve the question step by step. Then write the letter of the right option on a line of its own, "
    'like this: "Final Answer: (A)".'
)

CHOSEN = "Final Answer: ({letter})"
"""How a worked example ends."""

MAX_NEW_TOKENS = 1024
"""Enough without thinking. Google's notebook allows 10,000 with it; cut at 1,024, MedGemma 1.5 loses most of MedQA."""


def prompt(question: str, options: Mapping[str, str], context: str = "", instruction: str = INSTRUCTION) -> str:
    """Return the text put to a model.

    Args:
        question: The stem.
        options: Letter to text.
        context: What the question is about (an abstract); empty for none.
        instruction: What to do; empty for none.
    """
    lettered = " ".join(f"({letter}) {text.strip()}" for letter, text in options.items())
    parts = [context.strip(), f"{question.strip()}\n{lettered}", instruction]
    return "\n\n".join(part for part in parts if part)


def options_of(item: Item) -> dict[str, str]:
    """Return the options of an item that `choice_item` made, letter to text."""
    return {key.removeprefix("option_"): text for key, text in item.meta.items() if key.startswith("option_")}


def parse(item: Item, text: str) -> str:
    """Return the letter that a reply names, empty if none or several."""
    options = options_of(item)
    stem = item.prompt.rpartition(prompt("", options, instruction="").strip())[0].strip()
    return parse_letter(text, options, stem.rpartition("\n\n")[2])  # worked examples and abstract come before


def grade(item: Item, output: Output) -> dict[str, float]:
    """Grade one reply: `accuracy`, and `unparsed` (1 where no letter can be told; such a reply is wrong)."""
    letter = parse(item, output.text)
    return {"accuracy": float(letter == item.reference), "unparsed": float(not letter)}


def choice_item(card: str, question: ChoiceQuestion, text: str, choices: tuple[str, ...] = ()) -> Item:
    """Make one item; its options are kept in Item.meta, since a reply may name one by its text."""
    asked = question.asked
    return Item(
        item_id=asked.item_id,
        files=tuple(str(path) for path in asked.pictures),
        prompt=text,
        reference=asked.answer,
        kind="closed",
        group=asked.group,
        meta={"card": card, "subject": asked.subject}
        | {f"option_{letter}": option for letter, option in asked.options.items()},
        choices=choices,
    )


def items(source: QuestionSet, data_dir: str | Path, options: ItemOptions) -> list[Item]:
    """Make the items of one side, in a seeded order.

    Raises:
        ValueError: The set is missing or broken, or has no examples to show.
    """
    if options.examples_for:
        questions = source.examples(data_dir, options.examples_for)
    else:
        questions = source.questions(data_dir, options.side)
    worked = shown(source, data_dir, options)
    random.Random(options.seed).shuffle(questions)
    return [choice_item(source.card, q, "".join(worked) + _prompt(q)) for q in questions]


def shown(source: QuestionSet, data_dir: str | Path, options: ItemOptions) -> list[str]:
    """Return the first worked examples of the side they come from, each with its answer.

    Raises:
        ValueError: The set has no side to take them from.
    """
    if options.num_fewshot == 0:
        return []
    examples = source.examples(data_dir, options.side)[: options.num_fewshot]
    return [f"{_prompt(q)}\n\n{CHOSEN.format(letter=q.asked.answer)}\n\n" for q in examples]


def mean_over_subjects(
    grade: Callable[[Item, Output], Mapping[str, float]], answered: Sequence[Answered]
) -> dict[str, Measure]:
    """Return the unweighted mean of the subjects' accuracies, where there are several."""
    subjects = [pair.item.meta["subject"] for pair in answered]
    if len(set(subjects)) < 2:
        return {}
    right = [grade(*pair)["accuracy"] for pair in answered]
    return {"accuracy_mean_over_subjects": mean_over_parts(answered, right, subjects)}


def _prompt(question: ChoiceQuestion) -> str:
    context = f"Abstract:\n{question.abstract.context}" if question.abstract else ""
    return prompt(question.asked.question, question.asked.options, context)


def _wording() -> object:
    options = {"A": "FIRST", "B": "SECOND"}
    return [prompt("QUESTION", options), prompt("QUESTION", options, "Abstract:\nCONTEXT"), CHOSEN]


def _row(name: str, source: QuestionSet) -> Task:
    return Task(
        name,
        (source.card,),
        f"{source.title}: reasoning, then a letter",
        "text",
        "letter",
        items=lambda data_dir, options: items(source, data_dir, options),
        grade=grade,
        wording=_wording,
        sides=source.sides,
        parse=parse,
        pooled=partial(mean_over_subjects, grade),
        breakdown="subject",
        thinks=name != "medxpertqa-mm",
        max_new_tokens=MAX_NEW_TOKENS,
        fewshot_from=source.fewshot_from,
        version=3,
    )


ROWS = tuple(_row(name, source) for name, source in SETS.items())
