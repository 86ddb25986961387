"""Whatever a model of random logits says under a constraint has its form; what cannot be met is refused beforehand."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest
import torch
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from medgemma import MedGemma
from medgemma.answers import LAB_REPORT_SCHEMA, ThinkingTokens, json_answer, parse_lab_report
from medgemma.answers.constraints import ConstraintError, Grammars, StopAt, ThinkingLimit, cut_at
from medgemma.engine.request import Constraint
from medgemma.nano import NANO_FOLDER
from medgemma.prompts.film_prompts import box_schema
from medgemma.prompts.thinking import speech_of
from tests.medgemma.thinker import thinking_tokenizer

SEEDS = range(12)


class Said:
    """A tokenizer, its grammars, and a model whose logits are random."""

    def __init__(self, tokenizer: Any, unused_rows: int = 0) -> None:
        self.tokenizer = tokenizer
        self.stop_ids = frozenset(tokenizer.convert_tokens_to_ids(["<eos>", "<end_of_turn>"]))
        self.width = len(tokenizer) + unused_rows
        self.grammars = Grammars.of(tokenizer, self.width, self.stop_ids)

    def tokens(self, constraint: Constraint, seed: int, limit: int = 400) -> tuple[list[int], str]:
        """Sampled token ids and the finish reason; closing marks and stops are likelier, so that answers end."""
        rng = np.random.default_rng(seed)
        closing = [*self.tokenizer.convert_tokens_to_ids(['"', "}", "]"]), *self.stop_ids]
        state, ids = constraint.start(), []
        while len(ids) < limit:
            logits = torch.from_numpy(rng.normal(size=self.width))
            logits[closing] += 6
            mask = state.allowed()
            if mask is not None:
                assert mask.shape == (self.width,) and mask.dtype == torch.bool and bool(mask.any())
                logits[~mask] = -torch.inf
            ids.append(int(logits.argmax()))
            if ids[-1] in self.stop_ids:
                return ids, "stop"
            state.advance(ids[-1])
            if state.finished():
                return ids, "stop"
        return ids, "length"

    def text(self, constraint: Constraint, seed: int, limit: int = 400) -> tuple[str, str]:
        ids, reason = self.tokens(constraint, seed, limit)
        speech = speech_of(self.tokenizer, ThinkingTokens.of(self.tokenizer), ids)
        return speech.spoken(stripped=False).text, reason


@pytest.fixture(scope="module")
def nano() -> Said:
    from transformers import AutoTokenizer

    return Said(AutoTokenizer.from_pretrained(NANO_FOLDER, local_files_only=True), unused_rows=64)


@pytest.fixture(scope="module")
def thinker(tiny_folder: Path) -> Said:
    return Said(thinking_tokenizer(tiny_folder))


# Choices and regular expressions


@pytest.mark.parametrize("seed", SEEDS)
def test_a_choice_is_one_of_them(nano: Said, seed: int) -> None:
    choices = ["yes", "no", "yes and no", "Grad 2 é€ 𝄞", 'a "quoted"\nline', "|", "/x/", "\\"]
    text, reason = nano.text(nano.grammars.choices(choices), seed)
    assert text in choices and reason == "stop"


def test_every_choice_can_be_said(nano: Said) -> None:
    """As the tokenizer writes it, bytes among its tokens, and with a stop token behind it."""
    choices = ["yes", "yes and no", "é€ 𝄞", "left"]
    constraint = nano.grammars.choices(choices)
    for choice in choices:
        state = constraint.start()
        for token in nano.tokenizer(choice, add_special_tokens=False).input_ids:
            assert state.allowed()[token]
            state.advance(token)
        assert state.finished() == (choice != "yes")  # "yes" may still become "yes and no"
        assert all(state.allowed()[i] for i in nano.stop_ids)


@pytest.mark.parametrize("pattern", [r"(yes|no)", r"\d{2}-\d{2}-\d{4}", r"[A-E]\.", r"(left|right) \w{1,8}", r"é{2,3}"])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_text_matches_its_expression(nano: Said, pattern: str, seed: int) -> None:
    text, reason = nano.text(nano.grammars.regex(pattern), seed)
    assert reason == "stop" and re.fullmatch(pattern, text)


def test_control_tokens_are_no_text(nano: Said) -> None:
    mask = nano.grammars.regex(r"(?s).*").start().allowed()
    special = set(nano.tokenizer.all_special_ids) - nano.stop_ids
    assert not mask[sorted(special)].any() and not mask[len(nano.tokenizer) :].any()
    assert mask[sorted(nano.stop_ids)].all()


def test_states_of_one_grammar_do_not_share(nano: Said) -> None:
    constraint = nano.grammars.choices(["yes", "no"])
    first, second = constraint.start(), constraint.start()
    first.advance(nano.tokenizer.convert_tokens_to_ids("yes"))
    assert first.finished() and not second.finished()
    with pytest.raises(ValueError, match="is not allowed here"):
        second.advance(nano.tokenizer.convert_tokens_to_ids("left"))


# JSON


class Finding(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(min_length=1, max_length=12)]
    side: Literal["left", "right", "both"] | None
    size_mm: Annotated[int, Field(ge=1, le=300)]
    certain: bool


class Report(BaseModel):
    model_config = ConfigDict(extra="forbid")

    view: Literal["PA", "AP"]
    findings: Annotated[list[Finding], Field(max_length=3)]


@pytest.mark.parametrize("seed", SEEDS)
def test_json_is_valid_under_its_schema(nano: Said, seed: int) -> None:
    """The oracle is pydantic, whose model the schema came from."""
    text, reason = nano.text(nano.grammars.json_schema(Report.model_json_schema()), seed)
    assert reason == "stop"
    Report.model_validate_json(text)
    assert json_answer(text).reason is None


@pytest.mark.parametrize("seed", SEEDS)
def test_compact_json_is_one_line(nano: Said, seed: int) -> None:
    text, reason = nano.text(nano.grammars.json_schema(box_schema("rib"), compact=True), seed)
    boxes = TypeAdapter(list[dict[str, Any]]).validate_json(text)
    assert reason == "stop" and 1 <= len(boxes) <= 4
    assert all(b["label"] == "rib" and len(b["box_2d"]) == 4 and max(b["box_2d"]) <= 1000 for b in boxes)
    assert len(text) <= len(json.dumps(boxes)) and "\n" not in text


@pytest.mark.parametrize("seed", SEEDS)
def test_a_constrained_lab_report_has_its_keys(nano: Said, seed: int) -> None:
    text, reason = nano.text(nano.grammars.json_schema(LAB_REPORT_SCHEMA), seed, limit=2000)
    assert reason == "stop"
    rows = TypeAdapter(list[dict[str, str | None]]).validate_json(text)
    report = parse_lab_report(text)
    assert len(report.results) == len(rows) or "sample_collection_time" in str(report.reason)


def test_json_that_is_cut_is_not_passed_off_as_whole(nano: Said) -> None:
    text, reason = nano.text(nano.grammars.json_schema(Report.model_json_schema()), 0, limit=12)
    assert reason == "length"
    assert json_answer(text, "length").value is None


def test_without_its_constraint_the_model_says_anything(nano: Said) -> None:
    """Control: the random model alone writes no JSON."""

    class Free:
        def start(self) -> Any:
            return self

        def allowed(self) -> None:
            return None

        def advance(self, token_id: int) -> None:
            pass

        def finished(self) -> bool:
            return False

    for seed in SEEDS:
        with pytest.raises(ValueError, match="validation error"):
            Report.model_validate_json(nano.text(Free(), seed)[0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda g: g.choices([]), r"got the choices \[\], expected at least one"),
        (lambda g: g.choices(["a", ""]), "none empty"),
        (lambda g: g.regex("["), r"the regular expression '\[' cannot be used: .*unclosed character class"),
        (lambda g: g.regex("a(?=b)"), "look-around.*not supported"),
        (lambda g: g.regex(r"[^\s\S]"), "cannot be met by any text"),
        (lambda g: g.regex(r"a[^\s\S]"), "cannot be met by any text"),
        (lambda g: g.json_schema("{"), "the JSON schema is no JSON"),
        (lambda g: g.json_schema("[1]"), r"the JSON schema is \[1\], expected an object"),
        (lambda g: g.json_schema({"type": "foo"}), "the JSON schema cannot be used: Invalid type: foo"),
        (lambda g: g.json_schema({"not": {}}), 'Unimplemented keys: ."not"'),
        (lambda g: g.json_schema({"type": "integer", "minimum": 5, "maximum": 3}), "Unsatisfiable schema: minimum"),
        (lambda g: g.json_schema({"enum": []}), "Unsatisfiable schema"),
        (lambda g: g.json_schema({"allOf": [{"type": "string"}, {"type": "integer"}]}), "incompatible types"),
        (lambda g: g.json_schema({"$ref": "https://example.org/x"}), "not present in a registry"),
        (
            lambda g: g.json_schema({"type": "object", "properties": {"a": False}, "required": ["a"]}),
            "required property 'a' is unsatisfiable",
        ),
    ],
)
def test_what_cannot_be_met_is_refused_before_anything_is_said(
    nano: Said, make: Callable[[Grammars], object], message: str
) -> None:
    with pytest.raises(ConstraintError, match=message) as caught:
        make(nano.grammars)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


# Thinking


def limit(said: Said, budget: int | None, then: Constraint | None = None) -> ThinkingLimit:
    markers = ThinkingTokens.of(said.tokenizer)
    assert markers is not None
    return ThinkingLimit(markers, said.width, said.stop_ids, budget, then)


@pytest.mark.parametrize("budget", [1, 5, 40])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_budget_ends_the_trace_and_the_answer_keeps_its_form(thinker: Said, budget: int, seed: int) -> None:
    constraint = limit(thinker, budget, thinker.grammars.choices(["yes", "no"]))
    begin, end = ThinkingTokens.of(thinker.tokenizer) or (0, 0)
    state = constraint.start()
    assert state.allowed() is not None and state.allowed()[begin]  # type: ignore[index]
    state.advance(begin)
    rng, thought = np.random.default_rng(seed), 0
    while state.thought is not None:
        token = int(rng.choice(np.flatnonzero(state.allowed())))
        assert token not in thinker.stop_ids and token != begin
        thought += token != end
        state.advance(token)
    assert thought <= budget
    text, reason = thinker.text(constraint, seed)
    assert text in ("yes", "no") and reason == "stop"


def test_after_the_budget_only_the_end_is_allowed(thinker: Said) -> None:
    state = limit(thinker, 3).start()
    begin, end = ThinkingTokens.of(thinker.tokenizer) or (0, 0)
    word = thinker.tokenizer.convert_tokens_to_ids("a")
    state.advance(begin)
    for _ in range(3):
        assert int(state.allowed().sum()) > 100  # type: ignore[union-attr]
        state.advance(word)
    assert torch.nonzero(state.allowed()).flatten().tolist() == [end]  # type: ignore[arg-type]
    state.advance(end)
    allowed = state.allowed()
    assert allowed is not None and not allowed[end] and allowed[word] and allowed[sorted(thinker.stop_ids)].all()
    state.advance(word)
    assert not state.allowed()[begin]  # type: ignore[index]


def test_off_forbids_the_trace_alone(thinker: Said) -> None:
    state = limit(thinker, 0).start()
    forbidden = torch.nonzero(~state.allowed()).flatten().tolist()  # type: ignore[operator]
    assert forbidden == sorted(ThinkingTokens.of(thinker.tokenizer) or ())
    state.advance(thinker.tokenizer.convert_tokens_to_ids("a"))
    assert torch.nonzero(~state.allowed()).flatten().tolist() == forbidden  # type: ignore[operator]
    assert not state.finished()


def test_no_limit_thinks_as_long_as_it_likes(thinker: Said) -> None:
    state = limit(thinker, None).start()
    begin, _ = ThinkingTokens.of(thinker.tokenizer) or (0, 0)
    state.advance(begin)
    for _ in range(1000):
        state.advance(thinker.tokenizer.convert_tokens_to_ids("a"))
    assert int(state.allowed().sum()) > 100  # type: ignore[union-attr]


# Stop strings


def test_an_answer_stops_at_a_string_across_tokens(gemma: MedGemma) -> None:
    tokenizer = gemma.tokenizer
    state = StopAt(tokenizer, None, ("heart is", "\n\n")).start()
    ids = tokenizer("The heart is large", add_special_tokens=False).input_ids
    finished = []
    for token in ids:
        state.advance(token)
        finished.append(state.finished())
    assert finished == sorted(finished) and finished[0] is False and finished[-1] is True
    said = tokenizer.decode(ids[: finished.index(True) + 1])
    assert cut_at(said, ("heart is", "\n\n")) == "The "
    assert cut_at("nothing", ("heart is",)) == "nothing"
    assert cut_at("a b a c", ("c", "b")) == "a "


def test_a_string_in_the_trace_stops_nothing(thinker: Said) -> None:
    tokenizer = thinker.tokenizer
    state = StopAt(tokenizer, ThinkingTokens.of(tokenizer), ("heart",)).start()
    for token in tokenizer("<unused94>the heart<unused95>The", add_special_tokens=False).input_ids:
        state.advance(token)
    assert not state.finished()
    for token in tokenizer(" heart", add_special_tokens=False).input_ids:
        state.advance(token)
    assert state.finished()


def test_a_stop_string_beside_a_grammar(nano: Said) -> None:
    inner = nano.grammars.regex("[ab]{20}")
    for seed in SEEDS:
        text, reason = nano.text(StopAt(nano.tokenizer, None, ("ba",), inner), seed)
        assert reason == "stop" and re.fullmatch("[ab]*", text)
        assert len(text) == 20 or "ba" in text[-4:]
