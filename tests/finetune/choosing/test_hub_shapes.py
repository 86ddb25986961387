"""Cloning and choosing on the Hub's shapes, with plain transformers as the oracle of what a checkpoint is worth."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoTokenizer
from typer.testing import CliRunner

from experience import write_episodes
from finetune.cli import app
from finetune.selection.dialogues import Reply, read_dialogues
from finetune.selection.holding_out import hold_out
from medgemma.checkpoints.adapters.merge import merge
from tests.finetune.recipes.test_clone import episode
from tests.nano import needs_nano

SETTINGS = ("device=cpu", "epochs=1", "examples_per_step=4", "checkpoints=1", "held_out_share=0.5")


def ran(*words: object) -> None:
    done = CliRunner().invoke(app, [str(word) for word in (*words, "--quiet")])
    assert done.exit_code == 0, (done.output, done.exception)


def plain_nll(folder: Path, replies: tuple[Reply, ...]) -> float:
    """Of a token of the replies and of what ends them, by the template of the folder itself."""
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    losses = []
    for reply in replies:
        prompt = tokenizer.apply_chat_template(reply.messages, add_generation_prompt=True, tokenize=False)
        start = len(tokenizer(prompt, add_special_tokens=False).input_ids)
        said = tokenizer(f"{prompt}{reply.text}<end_of_turn>\n", add_special_tokens=False, return_tensors="pt")
        with torch.inference_mode():
            logits = model(**said, token_type_ids=torch.zeros_like(said.input_ids)).logits[0, start - 1 : -1]
        losses.append(torch.nn.functional.cross_entropy(logits.double(), said.input_ids[0, start:], reduction="none"))
    return float(torch.cat(losses).mean())


@needs_nano
@pytest.mark.slow
@pytest.mark.parametrize(("shape", "method", "rate"), [("hub", "lora", 3e-3), ("hub saved", "full", 5e-4)])
def test_a_clone_is_judged_as_transformers_has_it(
    shape: str, method: str, rate: float, shapes: Callable[[str], Path], tmp_path: Path
) -> None:
    """An adapter, and a whole model; of the adapter's episodes the distance too, by the base's own states."""
    base, data, run = shapes(shape), tmp_path / "episodes", tmp_path / "run"
    write_episodes(data, [episode(number) for number in range(4)])
    given = (*SETTINGS, f"model={base}", f"adapter.method={method}", f"learning_rate={rate}")
    ran("run", "clone", "--data", data, "--out", run, *(f"--set={one}" for one in given))
    (checkpoint,) = (run / "checkpoints").iterdir()
    proxies = ["--proxy", "token_nll"]
    if method == "lora":
        write_episodes(run / "rollouts" / checkpoint.name, [episode(100 + number) for number in range(2)])
        proxies += ["--proxy", "state_distance", "--embed", str(base)]
    ran("choose", run, *proxies, "--data", data, "--device", "cpu", "--out", tmp_path / "choice")
    rows = map(json.loads, (tmp_path / "choice" / "scores.jsonl").read_text().splitlines())
    found = {row["proxy"]: row["value"] for row in rows}
    whole = checkpoint / "model"
    if method == "lora":
        assert found["state_distance"] > 0
        whole = tmp_path / "merged"
        merge(base, checkpoint / "adapter", whole)
    held_out = hold_out(read_dialogues(data), 0.5).held_out.replies
    learned, untuned = plain_nll(whole, held_out), plain_nll(base, held_out)
    assert found["token_nll"] == pytest.approx(learned, rel=1e-3) and abs(learned - untuned) > 0.01
