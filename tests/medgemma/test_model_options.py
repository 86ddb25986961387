"""Thinking, forms, samples and stops through the facade and the real engine, whole and streamed."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medgemma import MedGemma
from medgemma.asking import AnswerOptions
from medgemma.engine.engine import Event
from medgemma.engine.request import Completion, Sampling
from medgemma.prompts.chat import user_message
from medgemma.prompts.content import VolumeView
from medgemma.prompts.pan_and_scan import PanAndScan
from medsiglip.imaging import Picture, Volume
from tests import tiny
from tests.medgemma.thinker import thinking_folder

QUESTION = "Is there a pneumothorax?"


@pytest.fixture(scope="module")
def thinker(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> MedGemma:
    return MedGemma.from_pretrained(thinking_folder(tiny_folder, tmp_path_factory.mktemp("thinker")), device="cpu")


def scripted(monkeypatch: pytest.MonkeyPatch, gemma: MedGemma, text: str, finish_reason: Any = "stop") -> None:
    """Let the engine say one text."""
    ids = gemma.tokenizer(text, add_special_tokens=False).input_ids
    done = Completion(tuple(ids), (-1.0,) * len(ids), finish_reason)
    events = [Event(0, 0, i, done if n == len(ids) - 1 else None) for n, i in enumerate(ids)]
    monkeypatch.setattr(gemma.engine, "stream", lambda request: iter(events))
    monkeypatch.setattr(gemma.engine, "generate", lambda requests: [[done] for _ in requests])


def test_choices_and_json_of_a_random_model(gemma: MedGemma, images: list[Any]) -> None:
    choices = AnswerOptions(form=gemma.asking.grammars.choices(["left", "right", "both sides"]))
    for answer in gemma.ask(images[:1], [QUESTION, "Where?", "View?"], options=choices):
        assert answer.text in ("left", "right", "both sides") and answer.finish_reason == "stop"
    schema = {
        "type": "object",
        "properties": {"a": {"type": "boolean"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    form = AnswerOptions(
        form=gemma.asking.grammars.json_schema(schema), sampling=Sampling(temperature=2.0, num_samples=5)
    )
    answers = gemma.ask(images[:1], QUESTION, max_new_tokens=200, options=form)
    assert [a.sample for a in answers] == [0, 1, 2, 3, 4]
    assert all(isinstance(json.loads(a.text)["a"], bool) for a in answers if a.finish_reason == "stop")
    assert any(a.finish_reason == "stop" for a in answers)


def test_a_free_and_a_formed_request_share_a_batch(gemma: MedGemma, images: list[Any]) -> None:
    """The form of one changes nothing for the others."""
    asking, options = gemma.asking, AnswerOptions()
    formed = AnswerOptions(form=asking.grammars.choices(["yes", "no"]))
    free = [asking.question([], q, options, 24) for q in (QUESTION, "View?")]
    mixed = [free[0], asking.question([], QUESTION, formed, 24), free[1]]
    alone = [gemma.engine.generate([one.request])[0][0].token_ids for one in free]
    together = [samples[0].token_ids for samples in gemma.engine.generate([one.request for one in mixed])]
    assert [together[0], together[2]] == alone
    assert asking.reply(mixed[1], gemma.engine.generate([mixed[1].request])[0][0]).text in ("yes", "no")


def test_sampling_repeats_with_its_seed(gemma: MedGemma, images: list[Any]) -> None:
    def said(seed: int) -> list[str]:
        options = AnswerOptions(sampling=Sampling(temperature=1.5, top_k=50, top_p=0.95, seed=seed, num_samples=3))
        return [a.text for a in gemma.ask(images[:1], QUESTION, max_new_tokens=12, options=options)]

    assert said(1) == said(1) != said(2)
    assert len(set(said(1))) == 3


def test_a_budget_holds_in_a_real_answer(thinker: MedGemma, images: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A random model is made to begin a trace; it thinks no longer than it may, and then answers in form."""
    begin, _ = thinker.asking.markers or (0, 0)
    form = thinker.asking.grammars.choices(["yes", "no"])

    class Begun:
        def __init__(self, inner: Any) -> None:
            self.inner, self.first = inner, True

        def start(self) -> Any:
            return Begun(self.inner.start())

        def allowed(self) -> Any:
            mask = self.inner.allowed()
            return (mask & (torch.arange(len(mask)) == begin)) if self.first else mask

        def advance(self, token_id: int) -> None:
            self.first = False
            self.inner.advance(token_id)

        def finished(self) -> bool:
            return bool(self.inner.finished())

    asked = thinker.asking.question([], QUESTION, AnswerOptions(thinking=5, form=form), 64)
    [[completion]] = thinker.engine.generate([replace(asked.request, constraint=Begun(asked.request.constraint))])
    reply = thinker.asking.reply(asked, completion)
    assert reply.text in ("yes", "no") and reply.thinking is not None and completion.finish_reason == "stop"
    _, end = thinker.asking.markers or (0, 0)
    assert completion.token_ids.index(end) <= 6


@pytest.mark.parametrize(
    ("said", "thinking", "text"),
    [
        ("<unused94>thought\nIt is large.<unused95>Yes", "It is large.", "Yes"),
        ("<unused94>thought\nIt is", "It is", ""),
        ("No", None, "No"),
    ],
)
def test_no_trace_is_streamed(
    thinker: MedGemma, monkeypatch: pytest.MonkeyPatch, said: str, thinking: str | None, text: str
) -> None:
    scripted(monkeypatch, thinker, said)
    pieces = list(thinker.stream([user_message("?", 0)]))
    assert "".join(pieces) == text
    reply = thinker.reply([user_message("?", 0)])
    assert (reply.text, reply.thinking) == (text, thinking)
    [answer] = thinker.ask([], "?")
    assert (answer.text, answer.thinking) == (text, thinking)


@pytest.mark.parametrize("stop", ["heart", "is not", "lungs are clear", "nowhere"])
def test_streamed_stops_are_those_of_the_whole(gemma: MedGemma, monkeypatch: pytest.MonkeyPatch, stop: str) -> None:
    sentence = "The lungs are clear; the heart is not enlarged."
    scripted(monkeypatch, gemma, sentence)
    options = AnswerOptions(stops=(stop,))
    streamed = "".join(gemma.stream([user_message("?", 0)], options=options))
    assert streamed == sentence.split(stop)[0]
    assert gemma.reply([user_message("?", 0)], options=options).text == streamed.strip()


def test_a_failed_completion_is_an_error(gemma: MedGemma, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = Completion((), (), "error", "out of memory")
    monkeypatch.setattr(gemma.engine, "stream", lambda request: iter([Event(0, 0, None, failed)]))
    monkeypatch.setattr(gemma.engine, "generate", lambda requests: [[failed] for _ in requests])
    for ask in (lambda: gemma.ask([], "?"), lambda: list(gemma.stream([user_message("?", 0)]))):
        with pytest.raises(ValueError, match="out of memory"):
            ask()


def test_a_volume_is_asked_about_slice_by_slice(gemma: MedGemma) -> None:
    affine = np.diag([5.0, 0.5, 0.5, 1.0])[[2, 1, 0, 3]]
    voxels = np.arange(3 * 6 * 8).reshape(3, 6, 8).astype(np.int16)
    volume = Volume(voxels, "HU", affine, "ct", "0" * 64)
    [answer] = gemma.ask(volume, "Is there a lesion?", max_new_tokens=4)
    assert answer.files == ("ct",) and answer.policies == ("ct-medgemma-1.5",) and answer.resize == "huggingface"
    [other] = gemma.ask([volume], "?", max_new_tokens=4, options=AnswerOptions(view=VolumeView("report")))
    assert other.policies == ("ct-report",)


def test_pan_and_scan_and_a_system_turn_reach_the_prompt(gemma: MedGemma) -> None:
    picture = Picture.from_array(tiny.picture_array(0, 300, 800))
    options = AnswerOptions(system="Be brief.", pan_and_scan=PanAndScan())
    asked = gemma.asking.question([picture], "?", options, 4)
    assert len(asked.request.pictures) == 4
    assert "Be brief." in gemma.tokenizer.decode(asked.request.prompt.input_ids)
    [answer] = gemma.ask(picture, "?", max_new_tokens=4, options=options)
    assert answer.tokens >= 1


def test_choices_are_scored_as_a_forward_pass_does(gemma: MedGemma, images: list[Any]) -> None:
    """Against plain transformers: the sum of the log-probabilities of each choice's tokens behind the prompt."""
    choices = ["left", "right side", "no"]
    scores = gemma.score(images[:1], QUESTION, choices)
    asked = gemma.asking.question([Picture.from_pil(images[0])], QUESTION, AnswerOptions(), 8)
    prompt = asked.request.prompt
    values = gemma.preprocessing.pixel_values([gemma.preprocessing.resized(asked.request.pictures[0])])
    for choice, score in zip(choices, scores, strict=True):
        ids = gemma.tokenizer(choice, add_special_tokens=False).input_ids
        with torch.inference_mode():
            logits = gemma.model(
                input_ids=torch.tensor([[*prompt.input_ids, *ids]]),
                token_type_ids=torch.tensor([[*prompt.token_type_ids, *[0] * len(ids)]]),
                pixel_values=values,
            ).logits[0]
        logprobs = logits.log_softmax(-1)[len(prompt.input_ids) - 1 : -1]
        expected = sum(float(row[i]) for row, i in zip(logprobs, ids, strict=True))
        assert score.logprob == pytest.approx(expected, abs=1e-4) and score.num_tokens == len(ids)
    with pytest.raises(ValueError, match="empty"):
        gemma.score(images[:1], QUESTION, ["left", ""])
