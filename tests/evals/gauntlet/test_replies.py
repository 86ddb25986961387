"""The gauntlet's file: its shape, its halves, its languages, and that none of it comes from the kit."""

import gzip
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from evals.gauntlet.replies import FILE, LabelledReply, half_of, labelled_replies

LEAST = {"letter": 350, "yes_no": 100, "number": 90, "box": 40, "json": 40}
LANGUAGES = {"ar", "bn", "cy", "de", "en", "es", "fr", "hi", "id", "it", "ja", "ko", "my", "pt", "sq", "sw", "yo", "zh"}
ROW = {"answer": "letter", "difficulty": "plain", "language": "en", "options": {"A": "Rest", "B": "Ice"}, "reply": "B"}


@pytest.fixture(scope="module")
def replies() -> list[LabelledReply]:
    return labelled_replies()


def test_ids_are_unique_and_no_reply_to_one_question_comes_twice(replies: list[LabelledReply]) -> None:
    assert len({reply.id for reply in replies}) == len(replies)
    twice = Counter((r.question, r.structure, json.dumps(r.json_schema), str(r.options), r.reply) for r in replies)
    assert [asked for asked, times in twice.items() if times > 1] == []


def test_the_halves_part_the_file_by_the_hash_of_the_id(replies: list[LabelledReply]) -> None:
    development, held_back = labelled_replies("development"), labelled_replies("held-back")
    assert sorted(r.id for r in development + held_back) == sorted(r.id for r in replies)
    for reply in replies:
        even = int(hashlib.sha256(f"gauntlet-45:{reply.id}".encode()).hexdigest()[:2], 16) % 2 == 0
        assert reply.half == ("development" if even else "held-back")
    assert abs(len(development) - len(held_back)) <= 20


def test_each_half_holds_every_kind_language_and_sort_of_label(replies: list[LabelledReply]) -> None:
    cells = {(r.answer, r.difficulty) for r in replies}
    for half in ("development", "held-back"):
        rows = [reply for reply in replies if reply.half == half]
        assert cells == {(r.answer, r.difficulty) for r in rows}
        by_language = Counter(r.language for r in rows)
        assert by_language.keys() == LANGUAGES and min(by_language.values()) >= 2
        for answer, least in LEAST.items():
            of_kind = [r for r in rows if r.answer == answer]
            assert len(of_kind) >= 0.4 * least
            unreadable = sum(r.label is None for r in of_kind)
            assert 3 <= unreadable <= 0.5 * len(of_kind), (half, answer, unreadable)


def test_there_are_enough_of_every_kind_and_language(replies: list[LabelledReply]) -> None:
    kinds, languages = Counter(r.answer for r in replies), Counter(r.language for r in replies)
    assert {answer: kinds[answer] for answer, least in LEAST.items() if kinds[answer] < least} == {}
    assert {language for language in LANGUAGES if languages[language] < 8} == set()


def test_no_position_holds_most_of_the_letters(replies: list[LabelledReply]) -> None:
    letters = Counter(r.label for r in replies if r.answer == "letter" and r.label)
    assert set(letters) == set("ABCDEFGHIJ") and max(letters.values()) < 0.4 * letters.total()


def test_objects_have_the_required_keys_and_values_of_their_schema(replies: list[LabelledReply]) -> None:
    types = {"string": str, "number": (int, float), "boolean": bool, "array": list}
    for reply in replies:
        if reply.json_schema is None or reply.label is None:
            continue
        properties = reply.json_schema["properties"]
        assert set(reply.json_schema["required"]) <= reply.label.keys() <= properties.keys(), reply.id
        for key, value in reply.label.items():
            wanted = properties[key]
            assert value in wanted["enum"] if "enum" in wanted else isinstance(value, types[wanted["type"]]), reply.id


def test_readme_counts_what_the_file_holds(replies: list[LabelledReply]) -> None:
    text = (FILE.parent / "README.md").read_text(encoding="utf-8")
    assert f"{len(replies)} replies" in text
    for answer, count in Counter(r.answer for r in replies).items():
        halves = Counter(r.half for r in replies if r.answer == answer)
        null = sum(r.label is None for r in replies if r.answer == answer)
        assert f"| {answer} | {count} | {halves['development']} | {halves['held-back']} | {null} |" in text
    for difficulty in {r.difficulty for r in replies}:
        assert f"`{difficulty}`" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": "C"}, "line 1: row: .*'C' is no letter that was asked for"),
        ({"label": "B", "options": {}}, "a letter has options"),
        ({"label": "B", "half": "development"}, "the half of this id is held-back"),
        ({"answer": "box", "options": {}, "label": [[10, 10, 5, 20]]}, "is no box"),
        ({"answer": "box", "options": {}, "label": [[10, 10, 50, 2000]]}, "is no box"),
        ({"answer": "box", "options": {}, "label": [[10, 10, 50]]}, "row"),
        ({"answer": "number", "options": {}, "label": True}, "is no number"),
        ({"answer": "number", "options": {}, "label": 5, "possible_range": [10, 20]}, "is no number"),
        ({"answer": "yes_no", "options": {}, "label": "maybe"}, "is no yes_no"),
        ({"label": "B", "colour": "red"}, "line 1: colour"),
    ],
)
def test_a_row_that_does_not_fit_is_refused(change: dict[str, object], message: str, tmp_path: Path) -> None:
    reply_id = next(f"row-{n}" for n in range(99) if half_of(f"row-{n}") == "held-back")
    path = tmp_path / "replies.jsonl"
    path.write_text(json.dumps({"id": reply_id, "half": "held-back"} | ROW | change) + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        labelled_replies(path=path)


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def runs(text: str, length: int = 8) -> Iterator[tuple[str, ...]]:
    found = words(text)
    return (tuple(found[start : start + length]) for start in range(len(found) - length + 1))


@pytest.mark.kit
def test_no_reply_or_question_shares_eight_words_in_a_row_with_the_kit(replies: list[LabelledReply], kit: Path) -> None:
    ours = {run: r.id for r in replies for text in (r.reply, r.question) for run in runs(text)}
    shared = {}
    for name in ("medmcqa/val", "medqa-usmle/dev", "mmlu-medical/val", "mmlu-medical/fewshot", "pubmedqa/val"):
        with gzip.open(kit / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
            shared |= {run: ours[run] for line in lines for run in runs(line) if run in ours}
    assert shared == {}
