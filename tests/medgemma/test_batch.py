"""OpenAI batch files: every line answered or refused by name, and a killed run goes on without loss or double."""

import base64
import io
import json
import os
import signal
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.data import get_testdata_file

from medgemma.asking import Asking
from medgemma.batch import Answerer, BatchProblem, answer_batch
from medgemma.engine.request import Completion, Request
from tests.medgemma.scripted import scripted_asking, scripted_generate


def data_url(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def line(custom_id: str, content: Any = "Is there a pneumothorax?", **body: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": content}]
    return {
        "custom_id": custom_id,
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"messages": messages, **body},
    }


def write(path: Path, lines: Sequence[Any]) -> Path:
    path.write_text("".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def asking(tiny_folder: Path) -> Asking:
    return scripted_asking(tiny_folder)


class Run:
    """One run over a file with answers that are a script's, and what it asked and said."""

    def __init__(self, asking: Asking, requests: Path, out: Path, identity: str = "tiny", group: int = 2) -> None:
        self.requests: list[Request] = []
        self.problems: list[BatchProblem] = []
        self.warnings: list[BatchProblem] = []

        def generate(requests: Sequence[Request]) -> list[list[Completion]]:
            for request in requests:
                if request.sampling.num_samples > 32:  # as the engine refuses, with all of its call
                    raise ValueError(f"{request.sampling.num_samples} samples; this engine decodes 32 together")
            self.requests += requests
            return scripted_generate(asking, requests)

        answerer = Answerer(asking, generate, "tiny", identity)
        told = {"on_problem": self.problems.append, "on_warning": self.warnings.append}
        answer_batch(requests, out, answerer, **told, group=group)


def test_each_line_has_its_answer(asking: Asking, images: list[Any], tmp_path: Path) -> None:
    picture = [{"type": "image_url", "image_url": {"url": data_url(images[0])}}, {"type": "text", "text": "View?"}]
    system = line("c", "Sure?", temperature=0.7, top_p=0.9, top_k=5, seed=3, n=2, max_tokens=7)
    system["body"]["messages"].insert(0, {"role": "system", "content": "Be brief."})
    requests = write(tmp_path / "in.jsonl", [line("a", logprobs=True), line("b", picture), system])
    run = Run(asking, requests, tmp_path / "out.jsonl")
    replies = read(tmp_path / "out.jsonl")
    assert [r["custom_id"] for r in replies] == ["a", "b", "c"] and not run.problems
    assert all(r["error"] is None and r["response"]["status_code"] == 200 for r in replies)
    first, second, third = (r["response"]["body"] for r in replies)
    assert first["choices"][0]["message"] == {"role": "assistant", "content": "The lungs are clear"}
    assert first["choices"][0]["finish_reason"] == "stop"
    content = first["choices"][0]["logprobs"]["content"]
    assert bytes(b for token in content for b in token["bytes"]).decode().startswith("The lungs are clear")
    assert [token["logprob"] for token in content] == [-0.5] * len(content)
    prompt = len(run.requests[0].prompt.input_ids)
    usage = {"prompt_tokens": prompt, "completion_tokens": len(content), "total_tokens": prompt + len(content)}
    assert first["usage"] == usage and first["object"] == "chat.completion" and first["model"] == "tiny"
    assert run.requests[1].prompt.num_images == 1 and len(run.requests[1].pictures) == 1
    assert second["choices"][0]["logprobs"] is None
    sampling = run.requests[2].sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.seed) == (0.7, 0.9, 5, 3)
    assert (sampling.num_samples, sampling.max_new_tokens) == (2, 7)
    assert [choice["index"] for choice in third["choices"]] == [0, 1]
    assert "Be brief." in asking.tokenizer.decode(run.requests[2].prompt.input_ids)
    assert run.requests[0].sampling.temperature == 0 and run.requests[0].sampling.max_new_tokens == 500


NOTHING: dict[str, Any] = {
    "tools": [],
    "tool_choice": "none",
    "parallel_tool_calls": True,
    "logit_bias": {},
    "store": False,
    "service_tier": "default",
    "modalities": ["text"],
    "top_logprobs": 0,
    "repetition_penalty": 1.0,
    "functions": None,
    "model": "",
}
"""Fields that ask for nothing."""
REPLAYED: dict[str, Any] = {
    "refusal": None,
    "annotations": [{"type": "url_citation"}],
    "audio": None,
    "function_call": None,
    "tool_calls": [],
    "reasoning_content": "It is grey.",
}
"""What else OpenAI's and our own replies hold, as clients send them back."""


def test_what_asks_for_nothing_changes_nothing(asking: Asking, images: list[Any], tmp_path: Path) -> None:
    url = data_url(images[0])
    lines = base64.encodebytes(base64.b64decode(url.partition(",")[2])).decode()  # as MIME writes it
    pairs = []
    for more, reply, image in (
        ({}, {}, {"url": url}),
        (NOTHING, {}, {"url": url}),
        ({"model": "tiny"}, REPLAYED, {"url": url, "detail": None}),
        ({}, {"name": None}, {"url": url.partition(",")[0] + "," + lines}),
    ):
        asked = line(
            f"{len(pairs)}", [{"type": "image_url", "image_url": image}, {"type": "text", "text": "A?"}], **more
        )
        asked["body"]["messages"] += [
            {"role": "assistant", "content": "yes", **reply},
            {"role": "user", "content": "B?"},
        ]
        pairs.append(asked)
    run = Run(asking, write(tmp_path / "in.jsonl", pairs), tmp_path / "out.jsonl", group=4)
    assert not run.problems and len(run.requests) == 4
    assert len({(request.prompt, request.sampling, request.pictures[0].sha256) for request in run.requests}) == 1


BAD: list[tuple[Any, str]] = [
    ("{no json", "line 2: no JSON"),
    ({"method": "POST"}, "line 2: no custom_id"),
    (line("good"), "line 2 (good): custom_id 'good' is line 1's already"),
    ({**line("x"), "url": "/v1/embeddings"}, "line 2 (x): url is '/v1/embeddings', expected '/v1/chat/completions'"),
    ({**line("x"), "method": "GET"}, "line 2 (x): method is 'GET'"),
    (line("x", tools=[{"type": "function"}]), "line 2 (x): tools: is not supported"),
    (line("x", store=True), "line 2 (x): store: is not supported"),
    (line("x", best_of=2), "line 2 (x): best_of: is not supported"),
    (line("x", repetition_penalty=0), "line 2 (x): repetition_penalty: must be above 0"),
    (line("x", model="gpt-4o"), "line 2 (x): model: 'gpt-4o' does not answer here; ask for 'tiny', or for none"),
    (line("x", None), "line 2 (x): message 1, content: is not a text"),
    (
        line("x", [{"type": "text", "text": "a"}, {"text": "b"}]),
        "message 1 part 2: has no type, expected text, image_u",
    ),
    (line("x", ["a"]), "line 2 (x): message 1 part 1: is not an object"),
    (line("x", [{"type": "text"}]), "line 2 (x): message 1 part 1, text: is missing"),
    (line("x", [{"type": "image_url", "image_url": 3}]), "line 2 (x): message 1 part 1, image_url: is not an object"),
    (line("x", [{"type": "image_url", "image_url": {}}]), "line 2 (x): message 1 part 1, image_url.url: is missing"),
    (line("x", [{"type": "text", "text": "a", "cache": 1}]), "line 2 (x): message 1 part 1, cache: is not supported"),
    (line("x", frequency_penalty=3), "line 2 (x): frequency_penalty: must be 2 or less"),
    (line("x", stream=True), "line 2 (x): stream: a batch cannot stream"),
    (line("x", temperature=-1), "line 2 (x): temperature: "),
    (line("x", max_tokens=4000), "asks for 4,000 more; tiny holds 2,048"),
    (line("x", "say <eos>"), "control token <eos>"),
    (line("x", [{"type": "image_url", "image_url": {"url": "https://example.org/x.png"}}]), "nothing is fetched"),
    (
        line("x", [{"type": "image_url", "image_url": "data:image/png;base64,@@"}]),
        "message 1 part 1: the data URL is no valid base64",
    ),
    (line("x", [{"type": "image_url", "image_url": "data:image/png;base64,bm8="}]), "message 1 part 1: not a picture"),
    (line("x", [{"type": "audio"}]), "line 2 (x): message 1 part 1: is of type audio, expected text, image_url"),
    ({**line("x"), "body": {"messages": []}}, "line 2 (x): messages: "),
    ({**line("x"), "body": None}, "line 2 (x): body: "),
    (line("x", response_format={"type": "json_schema"}), "holds no json_schema"),
    (
        line("x", response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": {"enum": []}}}),
        "the JSON schema cannot be used: Unsatisfiable schema",
    ),
    (line("x", "fail here"), "line 2 (x): the engine failed this one"),
    (line("x", n=100), "line 2 (x): 100 samples; this engine decodes 32 together"),
]


@pytest.mark.parametrize(("bad", "message"), BAD, ids=[message for _, message in BAD])
def test_a_bad_line_is_named_and_the_others_answered(asking: Asking, tmp_path: Path, bad: Any, message: str) -> None:
    requests = write(tmp_path / "in.jsonl", [line("good"), bad, line("also")])
    run = Run(asking, requests, tmp_path / "out.jsonl", group=3)
    [problem] = run.problems
    assert message in f"{problem.name}: {problem.reason}"
    good, refused, also = read(tmp_path / "out.jsonl")
    assert good["response"]["status_code"] == also["response"]["status_code"] == 200
    assert refused["response"]["status_code"] == 400 and refused["error"] is None
    assert refused["response"]["body"]["error"]["message"] == problem.reason
    assert len({r["id"] for r in (good, refused, also)}) == 3


def test_a_line_of_bad_bytes_is_refused_alone(asking: Asking, tmp_path: Path) -> None:
    requests = write(tmp_path / "in.jsonl", [line("a"), line("b")])
    data = requests.read_bytes().split(b"\n")
    requests.write_bytes(data[0] + b"\n\xff" + data[1] + b"\n")
    run = Run(asking, requests, tmp_path / "out.jsonl")
    assert [p.name for p in run.problems] == ["line 2"] and len(read(tmp_path / "out.jsonl")) == 2


def test_a_data_url_may_hold_a_volume(asking: Asking, tmp_path: Path) -> None:
    """A zip of slices and a NIfTI file; of the second the line's warning is told."""
    import nibabel
    import numpy as np

    series = io.BytesIO()
    with zipfile.ZipFile(series, "w") as archive:
        for number in range(3):
            dataset = dcmread(str(get_testdata_file("CT_small.dcm")))
            dataset.ImagePositionPatient[2] += 5 * number
            dataset.SOPInstanceUID += f".{number}"
            dataset.save_as(tmp_path / "slice.dcm")
            archive.write(tmp_path / "slice.dcm", f"{number}.dcm")
    nifti = nibabel.Nifti1Image(np.arange(60).reshape(4, 5, 3).astype(np.int16), np.eye(4)).to_bytes()
    urls = [f"data:application/octet-stream;base64,{base64.b64encode(d).decode()}" for d in (series.getvalue(), nifti)]
    lines = [line(f"{i}", [{"type": "image_url", "image_url": url}]) for i, url in enumerate(urls)]
    run = Run(asking, write(tmp_path / "in.jsonl", lines), tmp_path / "out.jsonl")
    assert not run.problems
    assert [request.prompt.num_images for request in run.requests] == [3, 3]
    assert [request.pictures[0].policy for request in run.requests] == ["ct-medgemma-1.5", "min-max"]
    [warning] = run.warnings
    assert warning.name == "line 2 (1)" and "ask for the preset medgemma-1.5" in warning.reason


def test_response_format_and_stop_reach_the_engine(asking: Asking, tmp_path: Path) -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "boolean"}}}
    lines = [
        line("a", response_format=schema),
        line("b", stop=["are", "x"]),
        line("c", response_format={"type": "json_object"}),
    ]
    run = Run(asking, write(tmp_path / "in.jsonl", lines), tmp_path / "out.jsonl", group=3)
    assert all(request.constraint is not None for request in run.requests)
    texts = [r["response"]["body"]["choices"][0]["message"]["content"] for r in read(tmp_path / "out.jsonl")]
    assert texts[0] in ("true", "false") and texts[1] == "The lungs" and json.loads(texts[2]) is not None


def test_a_cut_answer_says_so(asking: Asking, tmp_path: Path) -> None:
    Run(asking, write(tmp_path / "in.jsonl", [line("a", max_tokens=2)]), tmp_path / "out.jsonl")
    [reply] = read(tmp_path / "out.jsonl")
    assert reply["response"]["body"]["choices"][0]["finish_reason"] == "length"


def test_answers_that_are_there_are_not_made_again(asking: Asking, tmp_path: Path) -> None:
    requests, out = write(tmp_path / "in.jsonl", [line("a"), line("b"), line("c")]), tmp_path / "out.jsonl"
    Run(asking, requests, out)
    first = out.read_bytes()
    again = Run(asking, requests, out)
    assert not again.requests and out.read_bytes() == first
    write(requests, [line("a"), line("new"), line("c"), line("b")])
    more = Run(asking, requests, out)
    assert len(more.requests) == 1 and [r["custom_id"] for r in read(out)] == ["a", "new", "c", "b"]


def test_errors_are_tried_again_and_mended_lines_taken(asking: Asking, tmp_path: Path) -> None:
    requests, out = (
        write(tmp_path / "in.jsonl", [line("a"), line("b", tools=[{"type": "function"}])]),
        tmp_path / "out.jsonl",
    )
    assert len(Run(asking, requests, out).problems) == 1
    assert len(Run(asking, requests, out).problems) == 1
    write(requests, [line("a"), line("b")])
    mended = Run(asking, requests, out)
    assert len(mended.requests) == 1 and not mended.problems
    assert [r["response"]["status_code"] for r in read(out)] == [200, 200]


def test_answers_of_another_model_or_file_are_kept_from_being_overwritten(asking: Asking, tmp_path: Path) -> None:
    requests, out = write(tmp_path / "in.jsonl", [line("a")]), tmp_path / "out.jsonl"
    Run(asking, requests, out)
    before = out.read_bytes()
    with pytest.raises(ValueError, match="holds answers to other requests or of another model; give another --out"):
        Run(asking, requests, out, identity="other weights")
    with pytest.raises(ValueError, match="the requests' own file"):
        Run(asking, requests, requests)
    assert out.read_bytes() == before
    notes = tmp_path / "notes.txt"
    notes.write_text("my notes\n")
    with pytest.raises(ValueError, match="holds answers to other requests"):
        Run(asking, requests, notes)
    assert notes.read_text() == "my notes\n"


def test_a_mended_model_answers_anew_and_its_old_answers_are_kept(asking: Asking, tmp_path: Path) -> None:
    requests, out = write(tmp_path / "in.jsonl", [line("a"), line("b")]), tmp_path / "out.jsonl"
    old, new = f"weights+{'a' * 16}", f"weights+{'b' * 16}"
    Run(asking, requests, out, identity=old)
    before = out.read_bytes()
    assert len(Run(asking, requests, out, identity=new).requests) == 2
    assert (tmp_path / "out.before-1.jsonl").read_bytes() == before
    assert {reply["response"]["body"]["system_fingerprint"] for reply in read(out)} == {new}
    assert not Run(asking, requests, out, identity=new).requests
    with pytest.raises(ValueError, match="of another model"):
        Run(asking, requests, out, identity=f"others+{'b' * 16}")


@pytest.mark.parametrize("cut", [1, 30])
def test_a_half_written_line_is_dropped(asking: Asking, tmp_path: Path, cut: int) -> None:
    requests, out = write(tmp_path / "in.jsonl", [line("a"), line("b\u2028")]), tmp_path / "out.jsonl"
    Run(asking, requests, out)
    whole = out.read_bytes()
    partial = tmp_path / "out.jsonl.partial"
    partial.write_bytes(whole[:-cut])
    out.unlink()
    again = Run(asking, requests, out)
    assert len(again.requests) == 1
    assert [r["custom_id"] for r in read_lines(out)] == ["a", "b\u2028"] and not partial.exists()


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in path.read_bytes().split(b"\n") if text]


SLOW_RUN = """
    import sys, time
    from pathlib import Path
    from medgemma.batch import Answerer, answer_batch
    from tests.medgemma.scripted import scripted_asking, scripted_generate

    asking = scripted_asking(Path(sys.argv[1]))

    def generate(requests):
        time.sleep(0.02)
        print("asked", len(requests), flush=True)
        return scripted_generate(asking, requests)

    answerer = Answerer(asking, generate, "tiny", "tiny")
    answer_batch(Path(sys.argv[2]), Path(sys.argv[3]), answerer, on_problem=print, group=2)
"""


def test_a_run_killed_at_any_moment_goes_on(tiny_folder: Path, tmp_path: Path, repository: Path) -> None:
    """kill -9 after some groups, several times; then every line once, in order."""
    requests = write(tmp_path / "in.jsonl", [line(f"q{i}") for i in range(40)])
    out = tmp_path / "out.jsonl"
    script = tmp_path / "run.py"
    script.write_text(textwrap.dedent(SLOW_RUN))
    command = [sys.executable, str(script), str(tiny_folder), str(requests), str(out)]
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    asked = 0
    for groups in (2, 3):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert process.stdout is not None
        for _ in range(groups):
            assert process.stdout.readline().startswith("asked")
        process.send_signal(signal.SIGKILL)
        rest = process.communicate()[0]
        asked += groups + rest.count("asked")
        assert not out.exists()
    kept = len(read(tmp_path / "out.jsonl.partial"))
    assert kept >= 2 * (asked - 2 * 1) - 2  # all but the group in hand at each kill
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.count("asked") == (40 - kept) // 2
    assert [r["custom_id"] for r in read(out)] == [f"q{i}" for i in range(40)]
    assert len({r["id"] for r in read(out)}) == 40
