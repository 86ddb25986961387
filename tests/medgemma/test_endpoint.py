"""The client of an OpenAI-compatible server, against a real one on 127.0.0.1 that misbehaves."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from evals.generation import Generation
from medgemma.endpoint import KEY_VARIABLE, Endpoint, EndpointFault, EndpointRefused, base_url, shown
from medsiglip.imaging import ImageError
from tests.medgemma.faulty_server import pictures_of, serving, text_of

PLAIN = Generation(max_new_tokens=8).sampling


@pytest.fixture
def picture(tmp_path: Path) -> str:
    path = tmp_path / "colour.png"
    PIL.Image.fromarray(np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)).save(path)
    return str(path)


def test_a_question_with_its_pictures_arrives_whole(picture: str) -> None:
    with serving() as server, Endpoint(server.url) as endpoint:
        reply = endpoint.answer([picture, picture], "Is it?", PLAIN)
    assert (reply.text, reply.tokens, reply.finish_reason, reply.attempts) == ("about Is it?", 3, "stop", 1)
    (body,) = server.asked
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("tiny", 8, 0.0) and "seed" not in body
    assert [part["type"] for part in body["messages"][0]["content"]] == ["image_url", "image_url", "text"]
    for seen in pictures_of(body):
        assert (np.asarray(seen) == np.asarray(PIL.Image.open(picture))).all()


@pytest.mark.parametrize("name", ["MR_small.dcm", "CT_small.dcm", "examples_overlay.dcm"])
def test_a_dicom_file_goes_as_a_local_model_sees_it(name: str) -> None:
    """16 bits reach the server as the same eight-bit pixels that a model here would be given."""
    from pydicom.data import get_testdata_file

    from medgemma.prompts.content import open_study, study_parts

    file = str(get_testdata_file(name))
    with serving() as server, Endpoint(server.url) as endpoint:
        endpoint.answer([file], "q", PLAIN)
    local = [part.pixels for part in study_parts(open_study([file])) if not isinstance(part, str)]
    sent = [np.asarray(picture.convert("RGB")) for picture in pictures_of(server.asked[0])]
    assert len(sent) == len(local) and all((a == b).all() for a, b in zip(sent, local, strict=True))


def test_thinking_and_draws_are_asked_for(picture: str) -> None:
    how = Generation(8, system="You read films.", thinking=True, thinking_tokens=100, n_samples=3, temperature=0.7)
    trace = "say <unused94>thought\nhm<unused95>Yes"
    with serving(lambda *_: trace) as server, Endpoint(server.url) as endpoint:
        reply = endpoint.answer([], "q", how.sampling, system=how.system_turn, sample=2)
    (body,) = server.asked
    system = "SYSTEM INSTRUCTION: think silently if needed. You read films."
    assert body["messages"][0] == {"role": "system", "content": system}
    assert (body["max_tokens"], body["temperature"], body["seed"]) == (108, 0.7, 2)
    assert (reply.text, reply.thinking) == ("Yes", "hm")


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("html", "a web page \\(HTML\\) instead of JSON"),
        ("cut", "the connection failed"),
        ("short", "no JSON, or it is cut off"),
        ("no choice", "no choice"),
        ("empty", "the answer is empty \\(finish_reason stop\\)"),
        ("error", "the server says: out of memory"),
        ("status 429", "HTTP 429: says no"),
        ("status 503", "HTTP 503: says no"),
    ],
)
def test_what_may_pass_is_retried_and_then_named(fault: str, reason: str) -> None:
    waits: list[float] = []
    with (
        serving(lambda prompt, before: fault if before < 2 or prompt == "never" else "") as server,
        Endpoint(server.url, retries=2, sleep=waits.append) as endpoint,
    ):
        assert endpoint.answer([], "third time", PLAIN).attempts == 3
        with pytest.raises(EndpointFault, match=f"{reason}.*attempts: 3"):
            endpoint.answer([], "never", PLAIN)
    assert len(server.asked) == 6 and len(waits) == 4
    assert all(0.5 <= first <= 1 <= second <= 2 for first, second in zip(waits[::2], waits[1::2], strict=True))


@pytest.mark.parametrize(
    ("fault", "thinking"), [("thought", "Let me"), ("thought in place", "Let me"), ("thought not shown", "")]
)
def test_a_thought_that_used_up_its_tokens_is_a_cut_answer(fault: str, thinking: str) -> None:
    with serving(lambda *_: fault) as server, Endpoint(server.url) as endpoint:
        reply = endpoint.answer([], "q", PLAIN)
    assert (reply.text, reply.thinking, reply.finish_reason, reply.attempts) == ("", thinking, "length", 1)


def test_no_answer_in_time_is_retried_and_named() -> None:
    with (
        serving(lambda *_: "hang") as server,
        Endpoint(server.url, timeout_s=0.2, retries=1, sleep=lambda s: None) as endpoint,
        pytest.raises(EndpointFault, match="no answer within 0.2 s .attempts: 2"),
    ):
        endpoint.answer([], "q", PLAIN)
    assert len(server.asked) == 2


def test_an_answer_that_drips_for_ever_ends_in_time() -> None:
    """Each byte comes within the limit; all of them would not."""
    with (
        serving(lambda *_: "drip") as server,
        Endpoint(server.url, timeout_s=0.5, retries=0) as endpoint,
        pytest.raises(EndpointFault, match="no answer within 0.5 s .attempts: 1"),
    ):
        endpoint.answer([], "q", PLAIN)


def test_what_the_server_refuses_for_good_is_not_asked_again() -> None:
    with (
        serving(lambda prompt, before: "status 400") as server,
        Endpoint(server.url) as endpoint,
        pytest.raises(EndpointFault, match="HTTP 400: says no .attempts: 1"),
    ):
        endpoint.answer([], "q", PLAIN)
    assert len(server.asked) == 1


def test_the_wait_is_the_one_the_server_asks_for() -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=40), usegmt=True)
    after = {"seconds": "7", "date": date, "too long": "9999", "nonsense": "soon"}
    waits: list[float] = []
    with (
        serving(lambda prompt, before: f"status 429 after {after[prompt]}" if not before else "") as server,
        Endpoint(server.url, sleep=waits.append) as endpoint,
    ):
        for prompt in after:
            endpoint.answer([], prompt, PLAIN)
    assert waits[0] == 7 and 30 < waits[1] <= 40 and waits[2] == 60 and waits[3] <= 1


@pytest.mark.parametrize(
    ("status", "do"), [(401, f"set {KEY_VARIABLE}"), (403, KEY_VARIABLE), (404, "correct --endpoint")]
)
def test_a_refusal_of_everything_ends_the_run(status: int, do: str) -> None:
    with (
        serving(lambda *_: f"status {status}") as server,
        Endpoint(server.url) as endpoint,
        pytest.raises(EndpointRefused, match=f"HTTP {status}.*{do}"),
    ):
        endpoint.answer([], "q", PLAIN)
    assert len(server.asked) == 1


def test_the_key_comes_from_the_environment_and_is_shown_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "not-for-show")
    with serving(lambda *_: "status 401") as server, Endpoint(server.url) as endpoint:
        with pytest.raises(EndpointRefused) as refusal:
            endpoint.answer([], "q", PLAIN)
        assert "not-for-show" not in str(refusal.value) + endpoint.fingerprint + repr(endpoint)
    assert server.keys == ["Bearer not-for-show"]


def test_a_bad_picture_is_named_and_nothing_is_sent(tmp_path: Path) -> None:
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n")
    with serving() as server, Endpoint(server.url) as endpoint:
        for name in ("cut.png", "absent.png"):
            with pytest.raises((ImageError, OSError), match=name):
                endpoint.answer([str(tmp_path / name)], "q", PLAIN)
    assert server.asked == []


def test_one_picture_is_read_once_for_its_questions(picture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    monkeypatch.setattr("medgemma.endpoint.shown", lambda files: read.extend(files) or shown(files))
    with serving() as server, Endpoint(server.url) as endpoint:
        for question in ("a", "b", "c"):
            endpoint.answer([picture], question, PLAIN)
    assert read == [picture] and [text_of(body) for body in server.asked] == ["a", "b", "c"]


def test_urls() -> None:
    same = "http://host:8000/v1"
    assert base_url("http://host:8000") == base_url(same + "/") == base_url(same + "/chat/completions") == same
    assert base_url("https://host/gateway/v1") == "https://host/gateway/v1"
    for wrong in ("host:8000", "ftp://host", "", "http://"):
        with pytest.raises(ValueError, match="expected a URL"):
            base_url(wrong)
    with pytest.raises(ValueError, match="holds a password") as refusal:
        base_url("https://me:secret@host/v1")
    assert "secret" not in str(refusal.value)


def test_a_server_that_is_not_there() -> None:
    with serving() as server:
        url = server.url
    with pytest.raises(EndpointRefused, match="cannot be reached"):
        Endpoint(url)


def test_settings_that_contradict_each_other() -> None:
    with pytest.raises(ValueError, match="3 samples at temperature 0"):
        Generation(n_samples=3)
    with pytest.raises(ValueError, match="give both or neither"):
        Generation(thinking=True)
