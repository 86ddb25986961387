"""What the steps of the recipe nano draw: pictures with captions, text, and questions as people and evaluations ask."""

import random
import re
from collections.abc import Callable, Sequence
from typing import Any

from evals.tasks import chest_films, multiple_choice, picture_classes
from evals.tasks.outside_questions import UNKNOWN, draw_outside_question
from evals.tasks.picture_questions import QuestionAnswer, false_claims, questions_about
from evals.tasks.vqa_rad import prompt as question_prompt
from evals.tasks.zero_shot import draw_caption
from finetune.collate import Conversations, Example
from finetune.contrastive import ContrastiveData, PictureSource
from finetune.recipes.nano.config import ContrastiveSection, InstructSection, PretrainSection
from finetune.recipes.nano.data import Corpus
from medgemma.prompts.chat import ImageTokens, tokenize, user_message

OTHER_INSTRUCTIONS = (
    "Answer briefly.",
    "Give a short answer.",
    "Answer in a few words.",
    "Reply with a word or a short phrase.",
    "Be brief.",
    "Keep the answer short.",
)
"""Beside the instruction of the evaluations."""


def contrastive_data(corpus: Corpus, section: ContrastiveSection) -> ContrastiveData:
    """The corpus as the contrastive stage draws from it."""
    per_step = {
        "histo-lc25000-lung": section.histology_per_step,
        "modality-mednist": section.modality_per_step,
        "cxr-nih14": section.chest_per_step,
        "vqa-rad": section.question_pictures_per_step,
    }
    sources = tuple(
        PictureSource(corpus.numbers_of(card), count, free_orientation=card == "histo-lc25000-lung")
        for card, count in per_step.items()
    )
    return ContrastiveData(corpus.pixels, corpus.facts, sources, draw_caption, section.captions_per_step)


Draw = Callable[[int, random.Random], Sequence[Example]]


def pretraining_draw(corpus: Corpus, tokenizer: Any, shape: ImageTokens, section: PretrainSection) -> Draw:
    """Text from its start or its middle, and captions after their picture."""
    texts = [tuple(ids) for ids in tokenizer(list(corpus.texts), add_special_tokens=False).input_ids]
    image = tokenize(tokenizer, shape, tokenizer.bos_token + shape.begin).input_ids

    def draw(step: int, rng: random.Random) -> list[Example]:
        chosen = [
            _text_example(rng.choice(texts), section.max_tokens, tokenizer, rng) for _ in range(section.texts_per_step)
        ]
        for _ in range(section.captions_per_step):
            number = corpus.draw_picture(rng)
            caption = draw_caption(corpus.facts[number], rng).text
            ids = tuple(tokenizer(caption, add_special_tokens=False).input_ids)
            chosen.append(Example(image, (*ids, tokenizer.eos_token_id), (number,)))
        return chosen

    return draw


def instruction_draw(corpus: Corpus, tokenizer: Any, shape: ImageTokens, section: InstructSection) -> Draw:
    """VQA-RAD, template questions over the labelled sets, questions without an answer, and a little text."""
    texts = [tuple(ids) for ids in tokenizer(list(corpus.texts), add_special_tokens=False).input_ids]
    conversations = Conversations.of(tokenizer, shape)

    def said_to(asked: str, answer: str, number: int) -> Example:
        return conversations.example([user_message(asked, 1)], answer, [number])

    def answered(question: str, answer: str, number: int, rng: random.Random) -> Example:
        return said_to(asked_in_some_way(question, rng), answer, number)

    def draw(step: int, rng: random.Random) -> list[Example]:
        asked = rng.choices(corpus.questions, k=section.question_set_per_step)
        chosen = [
            answered(with_a_word_lost(q.question, rng), short_answer(q.answer), corpus.number_of[q.path], rng)
            for q in asked
        ]
        while len(chosen) < section.question_set_per_step + section.template_per_step:
            number = corpus.draw_picture(rng)
            possible = questions_about(corpus.facts[number], rng.random().hex())
            for about in rng.sample(possible, min(3, len(possible))):
                if rng.random() < section.other_forms:
                    chosen.append(said_to(*in_another_form(about, rng), number))
                else:
                    chosen.append(answered(about.question, about.answer.lower(), number, rng))
        for _ in range(section.outside_per_step):
            number = corpus.draw_picture(rng)
            question = draw_outside_question(corpus.facts[number], rng)
            if rng.random() < 0.4:
                question = rng.choice(corpus.text_questions)
            chosen.append(answered(question, UNKNOWN, number, rng))
        chosen += [
            _text_example(rng.choice(texts), section.text_max_tokens, tokenizer, rng)
            for _ in range(section.texts_per_step)
        ]
        return chosen

    return draw


def short_answer(answer: str) -> str:
    """A free answer in lower case and in one spelling, without the article before it."""
    said = re.sub(r"^(the|an|a) ", "", answer.strip().lower().rstrip("."))
    return re.sub(r"\bx[- ]?ray", "x-ray", said)


def with_a_word_lost(question: str, rng: random.Random) -> str:
    """A third of the longer questions lose a word, so that no single word decides the answer."""
    words = question.split()
    if len(words) < 6 or rng.random() < 2 / 3:
        return question
    words.pop(rng.randrange(len(words)))
    return " ".join(words)


def asked_in_some_way(question: str, rng: random.Random) -> str:
    """A question as people type it: mostly with the instruction of the evaluations, some with another or none."""
    said = question.strip()
    if rng.random() < 0.1:
        said = said.lower()
    if rng.random() < 0.1:
        said = said.rstrip("?.")
    way = rng.random()
    if way < 0.6:
        return question_prompt(said)
    return said if way < 0.8 else f"{said}\n{rng.choice(OTHER_INSTRUCTIONS)}"


def in_another_form(about: QuestionAnswer, rng: random.Random) -> tuple[str, str]:
    """A question and its answer in the form of other evaluations: after `Final Answer:`, or the letter of an option."""
    if about.kind == "closed":
        return f"{about.question}\n{chest_films.INSTRUCTION}", f"Final Answer: {about.answer.lower()}"
    others = false_claims(about.attribute, about.answer)
    options = [about.answer, *rng.sample(others, rng.randint(1, min(len(others), 4)))]
    rng.shuffle(options)
    letters = dict(zip("ABCDE", options, strict=False))
    right = next(letter for letter, option in letters.items() if option == about.answer)
    if rng.random() < 0.5:
        return multiple_choice.prompt(about.question, letters), multiple_choice.CHOSEN.format(letter=right)
    lines = [f"{letter}: {option}" for letter, option in letters.items()]
    return "\n".join((about.question, *lines, picture_classes.FINAL_ANSWER)), f"Final Answer: {right}"


def _text_example(ids: tuple[int, ...], max_tokens: int, tokenizer: Any, rng: random.Random) -> Example:
    start = 0 if rng.random() < 0.5 else rng.randrange(max(1, len(ids) - max_tokens // 2))
    completion = ids[start : start + max_tokens - 2]
    whole = start + len(completion) == len(ids)
    return Example((tokenizer.bos_token_id,), (*completion, *((tokenizer.eos_token_id,) if whole else ())))
