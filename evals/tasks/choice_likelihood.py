"""Multiple-choice questions by likelihood: no text is generated, the likeliest of the options' letters is the answer.

The prompts are those of lm-evaluation-harness 0.4 for mmlu, medqa_4options, medmcqa and pubmedqa: plain text without a
chat template, options scored as " A", " B", ... after "Answer:"; `make test-lm-eval` compares prompts and likelihoods
item by item. Its `acc` is `accuracy`, its `acc_norm` is `accuracy_per_character`. Worked examples are the first of the
set's examples, of the same subject for MMLU: as lm-evaluation-harness does for MMLU; for the others it draws at random.

These figures and generated ones (multiple_choice.py) differ by tens of points on the same questions.
"""

import random
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from evals.items import Item
from evals.outputs import Output
from evals.tasks.multiple_choice import choice_item, mean_over_subjects
from evals.tasks.question_sets import SETS, ChoiceQuestion, QuestionSet, Style
from evals.tasks.task import ItemOptions, Task

DELIMITER = " "
"""Between a prompt and an option, scored with the option."""

BETWEEN_EXAMPLES = "\n\n"


def prompt(style: Style, question: ChoiceQuestion) -> str:
    """Return the text before the option."""
    asked = question.asked
    lettered = "".join(f"{letter}. {text}\n" for letter, text in asked.options.items())
    if style == "pubmedqa":
        assert question.abstract is not None, "a question of PubMedQA is about an abstract"
        return "Abstract: {}\nQuestion: {}\nAnswer:".format("\n".join(question.abstract.sections), asked.question)
    if style == "medmcqa":
        return f"Question: {asked.question}\nChoices:\n{lettered}Answer:"
    if style == "medqa":
        return f"Question: {asked.question}\n{lettered}Answer:"
    return f"{asked.question.strip()}\n{lettered}Answer:"


def description(style: Style, subject: str) -> str:
    """Return what stands before the first example."""
    if style != "mmlu":
        return ""
    return f"The following are multiple choice questions (with answers) about {subject.replace('_', ' ')}.\n\n"


def choices(style: Style, question: ChoiceQuestion) -> tuple[str, ...]:
    """Return the options as they are scored, in the order of the letters."""
    asked = question.asked
    names = asked.options.values() if style == "pubmedqa" else asked.options
    return tuple(DELIMITER + name for name in names)


def items(source: QuestionSet, data_dir: str | Path, options: ItemOptions) -> list[Item]:
    """Make the items of one side, in a seeded order.

    A subject with fewer examples than asked for shows those that it has.

    Raises:
        ValueError: The set is missing or broken.
    """
    style = source.style
    assert style is not None, f"{source.card} has no likelihood prompt"
    if options.examples_for:
        questions = source.examples(data_dir, options.examples_for)
    else:
        questions = source.questions(data_dir, options.side)
    examples = source.examples(data_dir, options.side) if options.num_fewshot else []
    random.Random(options.seed).shuffle(questions)
    return [
        choice_item(
            source.card,
            question,
            _before(style, question, examples, options.num_fewshot) + prompt(style, question),
            choices(style, question),
        )
        for question in questions
    ]


def grade(item: Item, output: Output) -> dict[str, float]:
    """Grade one item: whether the right option is the likeliest, whole (`accuracy`) and per character of its name.

    Source: lm-evaluation-harness, `acc` and `acc_norm` of ConfigurableTask.process_results; of equals the first.
    """
    scores = np.asarray(output.log_likelihoods, dtype=np.float64)
    assert scores.shape == (len(item.choices),), (
        f"{item.item_id} has {len(item.choices)} choices, {scores.shape} scores"
    )
    lengths = np.array([len(choice.removeprefix(DELIMITER)) for choice in item.choices])
    right = _place(item)
    return {
        "accuracy": float(np.argmax(scores) == right),
        "accuracy_per_character": float(np.argmax(scores / lengths) == right),
    }


def _place(item: Item) -> int:
    return ord(item.reference) - ord("A")


def _before(style: Style, question: ChoiceQuestion, examples: Sequence[ChoiceQuestion], num_fewshot: int) -> str:
    fitting = [q for q in examples if q.asked.item_id != question.asked.item_id]
    if style == "mmlu":
        fitting = [q for q in fitting if q.asked.subject == question.asked.subject]
    shown = "".join(
        prompt(style, q) + choices(style, q)[ord(q.asked.answer) - ord("A")] + BETWEEN_EXAMPLES
        for q in fitting[:num_fewshot]
    )
    return description(style, question.asked.subject) + shown


def _wording(style: Style) -> object:
    from data_cards.readers.multiple_choice import MultipleChoiceQuestion
    from data_cards.readers.text import AbstractQuestion

    asked = MultipleChoiceQuestion("ID", "QUESTION", {"A": "FIRST", "B": "SECOND"}, "A", "A_SUBJECT", "GROUP")
    abstract = AbstractQuestion("ID", "QUESTION", "L: S", ("S1", "S2"), "CONCLUSION", "yes", "GROUP")
    question = ChoiceQuestion(asked, abstract)
    return [description(style, "A_SUBJECT"), prompt(style, question), choices(style, question), BETWEEN_EXAMPLES]


def _row(name: str, source: QuestionSet, style: Style, num_fewshot: int) -> Task:
    shots = f"{num_fewshot} examples" if num_fewshot else "no examples"
    return Task(
        name,
        (source.card,),
        f"{source.title}: likelihood of the options, {shots}, as lm-evaluation-harness",
        "choices",
        "likelihood",
        items=lambda data_dir, options: items(source, data_dir, options),
        grade=grade,
        wording=lambda: _wording(style),
        sides=source.sides,
        pooled=partial(mean_over_subjects, grade),
        breakdown="subject",
        num_fewshot=num_fewshot,
        fewshot_from=source.fewshot_from,
    )


ROWS = tuple(
    _row(f"{name}-likelihood{f'-{shots}-shot' if shots else ''}", source, source.style, shots)
    for name, source in SETS.items()
    if source.style is not None
    for shots in ((0, 5) if source.style == "mmlu" else (0,))
)
