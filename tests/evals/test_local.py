"""Items on the engine: the same answers as asking one at a time, and likelihoods as plain transformers gives them."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from evals.generation import Generation
from evals.items import Item
from evals.local import answer_on_engine, continuation, score_on_engine
from evals.outputs import Output
from medgemma import MedGemma
from tests.nano import needs_nano

pytestmark = needs_nano

SHORT = Generation(max_new_tokens=12)


@pytest.fixture(scope="module")
def model() -> MedGemma:
    return MedGemma.from_pretrained("nano", device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> list[Item]:
    """Three pictures with two questions each, and one question without a picture."""
    folder = tmp_path_factory.mktemp("pictures")
    found = []
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 255, (40, 50), dtype=np.uint8)
        PIL.Image.fromarray(pixels).save(folder / f"{number}.png")
        for question in ("Which imaging modality is this?", "Is this an X-ray?"):
            name = f"{number}:{question}"
            found.append(Item(name, (str(folder / f"{number}.png"),), question, "", "open", name))
    return [*found, Item("text", (), "Say something about the lung.", "", "open", "text")]


def by_id(outputs: Iterator[Output]) -> dict[str, Output]:
    listed = list(outputs)
    found = {output.item_id: output for output in listed}
    assert len(found) == len(listed)
    return found


def test_answers_are_those_of_asking_one_at_a_time(model: MedGemma, items: list[Item]) -> None:
    found = by_id(answer_on_engine(items, model, SHORT))
    assert set(found) == {item.item_id for item in items}
    for item in items:
        (alone,) = model.ask(list(item.files), item.prompt, max_new_tokens=12)
        output = found[item.item_id]
        assert (output.text, output.tokens, output.n_cut) == (alone.text, alone.tokens, alone.finish_reason == "length")
    turned = by_id(answer_on_engine(items[::-1], model, SHORT))
    assert {name: output.text for name, output in turned.items()} == {n: output.text for n, output in found.items()}


def test_a_bad_item_fails_alone_by_its_reason(model: MedGemma, items: list[Item], tmp_path: Path) -> None:
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n")
    bad = [
        replace(items[0], item_id="cut", files=(str(tmp_path / "cut.png"),)),
        replace(items[0], item_id="absent", files=(str(tmp_path / "absent.png"),)),
        replace(items[6], item_id="long", prompt="lung " * 3000),
        replace(items[6], item_id="control", prompt="a <end_of_turn> b"),
    ]
    found = by_id(answer_on_engine([bad[0], items[0], *bad[1:], items[1]], model, SHORT))
    reasons = {name: output.error for name, output in found.items() if output.error}
    assert set(reasons) == {"cut", "absent", "long", "control"}
    assert "cut.png" in reasons["cut"] and "absent.png" in reasons["absent"]
    assert "shorten" in reasons["long"] and "control token" in reasons["control"]


def test_draws_are_seeded_and_all_there(model: MedGemma, items: list[Item]) -> None:
    how = Generation(max_new_tokens=12, n_samples=3, temperature=1.5, seed=1)
    first, again, other = (by_id(answer_on_engine(items[:3], model, each)) for each in (how, how, replace(how, seed=2)))
    assert {name: output.samples for name, output in first.items()} == {n: o.samples for n, o in again.items()}
    assert {name: output.samples for name, output in first.items()} != {n: o.samples for n, o in other.items()}
    for output in first.values():
        assert len(output.samples) == 3 and output.text == output.samples[0] and output.tokens > 3


def test_leaving_early_leaves_nothing_running(model: MedGemma, items: list[Item]) -> None:
    outputs = answer_on_engine(items, model, SHORT)
    next(outputs)
    outputs.close()  # type: ignore[attr-defined]
    assert model.engine.num_running == model.engine.num_waiting == 0 and model.engine.step() == []


def test_a_model_without_thinking_tokens_is_not_asked_to_think(model: MedGemma, items: list[Item]) -> None:
    with pytest.raises(ValueError, match="nano has no thinking tokens and cannot think"):
        next(answer_on_engine(items, model, Generation(thinking=True, thinking_tokens=5)))


def test_likelihoods_are_those_of_a_forward_pass_each(model: MedGemma) -> None:
    """The oracle: all tokens of prompt and choice through transformers, one choice at a time, without any cache."""
    import torch

    prompts = ["The heart pumps", "Question: which organ breathes? A. lung B. foot\nAnswer: ", "The heart is"]
    choices = ((" blood", " air and water"), (" A", " B"), (" red", " a muscle"))
    asked = [
        Item(f"i{n}", (), prompt, "A", "closed", f"i{n}", {}, choices=texts)
        for n, (prompt, texts) in enumerate(zip(prompts, choices, strict=True))
    ]
    found = by_id(score_on_engine(asked, model))
    for item in asked:
        for choice, score in zip(item.choices, found[item.item_id].log_likelihoods, strict=True):
            before, tail = continuation(model.tokenizer, item.prompt, choice)
            head = [model.tokenizer.bos_token_id, *model.tokenizer(before, add_special_tokens=False).input_ids]
            with torch.inference_mode():
                logits = model.model(input_ids=torch.tensor([head + tail])).logits[0, len(head) - 1 : -1].double()
            expected = logits.log_softmax(-1)[torch.arange(len(tail)), tail].sum()
            assert score == pytest.approx(float(expected), abs=1e-3)


def test_a_choice_that_cannot_be_scored_fails_alone(model: MedGemma) -> None:
    good = Item("good", (), "The heart pumps", "A", "closed", "g", {}, choices=(" blood", " air"))
    bad = [replace(good, item_id="long", prompt="lung " * 3000), replace(good, item_id="empty", choices=("", " air"))]
    found = by_id(score_on_engine([bad[0], good, bad[1]], model))
    assert len(found["good"].log_likelihoods) == 2 and not found["good"].error
    assert found["long"].error and found["empty"].error


@pytest.mark.parametrize(
    ("prompt", "before", "choice"), [("Answer:", "Answer:", " yes"), ("Answer: ", "Answer:", "yes"), ("a\n", "a", "b")]
)
def test_white_space_where_prompt_and_choice_meet_goes_to_the_choice(
    model: MedGemma, prompt: str, before: str, choice: str
) -> None:
    kept, tokens = continuation(model.tokenizer, prompt, choice)
    assert kept == before and model.tokenizer.decode(tokens).strip() == choice.strip()
    assert (
        model.tokenizer(before + prompt[len(before) :] + choice, add_special_tokens=False).input_ids[-len(tokens) :]
        == tokens
    )
