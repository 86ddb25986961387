"""Token NLL against plain transformers; conversations and their embeddings; choosing among decoders."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from experience import Episode, Step, write_episodes
from finetune.choosing.runs import read_runs
from finetune.cli import app
from finetune.collate import Conversations
from finetune.packing import Layout
from finetune.selection.dialogues import Dialogues, embedded, read_dialogues, said
from finetune.selection.embedding import decoder_embedding, encoder_embedding
from finetune.selection.token_nll import examples_of_dialogues, token_nll
from medgemma import MedGemma
from medgemma.checkpoints.adapters.merge import merge
from medsiglip.encoder import MedSigLIP
from tests.tiny import decoder_folder, encoder_folder, turning_adapter


def session(name: str, replies: list[str], group: str) -> Episode:
    """A system turn at first, then a user's turn before each reply."""
    told = [
        [{"role": "system", "content": "be brief"}, {"role": "user", "content": "what now?"}],
        *([{"role": "user", "content": f"and then, {n}?"}] for n in range(1, len(replies))),
    ]
    steps = [
        Step({"messages": messages}, {"text": text, "thinking": None}, 5.0, 1.0, n == 0)
        for n, (messages, text) in enumerate(zip(told, replies, strict=True))
    ]
    return Episode((*steps, Step({"messages": []}, is_last=True, is_terminal=True)), name, {"group": group})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("decoders")
    decoder_folder(made / "base")
    config = turning_adapter(made / "base", made / "run" / "adapter") / "adapter_config.json"
    named = json.loads(config.read_text()) | {"base_model_name_or_path": str(made / "base")}
    config.write_text(json.dumps(named))
    write_episodes(
        made / "expert",
        [session(f"e{n}", ["wait a day", "call again"][: 1 + n % 2], f"patient-{n // 2}") for n in range(8)],
    )
    return made


def test_a_reply_follows_all_that_was_said(folder: Path) -> None:
    found = read_dialogues(folder / "expert")
    assert [reply.episode for reply in found.replies] == [0, 1, 1, 2, 3, 3, 4, 5, 5, 6, 7, 7]
    assert [message["role"] for message in found.replies[2].messages] == ["system", "user", "assistant", "user"]
    assert said(found.replies[2].messages).splitlines()[2:] == ["assistant: wait a day", "user: and then, 1?"]
    later = found.of_episodes([1, 3])
    assert [reply.episode for reply in later.replies] == [0, 0, 1, 1] and later.episode_ids == ("e1", "e3")


def test_a_system_turn_begins_a_new_prompt(tmp_path: Path) -> None:
    asked = [[{"role": "system", "content": "s"}, {"role": "user", "content": f"q{n}"}] for n in range(2)]
    steps = [Step({"messages": one}, {"text": "a"}, is_first=n == 0) for n, one in enumerate(asked)]
    write_episodes(tmp_path, [Episode((*steps, Step({"messages": []}, is_last=True)), "e", {})])
    assert [len(reply.messages) for reply in read_dialogues(tmp_path).replies] == [2, 2]


def nll(gemma: MedGemma, dialogues: Dialogues) -> tuple[float, list[float]]:
    examples = examples_of_dialogues(dialogues, Conversations.of(gemma.tokenizer, gemma.image_tokens))
    layout = Layout(gemma.tokenizer.pad_token_id, gemma.model.config.image_token_id, 512)
    groups = [dialogues.groups[reply.episode] for reply in dialogues.replies]
    score = token_nll(gemma.model, examples, groups, layout)
    assert not score.larger_is_better and score.groups == tuple(groups)
    return score.value, score.per_episode.tolist()


def test_it_is_plain_transformers(folder: Path) -> None:
    gemma, dialogues = MedGemma.from_pretrained(folder / "base", device="cpu"), read_dialogues(folder / "expert")
    value, each = nll(gemma, dialogues)
    examples = examples_of_dialogues(dialogues, Conversations.of(gemma.tokenizer, gemma.image_tokens))
    plain = []
    for example in examples:
        ids = torch.tensor([example.prompt_ids + example.completion_ids])
        with torch.inference_mode():
            logits = gemma.model(input_ids=ids, token_type_ids=torch.zeros_like(ids)).logits[0].double()
        start = len(example.prompt_ids)
        losses = torch.nn.functional.cross_entropy(logits[start - 1 : -1], ids[0, start:], reduction="none")
        plain.append(losses)
    assert each == pytest.approx([float(one.mean()) for one in plain], rel=1e-5)
    assert value == pytest.approx(float(torch.cat(plain).mean()), rel=1e-5)


def test_decoders_are_chosen_by_it(folder: Path, tmp_path: Path) -> None:
    """An adapter is judged on its base as the merged model is, and a recipe's own folder is enough."""
    merge(folder / "base", folder / "run" / "adapter", tmp_path / "merged" / "model")
    shutil.copytree(folder / "base", tmp_path / "untuned" / "model")
    runs = [folder / "run", tmp_path / "merged", tmp_path / "untuned"]
    words = ["--proxy", "token_nll", "--data", folder / "expert", "--held-out", "0.5", "--out", tmp_path / "choice"]
    result = CliRunner().invoke(app, ["choose", *map(str, [*runs, *words, "--device", "cpu", "--quiet"])])
    assert result.exit_code == 0, (result.output, result.exception)
    rows = {row["run"]: row for row in map(json.loads, (tmp_path / "choice" / "scores.jsonl").read_text().splitlines())}
    assert rows["run"]["value"] == pytest.approx(rows["merged"]["value"], rel=1e-4)
    assert abs(rows["run"]["value"] - rows["untuned"]["value"]) > 1e-3 and rows["run"]["n_groups"] == 2
    chosen = json.loads((tmp_path / "choice" / "chosen.json").read_text())
    assert chosen["proxies"]["token_nll"]["value"] == min(row["value"] for row in rows.values())
    assert [run.checkpoints[0].kind for run in read_runs(runs)] == ["adapter", "model", "model"]


def test_a_table_judges_too(folder: Path, tmp_path: Path) -> None:
    rows = "".join(f"What now {n}?,wait,validation,p{n}\n" for n in range(4))
    (tmp_path / "t.csv").write_text(f"question,answer,split,patient\n{rows}What?,wait,train,p9\n")
    columns = [
        "--question",
        "question",
        "--answer",
        "answer",
        "--split",
        "split",
        "--group",
        "patient",
        "--device",
        "cpu",
        "--quiet",
    ]
    words = [
        folder / "run",
        "--proxy",
        "token_nll",
        "--table",
        tmp_path / "t.csv",
        "--out",
        tmp_path / "choice",
        *columns,
    ]
    result = CliRunner().invoke(app, ["choose", *map(str, words)])
    assert result.exit_code == 0, (result.output, result.exception)
    (row,) = map(json.loads, (tmp_path / "choice" / "scores.jsonl").read_text().splitlines())
    assert (row["n"], row["n_groups"]) == (4, 4)


def test_states_of_conversations_are_vectors(folder: Path) -> None:
    gemma, dialogues = MedGemma.from_pretrained(folder / "base", device="cpu"), read_dialogues(folder / "expert")
    found = embedded(dialogues, decoder_embedding(gemma))
    assert found.observations.shape == (12, gemma.model.config.text_config.hidden_size)
    assert found.episodes.tolist() == [reply.episode for reply in dialogues.replies]
    text = said(dialogues.replies[1].messages)
    ids = torch.tensor([gemma.tokenizer(text).input_ids])
    with torch.inference_mode():
        states = gemma.model.model(input_ids=ids, token_type_ids=torch.zeros_like(ids)).last_hidden_state[0].mean(0)
    assert found.observations[1] == pytest.approx(states.numpy(), rel=1e-4, abs=1e-5)
    with pytest.raises(ValueError, match="a text has .* tokens and 3 are read"):
        decoder_embedding(gemma, max_tokens=3)([text])


def test_an_encoder_reads_long_texts_in_pieces(tmp_path: Path) -> None:
    encoder = MedSigLIP.from_pretrained(encoder_folder(tmp_path / "encoder"), device="cpu")
    embed = encoder_embedding(encoder)
    short, long = "a cough", " ".join(["a cough since three days"] * 40)
    assert embed([short])[0] == pytest.approx(encoder.encode_texts([short])[0])
    assert embed([long]).shape == (1, encoder.embedding_width) and np.isfinite(embed([long])).all()
