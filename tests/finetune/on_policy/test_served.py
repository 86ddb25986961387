"""Samples from a server: a stand-in for vLLM that loads the policy's adapters, and `medgemma serve` itself."""

import base64
import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from finetune.adapters import save_adapter
from finetune.algorithms.reinforce import Reinforce
from finetune.on_policy import LostSampler, Network, OnPolicy, Reward, base_of, train_on_policy
from finetune.on_policy.rounds import scored
from finetune.on_policy.served import ServedSampler
from finetune.training import ALONE, Loop, Schedule
from medgemma import MedGemma
from medgemma.endpoint import Endpoint
from medgemma.engine import Request, Sampling
from medsiglip.imaging import open_pictures
from tests.finetune.on_policy import small


@dataclass
class FakeVLLM:
    """Chat completions with log-probabilities and token ids, and adapters that come and go."""

    gemma: MedGemma
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    faults: dict[str, Any] = field(default_factory=dict)
    """Path to a status, or to what is done to the reply."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def reply(self, path: str, body: dict[str, Any]) -> tuple[int, str]:
        with self.lock:
            self.asked.append((path, body))
            fault = self.faults.get(path)
            if isinstance(fault, int):
                return fault, json.dumps({"error": {"message": "out of order"}})
            if path == "/v1/load_lora_adapter":
                self.gemma.load_adapter(body["lora_path"], body["lora_name"])
                return 200, f"Success: LoRA adapter '{body['lora_name']}' added successfully."
            if path == "/v1/unload_lora_adapter":
                self.gemma.engine.unload_adapter(body["lora_name"])
                return 200, "Success: removed."
            found = self.completions(body)
            return 200, json.dumps(fault(found) if fault else found)

    def completions(self, body: dict[str, Any]) -> dict[str, Any]:
        assert body["logprobs"] is True and body["return_tokens_as_token_ids"] is True
        messages, seen = [], []
        for message in body["messages"]:
            parts = []
            for part in message["content"]:
                if part["type"] == "image_url":
                    data = base64.b64decode(part["image_url"]["url"].split(",")[1])
                    seen.append(np.asarray(PIL.Image.open(io.BytesIO(data))))
                parts.append({"type": "image"} if part["type"] == "image_url" else part)
            messages.append({**message, "content": parts})
        prompt = self.gemma.prompt(messages, body["max_tokens"])
        sampling = Sampling(body["max_tokens"], body["temperature"], seed=body["seed"], num_samples=body["n"])
        adapter = None if body["model"] == "base" else body["model"]
        [samples] = self.gemma.engine.generate([Request(prompt, tuple(open_pictures(seen)), sampling, adapter=adapter)])
        choices = [
            {
                "message": {"content": self.gemma.tokenizer.decode(c.token_ids, skip_special_tokens=True)},
                "finish_reason": c.finish_reason,
                "logprobs": {
                    "content": [
                        {"token": f"token_id:{token}", "logprob": value}
                        for token, value in zip(c.token_ids, c.logprobs, strict=True)
                    ]
                },
            }
            for c in samples
        ]
        return {"choices": choices, "usage": {"prompt_tokens": len(prompt.input_ids)}}


@contextmanager
def serving(fake: FakeVLLM) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, text = fake.reply(self.path, body)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_port}/v1"
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


@pytest.fixture
def fake(checkpoint: Path) -> FakeVLLM:
    return FakeVLLM(small.gemma_of(checkpoint))


def served(url: str, checkpoint: Path, folder: Path) -> tuple[MedGemma, Any, ServedSampler]:
    gemma = small.gemma_of(checkpoint)
    found = small.adapted(gemma)

    def save(path: Path) -> None:
        save_adapter(found, path, base=str(checkpoint), base_folder=checkpoint, prompt_form={})

    endpoint = Endpoint(url, "base", retries=1, sleep=lambda seconds: None)
    return gemma, found.peft, ServedSampler(endpoint, gemma, small.pictures(), save, folder / "adapters")


def test_after_an_update_the_server_samples_from_the_policy_as_it_is(
    fake: FakeVLLM, checkpoint: Path, tmp_path: Path
) -> None:
    with serving(fake) as url:
        gemma, _, sampler = served(url, checkpoint, tmp_path)
        rows, policy = small.rows_of(gemma), Network(gemma.model, gemma.preprocessing, small.pictures())
        layout = small.layout_of(gemma)
        for version, size in (("fit-0", 0.0), ("fit-1", 0.1)):
            small.moved(gemma, size)
            if size:  # not told yet, as a server that is a step behind
                stale = sampler.sample(rows, range(5), 2, small.SAMPLING)
                theirs = [v for r in stale for v in r.sampled_logprobs]
                assert theirs != pytest.approx(now(policy, stale, layout), abs=1e-3)
            sampler.weights_changed(version)
            rollouts = sampler.sample(rows, range(5), 2, small.SAMPLING)
            assert [r.sampled_logprobs for r in rollouts] and {r.policy_version for r in rollouts} == {version}
            said = [v for r in rollouts for v in r.sampled_logprobs]
            assert said == pytest.approx(now(policy, rollouts, layout), abs=1e-5)
            assert [r.group for r in rollouts] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert len(fake.gemma.engine.adapters.names) == 1 and len(list((tmp_path / "adapters").iterdir())) == 1


def now(policy: Network, rollouts: Any, layout: Any) -> list[float]:
    return [v for values in scored(policy, rollouts, layout, 1.0, ALONE) for v in values]


def test_a_run_on_a_server_learns_and_is_corrected(fake: FakeVLLM, checkpoint: Path, tmp_path: Path) -> None:
    with serving(fake) as url:
        gemma, peft, sampler = served(url, checkpoint, tmp_path)
        policy = Network(gemma.model, gemma.preprocessing, small.pictures())
        before = small.weights(gemma)
        train_on_policy(
            policy,
            Reinforce(3, 0.05),
            small.rows_of(gemma),
            sampler,
            [Reward(small.evenness)],
            base_of(policy, peft),
            Schedule(3e-3, 2, warmup_steps=1, weight_decay=0.0),
            tmp_path / "fit",
            Loop(log_every_steps=1, quiet=True),
            how=OnPolicy(2, small.SAMPLING, small.layout_of(gemma)),
            settings={},
        )
    assert any(not (before[n] == p).all() for n, p in small.weights(gemma).items())
    loads = [body["lora_name"] for path, body in fake.asked if path.endswith("/load_lora_adapter")]
    assert [name.rsplit("-", 1)[0] for name in loads] == ["fit-0", "fit-1"]
    lines = [json.loads(line) for line in (tmp_path / "fit" / "reward_kl.jsonl").read_text().splitlines()]
    assert lines[0]["kl"] == pytest.approx(0, abs=1e-5) and abs(lines[1]["kl"]) > 1e-4


def spoil(**changes: Any) -> Any:
    return lambda found: {**found, **changes}


@pytest.mark.parametrize(
    ("path", "fault", "said"),
    [
        ("/v1/chat/completions", 503, r"q.csv:\d: no sample: HTTP 503: out of order \(attempts: 2\)"),
        ("/v1/chat/completions", 400, r"q.csv:\d: no sample: HTTP 400"),
        ("/v1/chat/completions", spoil(choices=[]), r"q.csv:\d: 0 samples of the 2 asked for"),
        (
            "/v1/chat/completions",
            spoil(usage={"prompt_tokens": 3}),
            "the server's prompt has 3 tokens and the",
        ),
        ("/v1/chat/completions", spoil(usage={}), "the server's reply lacks 'prompt_tokens'"),
        ("/v1/load_lora_adapter", 404, "the server took no weights of fit-0: .*404"),
    ],
)
def test_a_server_that_fails_is_a_lost_sampler(
    fake: FakeVLLM, checkpoint: Path, tmp_path: Path, path: str, fault: Any, said: str
) -> None:
    fake.faults[path] = fault
    with serving(fake) as url:
        gemma, _, sampler = served(url, checkpoint, tmp_path)
        with pytest.raises(LostSampler, match=said):
            sampler.weights_changed("fit-0")
            sampler.sample(small.rows_of(gemma), range(5), 2, small.SAMPLING)
    gone = Endpoint(url, "base", retries=0)
    with pytest.raises(LostSampler, match="q.csv:0: no sample: the connection failed"):
        replace(sampler, endpoint=gone).sample(small.rows_of(gemma)[:1], [0], 1, small.SAMPLING)


def test_an_empty_completion_is_named_and_left_out(
    fake: FakeVLLM, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def emptied(found: dict[str, Any]) -> dict[str, Any]:
        found["choices"][0]["logprobs"]["content"] = []
        return found

    from finetune.on_policy import Round
    from finetune.on_policy.rounds import Tools

    fake.faults["/v1/chat/completions"] = emptied
    with serving(fake) as url:
        gemma, peft, sampler = served(url, checkpoint, tmp_path)
        policy = Network(gemma.model, gemma.preprocessing, small.pictures())
        rewards, reference = [Reward(small.evenness)], base_of(policy, peft)
        tools = Tools(policy, sampler, rewards, reference, small.SAMPLING, small.layout_of(gemma), ALONE, 0, "fit")
        round = Round(tools, 3, small.rows_of(gemma)[:2])
        examples = Reinforce(3, 0.0).examples(round)
        assert (
            len(examples) == 4 and "step 3: 2 of 6 completions are empty (q.csv:0, q.csv:1)" in capsys.readouterr().err
        )
        assert all(example.sampled_logprobs is not None for example in examples)
        with pytest.raises(ValueError, match="2 of 2 completions are empty .*look at the sampler"):
            round = Round(tools, 4, small.rows_of(gemma)[:2])
            round.learnable(round.sample(1))


def test_what_the_server_cannot_do_is_refused(fake: FakeVLLM, checkpoint: Path, tmp_path: Path) -> None:
    gemma, peft, sampler = served("http://127.0.0.1:1/v1", checkpoint, tmp_path)
    rows = small.rows_of(gemma)
    for sampling in (replace(small.SAMPLING, temperature=0.7), replace(small.SAMPLING, top_p=0.9)):
        with pytest.raises(ValueError, match="at temperature 1 and uncut; sample so, or start vLLM with"):
            sampler.sample(rows, range(5), 1, sampling)
    policy = Network(gemma.model, gemma.preprocessing, small.pictures())
    with pytest.raises(ValueError, match="reference: the server has the policy alone; sample from the engine"):
        sampler.sample(rows, range(5), 1, small.SAMPLING, of=base_of(policy, peft))


def test_medgemma_serve_samples_too() -> None:
    """Nano behind our own server: token ids from its texts, pictures as PNGs; the trainer finds the same numbers."""
    from finetune.on_policy import PromptRow
    from medgemma.prompts.chat import user_message
    from medgemma.server.embedded import EmbeddedBackend
    from medgemma.server.encoding import Encoding
    from medgemma.server.settings import Settings
    from medgemma.server.state import Loaded
    from medsiglip import MedSigLIP
    from tests.medgemma.server.conftest import running

    gemma = MedGemma.from_pretrained("nano", device="cpu", dtype="float32")
    behind = MedGemma.from_pretrained("nano", device="cpu", dtype="float32")
    messages = [user_message("Which view is this?", 1)]
    row = PromptRow(gemma.prompt(messages, 8), messages, (1,), place="row 0")

    def load(metrics: Any) -> Loaded:
        encoder = MedSigLIP.from_pretrained("nano", device="cpu")
        return Loaded(EmbeddedBackend(behind, Settings(), metrics.tokens), Encoding(encoder))

    with running(load) as server:
        sampler = ServedSampler(Endpoint(f"{server.url}/v1", "nano"), gemma, small.pictures(), fields={})
        sampler.weights_changed("fit-0")
        rollouts = sampler.sample([row], [7], 4, Sampling(8, 1.0))
    policy = Network(gemma.model, gemma.preprocessing, small.pictures())
    said = [v for r in rollouts for v in r.sampled_logprobs]
    assert said == pytest.approx(now(policy, rollouts, small.layout_of(gemma, max_tokens=512)), abs=1e-5)
    assert all(r.ended == (r.completion_ids[-1] in gemma.stop_ids) for r in rollouts)
