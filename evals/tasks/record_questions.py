"""EHRQA on the kit's Synthea records: the whole record as condensed text in the prompt, a concise answer out.

The report's own records and questions are private, so figures do not compare; its ten categories of question are kept
apart where a kind of ours is one of them. `ehr-tools` (ehr_tools.py) asks the same questions with tools instead.

Source: MedGemma technical report (arXiv:2507.05201), section 3 and appendix A: the record as condensed plain text
    between delimiter lines, a concise answer without an explanation; accuracy is the mean over ten categories of
    question. The grader is record_answers.py; the report's regular expressions are not published.
"""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from data_cards.readers.records import RecordQuestion, read_synthea_bundles, read_synthea_questions
from data_cards.readers.tables import find_set
from data_cards.split import side as side_of
from evals.items import Item
from evals.measures import Answered, Measure, mean_over_parts
from evals.outputs import Output
from evals.tasks.final_answer import spoken
from evals.tasks.owners_rows import CONCISE, RECORD
from evals.tasks.record_answers import is_right
from evals.tasks.task import ItemOptions, Task
from medgemma.records import Fact, condense, facts_of
from medgemma.records.facts import facts_text

CARD = "synthea-fhir-r4"

FORM = (
    f"{CONCISE} Write dates as YYYY-MM-DD, blood pressure as systolic/diastolic, a value with its unit and, if the "
    "latest is asked for, its date; divide the entries of a list by semicolons; if there are none, write: none."
)

REPORT_CATEGORIES: Mapping[str, str] = {
    "cond_present": "condition existence",
    "cond_absent": "condition existence",
    "imm_last": "immunisation date",
    "med_active": "medication current",
    "med_first": "medication prescription date",
    "med_reason": "medication for condition",
    "obs_latest": "observation value",
    "obs_max": "observation value",
    "obs_on_date": "observation value",
    "bp_latest": "observation value",
}
"""Kind of question to the report's category, where it is one of them. Of the report's ten, four have no question here
(transitive condition, medication existence, medication prescriber, observation dependent); 13 of our 23 kinds are none
of the ten."""

KINDS: Mapping[str, tuple[str, ...]] = {
    "allergy": ("AllergyIntolerance",),
    "birth": (),
    "bp": ("Observation",),
    "city": (),
    "cond": ("Condition",),
    "enc": ("Encounter",),
    "imm": ("Immunization",),
    "med": ("MedicationRequest", "Condition"),
    "obs": ("Observation",),
    "proc": ("Procedure",),
}
"""First word of a kind of question to the resources that it is about."""

SIDES = ("held-out", "train", "all")

RECORD_TOKENS = 250
CHARACTERS_A_TOKEN = 2
"""A tokenizer makes more of every token; this one is nobody's, so that all models are asked the same."""


def prompt(record: str, question: str) -> str:
    """Return the text put to a model."""
    return "\n\n".join((RECORD.format(context=record), question.strip(), FORM))


def fact_line(fact: Fact) -> str:
    """Return a fact by what it is about, then when: what follows a name is what questions ask for."""
    if fact.category == "Patient":
        return fact.line
    return " | ".join(part for part in (fact.category, fact.text, fact.date, *fact.statements) if part)


def condensed(facts: Sequence[Fact], question: str, categories: Sequence[str], max_tokens: int) -> str:
    """Return the facts that matter to a question, within a number of tokens.

    Args:
        facts: Of one patient.
        question: Decides which facts stay where not all fit.
        categories: Resource types; all if empty.
        max_tokens: Of CHARACTERS_A_TOKEN characters each.

    Raises:
        ValueError: Not even the patient's line fits.
    """
    most = max_tokens * CHARACTERS_A_TOKEN
    return condense(facts, most, len, question=question, categories=categories, line=fact_line).text


def items(
    record_of: Callable[[Sequence[Fact], RecordQuestion], str], data_dir: str | Path, options: ItemOptions
) -> list[Item]:
    """Make one item a question, in a seeded order.

    Args:
        record_of: A patient's facts and a question to the record's text in the prompt.
        data_dir: A folder with the folder synthea-fhir-r4, or that folder.
        options: Side and seed.

    Raises:
        ValueError: The set is missing or broken.
    """
    folder = find_set(data_dir, CARD)
    splits: tuple[Literal["train", "val"], ...] = ("train", "val")
    found = []
    for split in splits:
        records = {
            bundle.patient_id: facts_of(bundle.resources).facts
            for bundle in read_synthea_bundles(folder, split)
            if options.side in ("all", side_of(bundle.group))
        }
        for question in read_synthea_questions(folder, split):
            if options.side in ("all", side_of(question.group)):
                found.append(_item(question, record_of(records[question.patient_id], question)))
    random.Random(options.seed).shuffle(found)
    return found


def facts_task(max_tokens: int) -> Task:
    """Return kit-ehrqa-facts with records of another length."""
    return _row("kit-ehrqa-facts", FACTS_SUMMARY, partial(_facts, max_tokens))


def grade(item: Item, output: Output) -> dict[str, float]:
    """Grade one reply by the type of its answer (record_answers.is_right)."""
    value = json.loads(item.meta["answer_value"])
    return {"accuracy": float(is_right(spoken(output.text), item.meta["answer_type"], value))}


def over_report_categories(answered: Sequence[Answered]) -> dict[str, Measure]:
    """Return the mean over those of the report's categories that the questions are of."""
    mapped = [pair for pair in answered if "report_category" in pair.item.meta]
    if not mapped:
        return {}
    right = [grade(*pair)["accuracy"] for pair in mapped]
    names = [pair.item.meta["report_category"] for pair in mapped]
    return {"accuracy_mean_over_report_categories": mean_over_parts(mapped, right, names)}


def _item(question: RecordQuestion, record: str) -> Item:
    meta = {
        "card": CARD,
        "category": question.category,
        "answer_type": question.answer_type,
        "answer_value": json.dumps(question.answer_value, ensure_ascii=False),
    }
    if question.category in REPORT_CATEGORIES:
        meta["report_category"] = REPORT_CATEGORIES[question.category]
    return Item(
        item_id=question.item_id,
        files=(),
        prompt=prompt(record, question.question),
        reference=question.answer,
        kind="open",
        group=question.group,
        meta=meta,
    )


def _whole(facts: Sequence[Fact], question: RecordQuestion) -> str:
    return facts_text(facts)


def _section(facts: Sequence[Fact], question: RecordQuestion) -> str:
    """Only the kinds of resource that the question is about, with the patient's line."""
    return facts_text(facts, _categories(question))


def _facts(max_tokens: int, facts: Sequence[Fact], question: RecordQuestion) -> str:
    return condensed(facts, question.question, _categories(question), max_tokens)


def _categories(question: RecordQuestion) -> tuple[str, ...]:
    return KINDS[question.category.partition("_")[0]] or ("Patient",)


def _row(name: str, summary: str, record_of: Callable[[Sequence[Fact], RecordQuestion], str]) -> Task:
    return Task(
        name,
        (CARD,),
        summary,
        "text",
        "short",
        items=partial(items, record_of),
        grade=grade,
        wording=lambda: [prompt("RECORD", "QUESTION"), dict(REPORT_CATEGORIES)],
        sides=SIDES,
        parse=lambda item, text: spoken(text),
        pooled=over_report_categories,
        breakdown="category",
        max_new_tokens=128,
    )


FACTS_SUMMARY = "the same with the facts that matter to the question, named first, within a number of tokens"

ROWS = (
    _row("kit-ehrqa", "questions about a patient's whole record, condensed, in the prompt", _whole),
    _row("kit-ehrqa-section", "the same with only the kind of resource that is asked about in the prompt", _section),
    facts_task(RECORD_TOKENS),
)
