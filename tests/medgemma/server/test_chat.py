"""OpenAI's own client against the server: what it says is what a local `ask` says."""

import io
import json
import time
from pathlib import Path
from typing import Any

import pytest
from openai import BadRequestError, NotFoundError, OpenAI
from PIL import Image

from medgemma import AnswerOptions, MedGemma, Sampling
from tests.medgemma.server.conftest import Running, data_url, encoded, png
from tests.nano import needs_nano

pytestmark = needs_nano
QUESTION = "Which imaging modality is this?"
DIGITS = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 9}, "minItems": 700}


def client(served: Running, path: str = "/v1") -> OpenAI:
    return OpenAI(base_url=served.url + path, api_key="x", max_retries=0)


def ask(served: Running, content: Any, **options: Any) -> Any:
    messages: Any = [{"role": "user", "content": content}]
    options = {"temperature": 0, "max_tokens": 32, **options}
    return client(served).chat.completions.create(model="nano", messages=messages, **options)


def shown(data: bytes, kind: str = "image/png") -> Any:
    return {"type": "image_url", "image_url": {"url": data_url(data, kind)}}


def text(words: str = QUESTION) -> Any:
    return {"type": "text", "text": words}


@pytest.mark.parametrize("path", ["/v1", "/v1/"])
def test_a_picture_is_answered_as_locally(served: Running, nano: MedGemma, path: str) -> None:
    local = nano.ask(Image.open(io.BytesIO(png())), QUESTION, max_new_tokens=32)[0]
    [name, _] = [model.id for model in client(served, path).models.list().data]
    messages: Any = [{"role": "user", "content": [shown(png()), text()]}]
    reply = client(served, path).chat.completions.create(model=name, messages=messages, max_tokens=32)
    assert reply.choices[0].message.content == local.text and reply.choices[0].finish_reason == local.finish_reason
    prompt = nano.asking.question([Image_of(png())], QUESTION, AnswerOptions(), 32).request.prompt
    assert reply.usage is not None and reply.usage.prompt_tokens == len(prompt.input_ids)
    assert sum(prompt.token_type_ids) == nano.image_tokens.tokens_per_image
    assert reply.usage.completion_tokens == local.tokens


def Image_of(data: bytes) -> Any:
    from medsiglip.imaging import Picture

    return Picture.from_pil(Image.open(io.BytesIO(data)))


def test_kinds_of_pictures_and_places(served: Running) -> None:
    file = io.BytesIO()
    Image.open(io.BytesIO(png())).convert("L").convert("I;16").save(file, "PNG")
    jpeg = io.BytesIO()
    Image.open(io.BytesIO(png())).save(jpeg, "JPEG")
    for content in (
        [shown(png()), text()],
        [text(), shown(png())],
        [shown(jpeg.getvalue(), "image/jpeg"), text()],
        [shown(file.getvalue()), text()],
        [{"type": "image_bytes", "image_bytes": {"input_bytes": encoded(png())}}, text()],
        [{"type": "input_image", "image_url": data_url(png())}, text()],
    ):
        assert ask(served, content).choices[0].message.content


def test_a_system_turn_may_be_empty_and_content_a_text(served: Running) -> None:
    for system in ("", "Be brief."):
        messages = [{"role": "system", "content": system}, {"role": "user", "content": "Is this an X-ray?"}]
        assert served.post("/v1/chat/completions", {"messages": messages}).status_code == 200


def slices(ct_file: Path, count: int) -> list[bytes]:
    from pydicom import dcmread

    made = []
    for number in range(count):
        dataset = dcmread(ct_file)
        dataset.ImagePositionPatient[2] += 5 * number
        dataset.SOPInstanceUID += f".{number}"
        file = io.BytesIO()
        dataset.save_as(file)
        made.append(file.getvalue())
    return made


def test_instances_of_a_series_are_one_volume(served: Running, nano: MedGemma, ct_file: Path, tmp_path: Path) -> None:
    """Three slices in one part, out of order: SLICE k as `medgemma ask` of the folder shows it."""
    files = slices(ct_file, 3)
    for number, data in enumerate(files):
        (tmp_path / f"{number}.dcm").write_bytes(data)
    local = nano.ask(str(tmp_path), QUESTION, max_new_tokens=16)[0]
    order = [files[2], files[0], files[1]]
    for part in (
        {"type": "image_dicom", "image_dicom": {"input_bytes": [encoded(data) for data in order]}},
        {"type": "image_dicom", "image_dicom": {"dicom_source": [data_url(d, "application/dicom") for d in order]}},
    ):
        reply = ask(served, [part, text()], max_tokens=16)
        assert reply.choices[0].message.content == local.text
        assert reply.usage.prompt_tokens == served.post("/v1/chat/completions", {
            "messages": [{"role": "user", "content": [part, text()]}], "max_tokens": 16,
        }).json()["usage"]["prompt_tokens"] > 3 * nano.image_tokens.tokens_per_image  # fmt: skip


@pytest.mark.parametrize("seed", [0, 1])
def test_a_stream_joins_to_the_answer(served: Running, seed: int) -> None:
    options: dict[str, Any] = {"max_tokens": 24, "n": 2, "temperature": 1.0, "seed": seed}
    whole = ask(served, "Describe the lungs.", **options)
    stream = ask(served, "Describe the lungs.", stream=True, stream_options={"include_usage": True}, **options)
    texts, reasons, usage = ["", ""], [None, None], None
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            reasons[choice.index] = choice.finish_reason or reasons[choice.index]
    assert texts == [choice.message.content for choice in whole.choices] and texts[0] != texts[1]
    assert reasons == [choice.finish_reason for choice in whole.choices]
    assert usage == whole.usage


def test_sampling_fields_are_the_engines(served: Running, nano: MedGemma) -> None:
    penal = {"frequency_penalty": 1.5, "presence_penalty": 0.5}
    form = nano.asking.grammars.json_schema(DIGITS)
    options = {
        "max_tokens": 40,
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": DIGITS}},
    }
    local = nano.ask([], "Count.", max_new_tokens=40, options=AnswerOptions(Sampling(**penal), form=form))[0]
    plain = nano.ask([], "Count.", max_new_tokens=40, options=AnswerOptions(form=form))[0]
    assert ask(served, "Count.", **options, **penal).choices[0].message.content == local.text != plain.text
    neutral = {"repeat_penalty": 1.0, "repetition_penalty": 1.0, "min_p": 0, "typical_p": 1.0, "top_k": -1}
    assert ask(served, "Count.", **options, extra_body=neutral).choices[0].message.content == plain.text
    for field in ("typical_p", "mirostat", "logit_bias"):
        value: Any = {"5": 1} if field == "logit_bias" else 0.5
        with pytest.raises(BadRequestError, match=f"{field}: is not supported") as refused:
            ask(served, "Hi", extra_body={field: value})
        assert refused.value.param == field


def test_logprobs_name_what_else_was_likely(served: Running) -> None:
    reply = ask(served, QUESTION, logprobs=True, top_logprobs=3)
    content = reply.choices[0].logprobs.content
    assert len(content) == reply.usage.completion_tokens
    for token in content:  # greedy: what was said was the likeliest
        assert len(token.top_logprobs) == 3 and token.top_logprobs[0].logprob == token.logprob
        assert token.top_logprobs[0].token == token.token


def test_stop_strings_are_cut(served: Running) -> None:
    whole = ask(served, "Describe the lungs.", max_tokens=64).choices[0].message.content
    stop = whole.split()[1]
    cut = ask(served, "Describe the lungs.", max_tokens=64, stop=[stop])
    assert cut.choices[0].message.content == whole[: whole.index(stop)].strip()
    pieces = [c.choices[0].delta.content or "" for c in ask(served, "Describe the lungs.", stop=[stop], stream=True)]
    assert "".join(pieces) == cut.choices[0].message.content


def test_json_is_valid_or_said_to_be_cut(served: Running) -> None:
    schema = {
        "type": "object",
        "properties": {"view": {"enum": ["PA", "AP"]}, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
        "required": ["view", "age"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "film", "schema": schema}}
    for limit in (3, 8, 400):
        choice = ask(served, "Which view?", max_tokens=limit, response_format=form).choices[0]
        if choice.finish_reason == "stop":
            found = json.loads(choice.message.content)
            assert set(found) == {"view", "age"} and found["view"] in ("PA", "AP") and 0 <= found["age"] <= 99
        else:
            assert choice.finish_reason == "length"
    assert choice.finish_reason == "stop"
    with pytest.raises(BadRequestError, match="JSON schema cannot be used"):
        ask(served, "Hi", response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": []}}})


def test_a_loop_is_ended_and_said(served: Running) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "digits", "schema": DIGITS}}
    looping: dict[str, Any] = {"frequency_penalty": -2, "extra_body": {"loop_guard": 4}}  # rewards what was said
    choice = ask(served, "Count.", max_tokens=1000, response_format=form, **looping).choices[0]
    assert (choice.finish_reason, choice.stop_reason) == ("length", "loop")


def test_wrong_names_and_parts_have_their_place(served: Running) -> None:
    with pytest.raises(NotFoundError, match="ask for nano") as refused:
        client(served).chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "x"}])
    assert refused.value.code == "model_not_found"
    with pytest.raises(BadRequestError, match="message 1 part 2: not a picture"):
        ask(served, [text(), shown(b"no picture")])
    with pytest.raises(BadRequestError, match="message 1 part 1: is of type image_gcs, expected text"):
        ask(served, [{"type": "image_gcs", "image_gcs": {}}])
    with pytest.raises(BadRequestError, match="message 1 part 1: the address is no base64 data URL"):
        ask(served, [{"type": "image_dicom", "image_dicom": {"dicom_source": "https://pacs/studies/1"}}])
    with pytest.raises(BadRequestError, match="asks for 30,000 more"):
        ask(served, "x", max_tokens=30000)


def test_a_client_that_leaves_frees_its_rows_within_a_step(served: Running, nano: MedGemma) -> None:
    slow = nano.engine.step
    steps = []

    def step() -> Any:
        steps.append(1)
        time.sleep(0.02)
        return slow()

    nano.engine.step = step  # type: ignore[method-assign]
    try:
        body = {"messages": [{"role": "user", "content": "Describe."}], "max_tokens": 1500, "stream": True}
        body["response_format"] = {"type": "json_schema", "json_schema": {"schema": DIGITS}}
        with served.client() as http, http.stream("POST", "/v1/chat/completions", json=body) as reply:
            lines = iter(line for line in reply.iter_lines() if '"content": "' in line)
            assert [next(lines) for _ in range(5)] and nano.engine.num_running == 1
        until = time.monotonic() + 5
        while nano.engine.num_running and time.monotonic() < until:
            time.sleep(0.01)
        assert nano.engine.num_running == 0 and len(steps) < 100
    finally:
        nano.engine.step = slow  # type: ignore[method-assign]
    assert served.backend.places.taken == 0
