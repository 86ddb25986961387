"""The commands, from a record of ours to the Hub, to TFDS and back; mistakes are one line."""

import json
from pathlib import Path

import duckdb
import numpy as np
import polars
import pytest
from typer.testing import CliRunner, Result

from experience import Episode, EpisodeDataset, Step, write_episodes
from experience.cli import app
from tests.experience.formats.test_tfds import rich
from tests.experience.storage.test_dataset import content, control

OLD_LINE = """{"episode_id": "e1", "metadata": {"agent_id": "m"}, "steps": [
 {"observation": [{"role": "user", "content": "Hi"}], "action": {"text": "?", "thinking": null}, "reward": 0.5,
  "discount": 1.0, "is_first": true, "is_last": false, "is_terminal": false, "metadata": {}},
 {"observation": {"outcome": "x"}, "action": null, "reward": null, "discount": null, "is_first": false,
  "is_last": true, "is_terminal": true, "metadata": {}}]}""".replace("\n", "")


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_migrating_json_lines(tmp_path: Path) -> None:
    old = tmp_path / "episodes.jsonl"
    old.write_text(OLD_LINE + "\n")
    done = run("migrate", old, "--out", tmp_path / "new")
    assert (done.exit_code, done.output) == (0, f"{tmp_path / 'new'}: 1 episodes from {old}\n")
    first, last = EpisodeDataset(tmp_path / "new")["e1"].steps
    assert (first.observation, first.action) == ([{"role": "user", "content": "Hi"}], {"text": "?", "thinking": None})
    assert (first.reward, last.observation, last.reward, last.is_terminal) == (0.5, {"outcome": "x"}, None, True)
    assert run("migrate", old, "--out", tmp_path / "new").output.startswith(f"{tmp_path / 'new'}: 0 episodes")
    old.write_text(OLD_LINE + "\n" + OLD_LINE.replace("0.5", "null"))
    refused = run("migrate", old, "--out", tmp_path / "other")
    assert "line 2 is no episode (a step before the last has no reward or discount)" in str(refused.exception)


def test_show_stats_check_annotate(tmp_path: Path) -> None:
    conversation = Episode(
        (
            Step(
                {"messages": [{"role": "user", "content": "<b>Which organ?</b>"}], "picture": b"\x89PNG\r\n\x1a\n"},
                {"text": "Lung.", "tool_calls": [{"name": "fetch", "arguments": '{"codes": ["718-7"]}'}]},
                1.0,
                0.0,
                is_first=True,
            ),
            Step({"messages": [], "picture": None}, is_last=True, is_terminal=True),
        ),
        "talk",
        {"agent_id": "nano"},
    )
    write_episodes(tmp_path, [conversation, Episode((), "cut", {"invalid": True})])
    done = run(
        "annotate",
        tmp_path,
        "--name",
        "quality",
        "--author",
        "reader-1",
        "--episode",
        "talk",
        "--step",
        0,
        "--value",
        "4",
    )
    assert done.output == f"{tmp_path}: 1 values of quality by reader-1\n"
    shown = run("show", tmp_path, "talk").output.splitlines()
    assert shown[:4] == [
        "episode talk: 2 steps, ended, total reward 1",
        "  agent_id: nano",
        "  quality: None",
        "step 0, first",
    ]
    assert "  observation.messages[0] (user): <b>Which organ?</b>" in shown and "  quality: 4" in shown
    assert '  action.tool_calls[0] (fetch): {"codes": ["718-7"]}' in shown and "  reward: 1.0" in shown
    assert shown[-1] == "step 1, last, terminal"
    page = tmp_path / "page.html"
    assert run("show", tmp_path, 0, "--html", page).output == f"{page}\n"
    text = page.read_text()
    assert (
        "&lt;b&gt;Which organ?" in text
        and '<img src="data:image/png;base64,iVBORw0KGgo="' in text
        and "<b>W" not in text
    )
    stats = run("stats", tmp_path).output.splitlines()
    assert stats[:4] == [
        "episodes: 2 (1 invalid)",
        "steps: 2 (an episode: 0 to 2)",
        "splits: train 2",
        "reward: mean 1, deviation 0, 1 transitions",
    ]
    assert "column reward: double" in stats and "annotation quality: 1 values by reader-1" in stats
    assert run("stats", tmp_path, "--ids").output == "talk\t2\ttrain\tvalid\ncut\t0\ttrain\tinvalid\n"
    assert run("check", tmp_path).output == f"{tmp_path}: 2 episodes are what was written (1 of them invalid)\n"
    assert run("recover", tmp_path).output == f"{tmp_path}: 0 episodes taken in\n"
    (shard,) = (tmp_path / "steps").iterdir()
    shard.write_bytes(shard.read_bytes()[:50])
    failed = run("check", tmp_path)
    assert failed.exit_code == 1 and f"{shard}: is cut or broken" in failed.output


def test_annotating_from_a_file(tmp_path: Path) -> None:
    write_episodes(tmp_path, [control(1)])
    file = tmp_path / "values.jsonl"
    file.write_text('{"episode_id": "c1", "step": 2, "value": "slip"}\n{"episode_id": "c1", "value": 3}\n')
    assert run("annotate", tmp_path, "--name", "q", "--author", "r", "--file", file).exit_code == 0
    file.write_text('{"episode_id": "c1"}\n')
    assert "line 1 is no value" in str(
        run("annotate", tmp_path, "--name", "q", "--author", "r", "--file", file).exception
    )
    assert "--episode and --file, or neither" in str(
        run("annotate", tmp_path, "--name", "q", "--author", "r").exception
    )


def test_out_to_tfds_and_in_again(tmp_path: Path) -> None:
    write_episodes(tmp_path / "a", [rich(1), rich(2)])
    assert run("export", tmp_path / "a", "--format", "tfds", "--out", tmp_path / "b", "--name", "rich").exit_code == 0
    done = run("import", tmp_path / "b", "--out", tmp_path / "c")
    assert done.output == f"{tmp_path / 'c'}: 2 episodes from {tmp_path / 'b'}\n"
    assert [e.episode_id for e in EpisodeDataset(tmp_path / "c")] == ["e1", "e2"]
    assert "is no data set of TFDS" in str(run("import", tmp_path / "a", "--out", tmp_path / "d").exception)
    assert "no such folder" in str(run("import", tmp_path / "none", "--out", tmp_path / "d").exception)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub")
    write_episodes(folder / "a", [control(n) for n in range(12)])
    words = ["--split-by", "group", "--name", "control", "--licence", "cc0-1.0", "--description", "Made up."]
    done = run("export", folder / "a", "--format", "hub", "--out", folder / "b", *words)
    assert done.exit_code == 0, done.output
    return folder / "b"


def test_a_hub_folder_is_read_by_duckdb_and_polars(hub: Path) -> None:
    assert {path.name for path in hub.iterdir()} == {"README.md", "croissant.json", "episodes.parquet", "steps"}
    assert sorted(content(list(EpisodeDataset(hub)))) == sorted(content([control(n) for n in range(12)]))
    values = "count(*), sum(reward), list_sum(any_value(observation.tokens))"
    rows, total, tokens = duckdb.sql(f"SELECT {values} FROM '{hub}/steps/*.parquet' WHERE step = 3").fetchall()[0]
    rewards = [control(n).steps[3].reward for n in range(12)]
    assert (rows, tokens) == (12, 3) and total == pytest.approx(sum(rewards))
    frame = polars.read_parquet(f"{hub}/steps/*.parquet").sort("episode_id", "step")
    assert frame.filter(polars.col("is_last"))["action"].null_count() == 12
    state = frame.filter((polars.col("episode_id") == "c7") & (polars.col("step") == 2))["observation"].struct.field(
        "state"
    )
    assert np.array_equal(np.array(state[0], "f4"), control(7).steps[2].observation["state"])


def test_a_hub_folder_is_read_by_datasets(hub: Path, tmp_path: Path) -> None:
    import datasets

    steps = datasets.load_dataset(str(hub), "steps", cache_dir=str(tmp_path))
    episodes = datasets.load_dataset(str(hub), "episodes", split="train", cache_dir=str(tmp_path))
    assert set(steps) == {path.name[:-14] for path in (hub / "steps").iterdir()} and sum(map(len, steps.values())) == 72
    assert len(episodes) == 12 and set(episodes["agent_id"]) == {"random"}
    found = {(row["episode_id"], row["step"]): row for split in steps.values() for row in split}
    expected = control(4).steps[3]
    assert found["c4", 3]["reward"] == expected.reward and found["c4", 5]["action"] is None
    assert found["c4", 3]["action"] == expected.action.tolist()


def test_the_croissant_of_a_hub_folder_is_valid(hub: Path) -> None:
    import mlcroissant

    document = json.loads((hub / "croissant.json").read_text())
    found = mlcroissant.Dataset(jsonld=document)
    assert not found.metadata.issues.errors and found.metadata.name == "control"
    assert {one["name"] for one in document["distribution"]} >= {"episodes.parquet"}
