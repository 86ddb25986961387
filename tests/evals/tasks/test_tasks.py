import itertools
import random
from collections import Counter
from pathlib import Path

import pytest

from data_cards.readers.pictures import NIH14_FINDINGS, LabelledPicture, read_labelled_pictures
from data_cards.split import side
from evals.tasks import picture_questions, vqa_rad, zero_shot
from evals.tasks.caption_wording import CAPTIONS
from evals.tasks.phrasings import canonical, phrasings, written_out
from evals.tasks.picture_questions import balanced_questions, facts, questions_about
from evals.tasks.wording import CLOSED_QUESTIONS, FINDINGS, OPEN_QUESTIONS, OVERLAPPING


def film(name: str, *findings: str, view: str = "PA") -> LabelledPicture:
    labels = {finding: str(int(finding in findings)) for finding in NIH14_FINDINGS}
    labels |= {"no_finding": str(int(not findings)), "view": view, "age": "50", "sex": "F"}
    return LabelledPicture("cxr-nih14", Path(name), labels, group=name, licence="x")


def slide(name: str, label: str) -> LabelledPicture:
    labels = {"label": label, "label_text": "", "copy": "1"}
    return LabelledPicture("histo-lc25000-lung", Path(name), labels, group=name, licence="x")


def scan(name: str, label: str) -> LabelledPicture:
    return LabelledPicture("modality-mednist", Path(name), {"label": label, "label_text": ""}, name, "x")


PICTURES = [
    *(film(f"p{i}", "Pneumonia", "Effusion", view="AP") for i in range(5)),
    *(film(f"n{i}") for i in range(8)),
    *(slide(f"{label}{i}", label) for label in ("lung_n", "lung_aca", "lung_scc") for i in range(4)),
    *(scan(f"{label}{i}", label) for label in picture_questions.MEDNIST_FACTS for i in range(4)),
]


def test_prompt_is_the_question_and_a_short_instruction() -> None:
    assert vqa_rad.prompt(" Is it CT? ") == "Is it CT?\nAnswer with one word or a short phrase."


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Yes.", "Yes"),
        ("I look at it.\nFinal Answer: **No**\n", "No"),
        ("final answer: a\nFinal Answer: b", "b"),
        ('\n\n "Left lung."\nmore', "Left lung"),
        ("", ""),
        ("Final answer:", ""),
        ("T2.", "T2"),
    ],
)
def test_parse_answer(text: str, answer: str) -> None:
    assert vqa_rad.parse_answer(text) == answer


def test_grading_names_its_metrics() -> None:
    assert vqa_rad.grade("closed", "Final answer: yes, on the left", "Yes") == {"closed_accuracy": 1.0}
    assert vqa_rad.grade("open", "right lower lobe", "Lower lobe") == {
        "open_token_f1_squad": pytest.approx(4 / 5),
        "open_exact_match_norm": 0.0,
        "open_token_recall": 1.0,
    }


@pytest.mark.kit
def test_vqa_rad_sides_divide_the_cases(kit: Path) -> None:
    sides = {name: vqa_rad.items(kit, name) for name in vqa_rad.SIDES}
    held, final, train = ({item.group for item in sides[name]} for name in ("held-out", "final", "train"))
    assert held and final and not (held & train or held & final or final & train)
    assert sum(len(sides[name]) for name in ("held-out", "final", "train")) == len(sides["all"]) == 1513
    assert len(sides["official-test"]) == 234
    assert vqa_rad.items(kit / "vqa-rad") == sides["held-out"]
    with pytest.raises(ValueError, match="got side 'test'"):
        vqa_rad.items(kit, "test")  # type: ignore[arg-type]


def test_facts_say_what_the_labels_say() -> None:
    known = facts(film("a", "Pneumonia", "Hernia", view="AP"))
    assert known["pneumonia"] == "present" and known["edema"] == known["no finding"] == "absent"
    assert (known["modality"], known["body_part"], known["view"]) == ("X-ray", "chest", "AP")
    assert "hernia" not in known
    assert facts(scan("a", "HeadCT")) == {"modality": "CT", "body_part": "head"}
    assert facts(slide("a", "lung_scc"))["tissue"] == "lung squamous cell carcinoma"
    with pytest.raises(ValueError, match="got label 'Foot'"):
        facts(scan("a", "Foot"))


def test_held_out_wordings_are_never_trained_on() -> None:
    for ways in (*OPEN_QUESTIONS.values(), *CLOSED_QUESTIONS.values(), *(c.phrasings for c in CAPTIONS)):
        assert ways.train and ways.held_out
        assert len(set(ways.train)) == len(ways.train)
    for table in (OPEN_QUESTIONS, CLOSED_QUESTIONS):
        train = {canonical(text) for ways in table.values() for text in ways.train}
        assert not train & {canonical(text) for ways in table.values() for text in ways.held_out}
    train = {canonical(text) for wording in CAPTIONS for text in wording.phrasings.train}
    assert not train & {canonical(text) for wording in CAPTIONS for text in wording.phrasings.held_out}


def test_no_caption_says_two_things() -> None:
    said = Counter(canonical(text) for wording in CAPTIONS for text in {*wording.phrasings.train})
    assert max(said.values()) == 1


def test_patterns_are_written_out_and_hide_what_is_held_out() -> None:
    assert written_out("a [CT|CT scan] of [|the ]head{a}") == [
        "a CT of head{a}",
        "a CT of the head{a}",
        "a CT scan of head{a}",
        "a CT scan of the head{a}",
    ]
    made = phrasings("[a|the] [CT|MR]", "[a|one] CT", held_out=("The CT.",))
    assert made.train == ("a CT", "a MR", "the MR", "one CT") and made.held_out == ("The CT.",)
    for broken in ("a [CT", "a CT]", "a [CT|[MR]]"):
        with pytest.raises(ValueError, match=r"expected every \["):
            written_out(broken)


def test_a_caption_is_drawn_by_what_it_says_first() -> None:
    """A statement with many wordings is drawn no more often than one with few."""
    rng, known = random.Random(0), facts(film("a"))
    drawn = Counter(tuple(sorted(zero_shot.draw_caption(known, rng).facts)) for _ in range(4000))
    assert len(drawn) == 5 and max(drawn.values()) < 1.2 * min(drawn.values())
    both = facts(film("a", "Pneumonia", "Effusion"))
    assert all(zero_shot.draw_caption(both, rng).is_true_of(both) for _ in range(200))


def test_a_blind_answerer_scores_half_on_balanced_questions() -> None:
    """Whatever it makes of the text: each text is asked as often with yes as with no."""
    asked = [q.asked for q in balanced_questions(PICTURES, seed=1) if q.asked.kind == "closed"]
    by_text = Counter((q.question, q.answer) for q in asked)
    for text in {q.question for q in asked}:
        assert by_text[text, "yes"] == by_text[text, "no"] > 0
    assert {q.attribute for q in asked} >= {
        "modality",
        "body_part",
        "tissue",
        "view",
        "pneumonia",
        "no finding",
    }


def test_closed_answers_are_true_of_the_picture() -> None:
    for question in balanced_questions(PICTURES, seed=2, wordings="held-out"):
        known, asked = facts(question.picture), question.asked
        if asked.kind == "open":
            assert known[asked.attribute] == asked.answer
        else:
            assert (known[asked.attribute] == question.claim) == (asked.answer == "yes")
            assert frozenset({known[asked.attribute], question.claim}) not in OVERLAPPING


def test_questions_about_one_picture() -> None:
    known = facts(film("a", "Pneumonia"))
    draws = [questions_about(known, seed) for seed in range(200)]
    assert draws[0] == questions_about(known, 0) != draws[1]
    assert all(any(q.attribute == "pneumonia" and q.answer == "yes" for q in draw) for draw in draws)
    view = Counter(q.answer for draw in draws for q in draw if q.attribute == "view" and q.kind == "closed")
    assert 70 < view["yes"] < 130
    asked = {q.question for draw in draws for q in draw}
    assert not asked & {q.question for seed in range(50) for q in questions_about(known, seed, "held-out")}


@pytest.mark.kit
def test_findings_are_balanced_over_the_training_set(kit: Path) -> None:
    counts: Counter[tuple[str, str]] = Counter()
    for seed, picture in enumerate(read_labelled_pictures(kit, "cxr-nih14")):
        counts.update((q.attribute, q.answer) for q in questions_about(facts(picture), seed))
    for finding in ("pneumonia", "effusion", "infiltration", "atelectasis", "edema", "no finding"):
        assert 0.4 < counts[finding, "yes"] / (counts[finding, "yes"] + counts[finding, "no"]) < 0.6, finding


@pytest.mark.kit
def test_picture_question_items(kit: Path) -> None:
    items = picture_questions.items(kit)
    assert items == picture_questions.items(kit) != picture_questions.items(kit, seed=1)
    assert len({item.item_id for item in items}) == len(items) > 500
    assert all(side(item.group) == "held-out" and Path(item.files[0]).is_file() for item in items)
    assert {item.meta["card"] for item in items} == set(picture_questions.CARDS)
    one_set = picture_questions.items(kit / "modality-mednist", per_set=50)
    assert {item.meta["card"] for item in one_set} == {"modality-mednist"}


def test_missing_sets_are_named(tmp_path: Path) -> None:
    (tmp_path / "cxr-nih14").mkdir()
    with pytest.raises(ValueError, match="no folder modality-mednist, histo-lc25000-lung"):
        picture_questions.items(tmp_path)


def test_captions_state_only_what_is_true() -> None:
    for picture in PICTURES:
        known = facts(picture)
        stated = zero_shot.captions(known)
        assert stated and all(caption.is_true_of(known) for caption in stated)
    both = [c.text for c in zero_shot.captions(facts(film("a", "Pneumonia", "Effusion")))]
    assert "chest X-ray with pneumonia and pleural effusion" in both
    assert not any("normal" in text for text in both)


def test_a_caption_is_true_false_or_unknown() -> None:
    caption = next(c for c in zero_shot.captions(facts(film("a", "Pneumonia"))) if "pneumonia" in c.text)
    assert caption.is_true_of(facts(film("b", "Pneumonia", "Edema"))) is True
    assert caption.is_true_of(facts(film("c"))) is False
    assert caption.is_true_of(facts(slide("d", "lung_n"))) is False
    assert caption.is_true_of(facts(scan("e", "CXR"))) is None


@pytest.mark.parametrize("task", zero_shot.TASKS)
@pytest.mark.parametrize("wordings", ["train", "held-out"])
def test_every_class_has_captions_of_its_own(task: str, wordings: str) -> None:
    prompts = zero_shot.class_prompts(task, wordings)  # type: ignore[arg-type]
    assert all(prompts.values())
    for one, other in itertools.combinations(prompts.values(), 2):
        assert not set(one) & set(other)


def test_labels_of_pictures() -> None:
    assert zero_shot.label_of("zero-shot-nih-pneumonia", film("a", "Pneumonia", "Mass")) == "pneumonia"
    assert zero_shot.label_of("zero-shot-nih-pneumonia", film("a")) == "no finding"
    assert zero_shot.label_of("zero-shot-nih-pneumonia", film("a", "Mass")) is None
    assert zero_shot.label_of("zero-shot-lung-histology", slide("a", "lung_aca")) == "lung_aca"
    with pytest.raises(ValueError, match="got task 'x'"):
        zero_shot.class_prompts("x")


@pytest.mark.kit
def test_zero_shot_items_have_all_classes_and_one_copy_a_tile(kit: Path) -> None:
    for task, definition in zero_shot.TASKS.items():
        items = zero_shot.items(kit, task)
        assert {item.reference for item in items} == set(definition.class_facts)
        assert all(side(item.group) == "held-out" for item in items)
    tiles = [item.group for item in zero_shot.items(kit, "zero-shot-lung-histology")]
    assert len(set(tiles)) == len(tiles)


def test_every_finding_is_a_finding_of_nih() -> None:
    assert set(FINDINGS) <= {name.lower() for name in NIH14_FINDINGS}
