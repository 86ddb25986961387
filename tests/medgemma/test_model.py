"""The facade: plain transformers' answers, each picture encoded once, and refusals with their numbers."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from medgemma import MedGemma
from medgemma.asking import AnswerOptions
from medgemma.engine.engine import Event
from medgemma.prompts.chat import user_message
from tests import tiny
from tests.oracle import chat_inputs

QUESTIONS = ["Is there a pneumothorax?", "Name the organ, and describe all that is seen in this picture.", "View?"]


def answer_of_transformers(
    reference: Any, processor: Any, images: list[Any], question: str, max_new_tokens: int
) -> tuple[str, int]:
    """Text and number of tokens, by nothing but transformers' documented path."""
    inputs = chat_inputs(processor, images, question)
    whole = reference.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens)
    tokens = whole[0, inputs["input_ids"].shape[1] :]
    return processor.tokenizer.decode(tokens, skip_special_tokens=True).strip(), len(tokens)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_ask_answers_as_plain_transformers(
    gemma: MedGemma, reference: Any, processor: Any, images: list[Any], count: int
) -> None:
    for answer in gemma.ask(images[:count], QUESTIONS, max_new_tokens=32):
        stock = answer_of_transformers(reference, processor, images[:count], answer.question, 32)
        assert (answer.text, answer.tokens) == stock


def test_sixteen_tokens_an_image(tmp_path: Path, images: list[Any]) -> None:
    """One image of 16 tokens in a window of 24; the shape of the shipped model."""
    from transformers import AutoProcessor, Gemma3ForConditionalGeneration

    folder = tiny.decoder_folder(tmp_path, image_tokens=16)
    reference = Gemma3ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    [answer] = MedGemma.from_pretrained(folder).ask(images[:2], QUESTIONS[1], max_new_tokens=32)
    stock = answer_of_transformers(reference, AutoProcessor.from_pretrained(folder), images[:2], QUESTIONS[1], 32)
    assert (answer.text, answer.tokens) == stock


def test_many_questions_are_one_by_one(gemma: MedGemma, images: list[Any]) -> None:
    together = gemma.ask(images[:1], QUESTIONS, max_new_tokens=24)
    alone = [gemma.ask(images[:1], question, max_new_tokens=24)[0] for question in QUESTIONS]
    in_twos = gemma.ask(images[:1], QUESTIONS, max_new_tokens=24, batch_size=2)
    texts = [answer.text for answer in together]
    assert texts == [answer.text for answer in alone] == [answer.text for answer in in_twos]
    assert [a.tokens for a in together] == [a.tokens for a in alone]
    assert len(set(texts)) == len(QUESTIONS)


def test_requests_with_unlike_pictures_share_a_batch(gemma: MedGemma, images: list[Any]) -> None:
    requests = [(images[:1], QUESTIONS[0]), ([], QUESTIONS[1]), (images[1:3], QUESTIONS[2])]
    together = [answer.text for answer in gemma.ask_each(requests, max_new_tokens=24)]
    assert together == [gemma.ask(i, q, max_new_tokens=24)[0].text for i, q in requests]


def test_order_and_identity_of_pictures_matter(gemma: MedGemma, images: list[Any]) -> None:
    asked = [images[:1], images[1:2], images[:2], images[1::-1]]
    assert len({gemma.ask(pictures, QUESTIONS[1], max_new_tokens=32)[0].text for pictures in asked}) == 4


def test_a_picture_goes_through_the_tower_once(
    gemma: MedGemma, images: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    tower, seen = gemma.model.model.vision_tower, []
    forward = tower.forward

    def counted(pixel_values: torch.Tensor, **kwargs: Any) -> Any:
        seen.append(len(pixel_values))
        return forward(pixel_values=pixel_values, **kwargs)

    monkeypatch.setattr(tower, "forward", counted)
    gemma.ask([images[0], images[1], images[0]], QUESTIONS, max_new_tokens=2)
    assert seen == [2]
    gemma.ask(images[:2], "Once more?", max_new_tokens=2)
    assert seen == [2]  # remembered
    gemma.ask(images[2:], QUESTIONS[0], max_new_tokens=2)
    assert seen == [2, 1]
    list(gemma.stream([user_message("And now?", 1)], images[2:], max_new_tokens=2))
    assert seen == [2, 1]


def test_forgotten_pictures_are_encoded_again(
    gemma: MedGemma, images: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gemma.engine.features, "capacity", 1)
    first = [gemma.ask([image], QUESTIONS[0], max_new_tokens=16)[0].text for image in images]
    assert [gemma.ask([image], QUESTIONS[0], max_new_tokens=16)[0].text for image in images] == first
    assert len(gemma.engine.features._features) == 1


@pytest.mark.parametrize("question", QUESTIONS)
def test_streamed_is_whole(gemma: MedGemma, images: list[Any], question: str) -> None:
    pieces = list(gemma.stream([user_message(question, 1)], images[:1], max_new_tokens=32))
    assert len(pieces) > 3
    assert "".join(pieces).strip() == gemma.ask(images[:1], question, max_new_tokens=32)[0].text


def test_streamed_bytes_are_whole_characters(gemma: MedGemma, monkeypatch: pytest.MonkeyPatch) -> None:
    """Characters of several tokens, one after a plain byte, one never finished."""
    text = "a é€ b 𝄞"
    ids = gemma.tokenizer(text, add_special_tokens=False).input_ids
    cut = [*ids[:-1], 266, *ids[:2], ids[-2]]
    monkeypatch.setattr(gemma.engine, "stream", lambda _: (Event(0, 0, i, None) for i in cut))
    pieces = list(gemma.stream([user_message("?", 0)]))
    assert "".join(pieces) == gemma.tokenizer.decode(cut)
    assert any("é€" in piece for piece in pieces)


def test_finish_reason_and_tokens(gemma: MedGemma, images: list[Any]) -> None:
    cut = gemma.ask(images[:1], QUESTIONS[0], max_new_tokens=3)[0]
    assert (cut.finish_reason, cut.tokens) == ("length", 3)
    first = gemma.tokenizer(gemma.ask(images[:1], QUESTIONS[0], max_new_tokens=1)[0].text).input_ids
    gemma.engine.rows.stop_ids = frozenset(first)
    stopped = gemma.ask(images[:1], QUESTIONS[0], max_new_tokens=3)[0]
    assert (stopped.finish_reason, stopped.tokens) == ("stop", 1)


def test_a_prompt_that_does_not_fit_is_refused_with_the_numbers(gemma: MedGemma, images: list[Any]) -> None:
    with pytest.raises(ValueError, match=r"the prompt is [\d,]+ tokens \(1 images of 4\)") as caught:
        gemma.ask(images[:1], "pneumothorax? " * 7143)  # 100,000 characters
    assert re.search(r"asks for 256 more; .* holds 2,048; shorten the question", str(caught.value))
    with pytest.raises(ValueError, match="holds 2,048"):
        gemma.ask(images[:1] * 250, "How many?")
    with pytest.raises(ValueError, match="asks for 2,048 more"):
        gemma.ask(images[:1], "How many?", max_new_tokens=2048)


def test_control_tokens_in_a_question_are_refused(gemma: MedGemma, images: list[Any]) -> None:
    with pytest.raises(ValueError, match="<start_of_image>; remove it"):
        gemma.ask(images[:1], "What is <start_of_image>?")


@pytest.mark.parametrize("given", [0, 1, 3])
def test_other_than_one_picture_for_each_image_part_is_refused(gemma: MedGemma, images: list[Any], given: int) -> None:
    with pytest.raises(ValueError, match=f"{given} pictures for 2 image parts"):
        next(gemma.stream([user_message("Compare.", 2)], images[:given]))


def test_answers_name_their_files(gemma: MedGemma, images: list[Any], tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(2)]
    for image, path in zip(images, paths, strict=False):
        image.save(path)
    [answer] = gemma.ask(paths, "View?", max_new_tokens=24)
    assert answer.files == tuple(map(str, paths))
    assert answer.text == gemma.ask(images[:2], "View?", max_new_tokens=24)[0].text


def test_a_checkpoint_without_a_tensor_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "broken"
    shutil.copytree(tiny_folder, folder)
    tensors = load_file(folder / "model.safetensors")
    lost = "vision_tower.vision_model.post_layernorm.weight"
    save_file({k: v for k, v in tensors.items() if k != lost}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"1 missing keys: .*post_layernorm.weight"):
        MedGemma.from_pretrained(folder)


def test_another_model_type_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    shutil.copytree(tiny_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "siglip"}))
    with pytest.raises(ValueError, match="model_type 'siglip', expected 'gemma3'"):
        MedGemma.from_pretrained(folder)


def test_fingerprint_tells_weights_apart(gemma: MedGemma, tmp_path: Path) -> None:
    other = MedGemma.from_pretrained(tiny.decoder_folder(tmp_path, seed=2))
    assert gemma.fingerprint != other.fingerprint
    assert gemma.fingerprint == MedGemma.from_pretrained(gemma.folder).fingerprint


def test_identity_is_of_weights_files_adapter_and_policy(gemma: MedGemma, tmp_path: Path) -> None:
    folder = shutil.copytree(gemma.folder, tmp_path / "model")
    adapter = tiny.turning_adapter(gemma.folder, tmp_path / "adapter")

    def load(**options: Any) -> MedGemma:
        return MedGemma.from_pretrained(folder, **options)

    seen = {gemma.identity, load(policy="report").identity, load(adapter=adapter).identity}
    assert load().identity == gemma.identity and len(seen) == 3
    weights = load(adapter=adapter).fingerprint
    (adapter / "README.json").write_text("{}")  # stands for any file of the adapter's
    assert load(adapter=adapter).fingerprint == weights and load(adapter=adapter).identity not in seen
    for path in [*folder.glob("*_config.json"), folder / "tokenizer.json", folder / "chat_template.jinja"]:
        path.write_text(path.read_text() + "\n")
        mended = load()
        assert mended.identity not in seen and mended.fingerprint == gemma.fingerprint, path.name
        seen.add(mended.identity)


def test_weights_are_hashed_once_a_load(gemma: MedGemma, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[Path] = []
    monkeypatch.setattr("medgemma.model.fingerprint", lambda folder: hashed.append(folder) or "f")
    assert gemma.identity.startswith("f+") and gemma.fingerprint == "f" and gemma.identity
    assert hashed == [gemma.folder]


def test_an_adapter_is_asked_for_by_name(gemma: MedGemma, images: list[Any], tmp_path: Path) -> None:
    tiny.turning_adapter(gemma.folder, tmp_path)
    weight = gemma.model.model.language_model.layers[6].mlp.down_proj.weight
    before = gemma.ask(images[:1], QUESTIONS, max_new_tokens=16)
    assert gemma.load_adapter(tmp_path, "turned") == "turned"
    adapted = gemma.ask(images[:1], QUESTIONS, max_new_tokens=16, options=AnswerOptions(adapter="turned"))
    streamed = gemma.stream(
        [user_message(QUESTIONS[1], 1)], images[:1], max_new_tokens=16, options=AnswerOptions(adapter="turned")
    )
    assert "".join(streamed).strip() == adapted[1].text
    assert [a.text for a in gemma.ask(images[:1], QUESTIONS, max_new_tokens=16)] == [a.text for a in before]
    with torch.no_grad():
        weight.neg_()
    gemma.engine.weights_changed()
    turned = gemma.ask(images[:1], QUESTIONS, max_new_tokens=16)
    assert [a.text for a in adapted] == [a.text for a in turned] != [a.text for a in before]


def test_a_model_loaded_with_an_adapter_answers_with_it(gemma: MedGemma, images: list[Any], tmp_path: Path) -> None:
    folder = tiny.turning_adapter(gemma.folder, tmp_path / "turned")
    named = MedGemma.from_pretrained(gemma.folder)
    options = AnswerOptions(adapter=named.load_adapter(folder))
    loaded = MedGemma.from_pretrained(gemma.folder, adapter=folder)
    message = [user_message(QUESTIONS[1], 1)]

    def said(model: MedGemma, options: AnswerOptions | None) -> list[Any]:
        answers = model.ask(images[:1], QUESTIONS, max_new_tokens=16, options=options)
        streamed = "".join(model.stream(message, images[:1], max_new_tokens=16, options=options))
        return [
            [a.text for a in answers],
            streamed,
            model.score(images[:1], QUESTIONS[0], ["yes", "no"], options=options),
        ]

    assert said(loaded, None) == said(named, options)
    assert all(one != other for one, other in zip(said(loaded, None), said(named, None), strict=True))
    assert gemma.fingerprint == named.fingerprint != loaded.fingerprint
