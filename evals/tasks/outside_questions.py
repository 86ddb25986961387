"""Questions that the picture cannot answer, or that have nothing to do with it: the right answer is not to know.

Kinds of question are divided: recipes train on some, and others are asked only here. A model that answers with a
refusal of its own words scores 0 by exact match; the task measures whether the fixed answer was learned.
"""

import random
from collections.abc import Mapping
from pathlib import Path

from data_cards.split import SIDES, Side
from evals.items import Item
from evals.tasks.phrasings import Wordings, written_out
from evals.tasks.picture_questions import CARDS, HELD_OUT_SIDES, facts, sample
from evals.tasks.task import ItemOptions, Task, checked_side
from evals.tasks.vqa_rad import grade_output, parse_answer, prompt
from evals.tasks.wording import CLOSED_QUESTIONS, FINDINGS, OPEN_QUESTIONS

UNKNOWN = "I do not know"
"""The answer, word for word."""

_PATIENT = "[the patient|this patient|this person]"

TRAIN_KINDS: Mapping[str, tuple[str, ...]] = {
    "name": (
        f"What is the name of {_PATIENT}?",
        f"What is {_PATIENT} called?",
        f"Who is {_PATIENT}?",
        "Whose picture is this?",
    ),
    "age": (f"How old is {_PATIENT}?", f"What is the age of {_PATIENT}?", f"In what year was {_PATIENT} born?"),
    "address": (f"Where does {_PATIENT} live?", f"What is the [address|phone number|home town] of {_PATIENT}?"),
    "hospital": (
        "In which [hospital|city|country|clinic] was this [made|taken]?",
        "Who [reported|ordered|took] this [image|study|film]?",
    ),
    "date": (
        "When was this [image|film|study] [made|taken]?",
        "On what [date|day] was this taken?",
        "What time is it?",
    ),
    "laboratory": (
        f"What is the [haemoglobin|potassium|creatinine|blood sugar|white cell count|CRP|cholesterol] of {_PATIENT}?",
        "How high is the [blood pressure|heart rate|temperature|oxygen saturation]?",
        f"What is {_PATIENT}'s [blood type|blood pressure|pulse|temperature]?",
    ),
    "drug": (
        f"Which [drug|drugs|medicine|medication|antibiotic] does {_PATIENT} take?",
        "What dose of [aspirin|insulin|penicillin|morphine] should be given?",
        f"Should {_PATIENT} take [aspirin|antibiotics|insulin|steroids]?",
    ),
    "habits": (
        f"Does {_PATIENT} [smoke|drink|exercise|take drugs|sleep well]?",
        f"How many cigarettes does {_PATIENT} smoke?",
        f"How often does {_PATIENT} [exercise|drink alcohol]?",
    ),
    "history": (
        f"Has {_PATIENT} [had surgery|been to hospital|been vaccinated|travelled] before?",
        f"Does {_PATIENT} have [diabetes|asthma|allergies|hypertension|epilepsy]?",
        f"Since when has {_PATIENT} had [pain|a cough|a fever|these symptoms]?",
    ),
    "prognosis": (
        f"How long will {_PATIENT} live?",
        f"Will {_PATIENT} [survive|recover|die|get better]?",
        "What is the [prognosis|survival rate|chance of cure]?",
    ),
    "treatment": (
        "How should this be treated?",
        "What treatment is best?",
        "Is [surgery|chemotherapy|radiotherapy] needed?",
    ),
    "geography": (
        "What is the capital of [France|Japan|Peru|Kenya|Canada]?",
        "Which [river|mountain|country|sea] is the [longest|largest|highest]?",
    ),
    "arithmetic": (
        "What is [two|three|seven|nine] [plus|minus|times] [one|four|five|six]?",
        "How many days are in a [week|year|month]?",
    ),
    "weather": ("What is the weather like [today|tomorrow|in Rome]?", "Will it [rain|snow] [today|tomorrow]?"),
    "sport": ("Who won the [match|world cup|race|game]?", "Which team plays [football|tennis|hockey]?"),
    "writing": (
        "Write a [poem|story|letter|song].",
        "Tell me a [joke|story|secret].",
        "Translate this into [French|German|Latin].",
    ),
    "history of the world": (
        "Who was [Napoleon|Caesar|Newton|the first president]?",
        "When did the [war|revolution] [begin|end]?",
    ),
    "self": ("Who are you?", "What is your name?", "How are you?", "Who made you?", "Are you a doctor?"),
}
"""Kinds that recipes may train on."""

HELD_OUT_KINDS: Mapping[str, tuple[str, ...]] = {
    "occupation": (f"What does {_PATIENT} do for a living?", f"Is {_PATIENT} employed?", "Which profession is it?"),
    "family": (
        f"Is {_PATIENT} married?",
        f"How many children does {_PATIENT} have?",
        f"Does the mother of {_PATIENT} have cancer?",
    ),
    "money": ("How much did this cost?", f"Which insurance does {_PATIENT} have?", "Who pays the bill?"),
    "diet": (
        f"What did {_PATIENT} eat for breakfast?",
        f"Is {_PATIENT} a vegetarian?",
        f"How much does {_PATIENT} weigh?",
    ),
    "device": ("Which company built the machine?", "What is the serial number of the device?"),
    "music": ("Who composed this song?", "Which instrument has six strings?", "What is the best opera?"),
    "nature": ("Which bird sings at night?", "How tall is an oak tree?", "What do cows eat?"),
    "law": ("Is this legal?", "Who may sign the contract?", "What does the law say?"),
    "cooking": ("How do I bake bread?", "How long must an egg boil?", "Which wine goes with fish?"),
    "feelings": (f"Is {_PATIENT} happy?", f"What is {_PATIENT} afraid of?", "Do you love me?"),
}
"""Kinds that no recipe may train on."""

NOT_OF_THIS = "not of this picture"
"""The kind of a question that can be asked of other pictures: the tissue of a CT, the view of a slide."""


def draw_outside_question(facts: Mapping[str, str], rng: random.Random) -> str:
    """Draw a training question that a picture with these facts cannot answer."""
    about_others = _questions_of_others(facts, "train")
    if about_others and rng.random() < 0.3:
        return rng.choice(rng.choice(about_others))
    kind = rng.choice(sorted(TRAIN_KINDS))
    return rng.choice([q for pattern in TRAIN_KINDS[kind] for q in written_out(pattern)])


def items(data_dir: str | Path, per_set: int = 60, seed: int = 0, side: Side = "held-out") -> list[Item]:
    """Make the items: of every picture one question of a held-out kind, and one that other pictures could answer.

    Args:
        data_dir: A folder with one folder a card of picture_questions.CARDS.
        per_set: At most so many pictures of each set.
        seed: Of all draws.
        side: Of the groups.

    Raises:
        ValueError: A set is missing or broken, or the side is unknown.
    """
    rng = random.Random(f"outside:{seed}")
    made = []
    for card in CARDS:
        for picture in sample(data_dir, card, per_set, seed, checked_side(side, SIDES)):
            kind = rng.choice(sorted(HELD_OUT_KINDS))
            question = rng.choice([q for pattern in HELD_OUT_KINDS[kind] for q in written_out(pattern)])
            asked = {
                kind: question,
                NOT_OF_THIS: rng.choice(rng.choice(_questions_of_others(facts(picture), "held-out"))),
            }
            made += [
                Item(
                    item_id=f"{picture.picture_id}:{kind}",
                    files=(str(picture.path),),
                    prompt=prompt(question),
                    reference=UNKNOWN,
                    kind="open",
                    group=picture.group,
                    meta={"card": card, "attribute": kind},
                )
                for kind, question in asked.items()
            ]
    rng.shuffle(made)
    return made


def _questions_of_others(facts: Mapping[str, str], wordings: Wordings) -> list[list[str]]:
    """Questions about what a picture with these facts does not have, a list for each such thing."""
    asked = []
    if facts.get("modality", "histology") != "histology":
        asked.append(list(OPEN_QUESTIONS["tissue"].of(wordings)))
    if facts.get("modality", "X-ray") != "X-ray":
        asked.append(list(OPEN_QUESTIONS["view"].of(wordings)))
    if facts.get("body_part", "chest") not in ("chest", "lung"):
        phrasings = CLOSED_QUESTIONS["finding"].of(wordings)
        asked.append([phrasing.format(value=name) for name in FINDINGS.values() for phrasing in phrasings])
    return asked


def _task_items(data_dir: str | Path, options: ItemOptions) -> list[Item]:
    return items(data_dir, seed=options.seed, side=checked_side(options.side, SIDES))


def _wording() -> object:
    return [prompt("QUESTION"), UNKNOWN, list(HELD_OUT_KINDS.items()), repr(OPEN_QUESTIONS), repr(CLOSED_QUESTIONS)]


ROWS = (
    Task(
        "outside-questions",
        CARDS,
        f"questions the picture cannot answer; right is {UNKNOWN!r} and nothing else",
        "text",
        "short",
        items=_task_items,
        grade=grade_output,
        wording=_wording,
        sides=HELD_OUT_SIDES,
        main_metric="open_exact_match_norm",
        parse=lambda item, text: parse_answer(text),
        breakdown="attribute",
        version=2,
    ),
)
