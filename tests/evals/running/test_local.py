"""Items on the engine: the same answers as asking one at a time, and what fails fails alone."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from evals.generation import Generation
from evals.items import Item
from evals.outputs import Output
from evals.running.local import answer_on_engine
from medgemma import MedGemma
from medgemma.engine import Request
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


def test_no_more_pictures_are_held_than_said(
    model: MedGemma, items: list[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two at most: an item is opened only when another is done, and the answers are the same."""
    whole = by_id(answer_on_engine(items, model, SHORT))
    monkeypatch.setattr("evals.running.local.PICTURES_AHEAD", 2)
    most = 0
    submit = model.engine.submit

    def counted(request: Request) -> int:
        nonlocal most
        most = max(most, model.engine.num_waiting + model.engine.num_running + 1)
        return submit(request)

    monkeypatch.setattr(model.engine, "submit", counted)
    found = by_id(answer_on_engine(items, model, SHORT))
    assert {name: output.text for name, output in found.items()} == {n: output.text for n, output in whole.items()}
    assert most == 2


def test_a_model_without_thinking_tokens_is_not_asked_to_think(model: MedGemma, items: list[Item]) -> None:
    with pytest.raises(ValueError, match="nano has no thinking tokens and cannot think"):
        next(answer_on_engine(items, model, Generation(thinking=True, thinking_tokens=5)))
