"""Choosing among small runs: the right one is found, rewards change nothing, what cannot be computed is named."""

import json
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from experience import Episode, Step, write_episodes
from finetune.choosing import judging
from finetune.choosing.runs import read_runs
from finetune.cli import app
from finetune.selection.support import fit_support
from tests.finetune.choosing.small import demonstrate, make_run

NUMBERS = ("action_error", "state_distance", "support", "imitation_return")


def choose(out: Path, runs: list[Path], data: Path, *more: str, status: int = 0) -> str:
    proxies = [word for name in NUMBERS for word in ("--proxy", name)] if "--proxy" not in more else []
    words = ["choose", *map(str, runs), *proxies, "--data", str(data), "--out", str(out), "--quiet", *more]
    result = CliRunner().invoke(app, words)
    if status == 2:
        assert result.exception is not None
        return str(result.exception)
    assert result.exit_code == status, (result.output, result.exception)
    return result.output


@pytest.fixture(scope="module", autouse=True)
def little_support() -> Iterator[None]:
    """The predictor of the support is fitted in 100 steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judging, "fit_support", partial(fit_support, steps=100))
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("choosing")
    demonstrate(folder / "expert")
    make_run(folder / "good", {100: 0.0, 200: 0.55, 300: 0.2})
    make_run(folder / "weak", {100: 0.1, 200: 0.15})
    make_run(folder / "wrong", {100: -0.5})
    return folder


@pytest.fixture(scope="module")
def chosen(made: Path) -> Path:
    runs = [made / name for name in ("wrong", "weak", "good")]
    said = choose(made / "choice", runs, made / "expert")
    assert [line.split(" | ")[1] for line in said.splitlines()[2:5]] == ["good", "weak", "wrong"]
    return made / "choice"


def test_the_run_nearest_to_the_expert_is_chosen(made: Path, chosen: Path) -> None:
    found = json.loads((chosen / "chosen.json").read_text())
    assert (found["run"], found["step"]) == ("good", 200) and found["left_out"] == []
    assert found["checkpoint"] == str(made / "good" / "checkpoints" / "0000200" / "policy.safetensors")
    assert set(found["proxies"]) == set(NUMBERS)
    rows = [json.loads(line) for line in (chosen / "scores.jsonl").read_text().splitlines()]
    assert len(rows) == 6 * 4 and all(row["ci95"][0] <= row["value"] <= row["ci95"][1] for row in rows)
    held_out = {row["n_groups"] for row in rows if row["proxy"] == "action_error"}
    assert held_out == {2} and {row["n"] for row in rows if row["proxy"] == "action_error"} == {4}


def test_the_page_has_all_and_fetches_nothing(chosen: Path) -> None:
    page = (chosen / "choice.html").read_text()
    assert page.count("<svg") == 4 and "No reward was read" in page
    assert "action_error ↓" in page and "imitation_return ↑" in page
    assert "1: good " in page and "3: wrong " in page
    assert "src=" not in page and "href=" not in page and "<script" not in page


@pytest.mark.parametrize("how", ["removed", "other", "poisoned"])
def test_no_reward_changes_the_choice(made: Path, chosen: Path, tmp_path: Path, how: str) -> None:
    """The columns are taken out of every table, hold another reward, or cannot be read at all."""
    shutil.copytree(made, tmp_path / "made")
    for path in (tmp_path / "made").rglob("*.parquet"):
        if how == "poisoned":
            poison(path)
            continue
        table = pq.read_table(path)
        names = [name for name in ("reward", "discount", "outcome") if name in table.column_names]
        if how == "removed":
            table = table.drop_columns(names)
        elif "reward" in names:
            place = table.column_names.index("reward")
            table = table.set_column(place, table.schema.field(place), table["reward"].combine_chunks().fill_null(-9))
        pq.write_table(table, path)
    runs = [tmp_path / "made" / name for name in ("wrong", "weak", "good")]
    choose(tmp_path / "choice", runs, tmp_path / "made" / "expert")
    for name in ("scores.jsonl", "ranking.md"):
        assert (tmp_path / "choice" / name).read_bytes() == (chosen / name).read_bytes()
    found = json.loads((tmp_path / "choice" / "chosen.json").read_text())
    assert (found["run"], found["step"]) == ("good", 200)


def poison(path: Path) -> None:
    """Make the reward's bytes such that whoever reads them fails."""
    meta, data = pq.ParquetFile(path).metadata, bytearray(path.read_bytes())
    for group in range(meta.num_row_groups):
        for place in range(meta.num_columns):
            column = meta.row_group(group).column(place)
            if column.path_in_schema in ("reward", "discount", "outcome"):
                start = column.dictionary_page_offset or column.data_page_offset
                data[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    path.write_bytes(bytes(data))


def test_what_a_run_lacks_is_named_and_the_rest_is_computed(made: Path, tmp_path: Path) -> None:
    bare = make_run(tmp_path / "bare", {100: 0.5, 200: 0.3}, rollouts=False)
    said = choose(tmp_path / "choice", [made / "good", bare], made / "expert", status=1)
    for proxy in NUMBERS[1:]:
        assert f"bare: no {proxy}: has no episodes of its own (rollouts/STEP); record some" in said
    found = json.loads((tmp_path / "choice" / "chosen.json").read_text())
    assert found["run"] in ("good", "bare") and len(found["left_out"]) == 3
    assert "Not computed" in (tmp_path / "choice" / "choice.html").read_text()


def test_a_broken_checkpoint_is_named(made: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {100: float("nan"), 200: 0.4}, rollouts=False)
    said = choose(tmp_path / "choice", [run], made / "expert", "--proxy", "action_error", status=1)
    assert "run: no action_error at step 100: is nan: what this checkpoint gives is not finite" in said
    assert json.loads((tmp_path / "choice" / "chosen.json").read_text())["step"] == 200
    path = run / "checkpoints" / "0000100" / "policy.safetensors"
    path.write_bytes(path.read_bytes()[:-40])
    said = choose(tmp_path / "again", [run], made / "expert", "--proxy", "action_error", status=1)
    assert f"run: no action_error at step 100: {path}: weights do not load" in said
    save_file({"weight": torch.zeros(2)}, path)
    said = choose(tmp_path / "again", [run], made / "expert", "--proxy", "action_error", status=1)
    assert f"at step 100: {path}: says no shape of a policy" in said


def test_a_proxy_that_no_policy_of_this_kind_has_is_named(made: Path, tmp_path: Path) -> None:
    proxies = ["--proxy", "token_nll", "--proxy", "action_error"]
    said = choose(tmp_path / "choice", [made / "good"], made / "expert", *proxies, status=1)
    assert "good: no token_nll: is of texts, and the demonstrations' actions are numbers; take action_error" in said
    fault = choose(tmp_path / "none", [made / "good"], made / "expert", "--proxy", "token_nll", status=2)
    assert fault.startswith("no proxy can be computed for any run: good: no token_nll")
    fault = choose(tmp_path / "none", [made / "good"], made / "expert", "--proxy", "reward", status=2)
    assert fault == f"--proxy reward: unknown; choose of {', '.join(('action_error', 'token_nll', *NUMBERS[1:]))}"


def test_demonstrations_of_another_action_space_are_named(made: Path, tmp_path: Path) -> None:
    steps = [Step(np.zeros(2, np.float32), 1, is_first=True), Step(np.zeros(2, np.float32), is_last=True)]
    write_episodes(tmp_path / "choosing", [Episode(tuple(steps), f"e{n}", {}) for n in range(4)])
    fault = choose(tmp_path / "choice", [made / "weak"], tmp_path / "choosing", status=2)
    assert "weak: no action_error: the policy's actions have the shape (2,), the demonstrations' ()" in fault
    assert "its actions are 2 numbers, the demonstrations' one of several" in fault
    steps = [Step(np.zeros(3, np.float32), np.zeros(2), is_first=True), Step(np.zeros(3, np.float32), is_last=True)]
    write_episodes(tmp_path / "wide", [Episode(tuple(steps), f"e{n}", {}) for n in range(4)])
    fault = choose(tmp_path / "choice", [made / "weak"], tmp_path / "wide", status=2)
    assert "takes states of 2 numbers, the demonstrations have 3: they are of another space" in fault


def test_one_group_alone_leaves_what_needs_none_held_out(made: Path, tmp_path: Path) -> None:
    demonstrate(tmp_path / "one", num_groups=1)
    said = choose(tmp_path / "choice", [made / "good", made / "wrong"], tmp_path / "one", status=1)
    assert "good: no action_error: all 2 demonstrations are of one group ('patient-0'); none can be held out" in said
    found = json.loads((tmp_path / "choice" / "chosen.json").read_text())
    assert set(found["proxies"]) == {"support", "imitation_return"} and found["run"] == "good"
    told = ["--held-out", "1", "--proxy", "action_error"]
    said = choose(tmp_path / "all", [made / "good", made / "wrong"], tmp_path / "one", *told)
    found = json.loads((tmp_path / "all" / "chosen.json").read_text())
    assert found["run"] == "good" and found["first_in_resamples"] is None and said.count("| – |") == 2
    assert "it rests on one group of episodes" in (tmp_path / "all" / "choice.html").read_text()


def test_runs_that_are_none_are_named(made: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such folder; give the --out of a run"):
        read_runs([tmp_path / "nowhere"])
    with pytest.raises(ValueError, match="holds no checkpoint; expected checkpoints/STEP"):
        read_runs([tmp_path])
    with pytest.raises(ValueError, match="given twice"):
        read_runs([made / "good", made / "weak" / ".." / "good"])
    words = ["choose", str(made / "good"), "--proxy", "action_error", "--out", str(tmp_path / "c")]
    assert str(CliRunner().invoke(app, words).exception).startswith("nothing judges; give demonstrations (--data")
    assert choose(tmp_path / "c", [made / "good"], made / "expert", "--held-out", "2", status=2).startswith(
        "--held-out 2"
    )


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / seed / "run", {1: 0.1}, rollouts=False) for seed in ("a", "b")]
    assert [run.name for run in read_runs(folders)] == ["a/run", "b/run"]
    trial = make_run(tmp_path / "trials" / "7", {1: 0.1}, rollouts=False)
    assert [run.name for run in read_runs([trial])] == ["trials/7"]


def test_a_run_that_held_out_others_is_refused_where_that_matters(made: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {100: 0.4})
    (run / "config.yaml").write_text("held_out_share: 0.1\nseed: 3\ngroup: null\n")
    said = choose(tmp_path / "choice", [run], made / "expert", "--held-out", "0.2", status=1)
    refused = "run: no action_error: was trained with other demonstrations held out; choose among runs of its division"
    assert f"{refused} by --held-out 0.1 --seed 3, or by data that no run has seen (--held-out 1)" in said
    assert "no support" not in said
    choose(tmp_path / "again", [run], made / "expert", "--held-out", "0.1", "--seed", "3", "--proxy", "action_error")
    choose(tmp_path / "as it says", [run], made / "expert", "--proxy", "action_error")
    one, other = ((tmp_path / name / "scores.jsonl").read_text() for name in ("again", "as it says"))
    assert one == other


def test_runs_of_several_seeds_that_divided_alike_are_chosen_among(made: Path, tmp_path: Path) -> None:
    """A run of before the setting divided by the seed that it trained with."""
    divided = {"now": "seed: 8\ndivision_seed: 3", "again": "seed: 9\ndivision_seed: 3", "before": "seed: 3"}
    runs = {name: make_run(tmp_path / name, {100: 0.4}, rollouts=False) for name in (*divided, "otherwise")}
    for name, seeds in (divided | {"otherwise": "seed: 3\ndivision_seed: 4"}).items():
        (runs[name] / "config.yaml").write_text(f"held_out_share: 0.3\n{seeds}\ngroup: null\n")
    given = ["--proxy", "action_error"]
    said = choose(tmp_path / "choice", list(runs.values()), made / "expert", *given, status=1)
    rows = [json.loads(line) for line in (tmp_path / "choice" / "scores.jsonl").read_text().splitlines()]
    assert [row["run"] for row in rows] == list(divided) and len({row["value"] for row in rows}) == 1
    assert "otherwise: no action_error: was trained with other demonstrations held out" in said
    assert "by --held-out 0.3 --seed 4, or" in said


@pytest.mark.parametrize("text", ["held_out_share: much\nseed: 3", "held_out_share: 0.1\ndivision_seed: x", "a: [b"])
def test_a_division_that_cannot_be_read_is_named(tmp_path: Path, text: str) -> None:
    run = make_run(tmp_path / "run", {100: 0.4}, rollouts=False)
    (run / "config.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"config\.yaml: (is no YAML|held_out_share, division_seed or group is none)"):
        read_runs([run])


def test_long_names_fit_beside_the_lines(made: Path, tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / f"learning-rate-of-a-thousandth-seed-{n}", {1: 0.1 * n}, rollouts=False) for n in (1, 2)
    ]
    choose(tmp_path / "choice", runs, made / "expert", "--proxy", "action_error")
    page = (tmp_path / "choice" / "choice.html").read_text()
    assert ">1: learni…-seed-2 0." in page and ">2: learni…-seed-1 0." in page
