"""tfds (with TensorFlow and without) and rlds read what we write, we read theirs, and we transform alike.

What Minari and LeRobot write is read too.

`make test-interop` makes the environments. Exceptions that are documented: nulls are zero or empty, what TFDS has no
feature for is a text of JSON, and without TensorFlow an empty sequence has no dtype.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experience import Episode, EpisodeDataset, Step, write_episodes
from experience.formats.sources import read_source
from experience.formats.targets import Wanted, export
from experience.transformations import steps as ours
from experience.transformations.patterns import pattern_map_from_transform
from experience.transformations.steps import as_rlds, sar_fields_mask
from tests.experience.formats.test_tfds import filled, rich
from tests.interop.episodes.dump import put


def environment(variable: str) -> str:
    """The Python of an environment that `make test-interop` made."""
    python = os.environ.get(variable, "")
    if not python:
        pytest.skip(f"{variable} names no environment; run `make test-interop`")
    return str(Path(python).absolute())


def theirs(variable: str, what: str, folder: Path, out: Path) -> dict[str, Any]:
    command = [environment(variable), str(Path(__file__).with_name("dump.py")), what, str(folder), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(out) as file:
        return normal(dict(file))


def normal(flat: dict[str, Any]) -> dict[str, Any]:
    """Leaves as what can be compared: lists of leaves as one, byte strings as such, all else as bits."""
    found: dict[str, Any] = {}
    lists = sorted((name[:-2] for name in flat if name.endswith("/#")), key=len)
    for name in lists:
        inner = [flat.get(f"{name}/{i}", flat.get(f"{name}/{i}/$bytes")) for i in range(int(flat[f"{name}/#"]))]
        text = any(f"{name}/{i}/$bytes" in flat for i in range(len(inner)))
        found[name] = _texts(inner) if text else _bits(np.array(inner) if inner else np.zeros(0))
    for name, value in flat.items():
        if not any(name.startswith(f"{one}/") for one in lists):
            found[name.removesuffix("/$bytes")] = _texts([value]) if name.endswith("/$bytes") else _bits(value)
    return found


def _bits(array: Any) -> Any:
    return "empty" if array.shape == (0,) else (str(array.dtype), array.shape, array.tobytes())


def _texts(parts: list[Any]) -> Any:
    return [one for part in parts for one in json.loads(bytes(part))] or "empty"


def as_they_have_it(value: Any) -> Any:
    """Our values as TFDS has them: lists of dicts as dicts of lists, texts as bytes."""
    if isinstance(value, dict):
        return {name: as_they_have_it(one) for name, one in value.items()}
    if isinstance(value, list):
        if value and isinstance(value[0], dict):
            return {name: as_they_have_it([one[name] for one in value]) for name in value[0]}
        return [as_they_have_it(one) for one in value]
    if isinstance(value, str):
        return value.encode()
    return value


def flat(episodes: list[Episode]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for number, episode in enumerate(episodes):
        for place, step in enumerate(episode.steps):
            fields = as_they_have_it(step.fields())
            fields["observation"].pop("free")
            if not fields["observation"]["messages"]:
                fields["observation"]["messages"] = {"role": [], "content": []}
            put(found, f"train/{number}/steps/{place}", fields)
        put(found, f"train/{number}", {"episode_id": episode.episode_id.encode(), "score": episode.metadata["score"]})
    return normal(found)


@pytest.mark.parametrize(
    ("variable", "what", "form"),
    [
        ("EPISODES_RLDS_PYTHON", "read_with_tensorflow", "tfds"),
        ("EPISODES_TENSORFLOW_PYTHON", "read_with_tensorflow", "tfds"),
        ("EPISODES_TFDS_PYTHON", "read_without_tensorflow", "tfds-array-record"),
    ],
)
def test_they_read_what_we_write(tmp_path: Path, variable: str, what: str, form: str) -> None:
    episodes = [rich(n, 1 + n % 5) for n in range(6)]
    write_episodes(tmp_path / "a", episodes)
    list(export(EpisodeDataset(tmp_path / "a"), form, tmp_path / "b", Wanted("rich")))
    found = theirs(variable, what, tmp_path / "b" / "rich" / "1.0.0", tmp_path / "out.npz")
    expected = flat([filled(episode) for episode in episodes])
    assert len(expected) > 300
    for name, value in expected.items():
        assert found[name] == value, name


def test_we_read_what_they_write(tmp_path: Path) -> None:
    given = theirs("EPISODES_RLDS_PYTHON", "write_with_tensorflow", tmp_path / "theirs", tmp_path / "given.npz")
    source = read_source(tmp_path / "theirs")
    found: dict[str, Any] = {}
    for episode in source.episodes:
        for place, step in enumerate(episode.steps):
            put(found, f"{episode.episode_id}/{place}", as_they_have_it(step.fields()))
    assert sorted(source.splits.items()) == [(f"e{n}", "test" if n == 3 else "train") for n in range(5)]
    got = normal(found)
    for name, value in given.items():
        if name.endswith("/image"):
            assert got[name][0][:16] == b"\x89PNG\r\n\x1a\n".hex()
        else:
            assert got[name] == value, name


@pytest.mark.parametrize("form", ["hdf5", "arrow"])
def test_we_read_what_minari_writes(tmp_path: Path, form: str) -> None:
    given = theirs("EPISODES_MINARI_PYTHON", "write_with_minari", tmp_path / "minari", tmp_path / "given.npz")
    source = read_source(tmp_path / "minari" / form)
    episodes = list(source.episodes)
    found: dict[str, Any] = {}
    for number, episode in enumerate(episodes):
        for i, step in enumerate(episode.steps):
            place, text = step.observation["both"]
            put(found, f"{form}/{number}/{i}", {"x": step.observation["x"], "0": place, "1": text.encode()})
            if step.action is not None:
                put(found, f"{form}/{number}/{i}", {"action": step.action, "reward": step.reward})
            assert step.observation["picture"][:3] == b"\xff\xd8\xff"
            assert int(step.metadata["infos"]["k"]) == 2 * i and step.metadata["infos"]["m"].shape == (2, 2)
    assert normal(found) == {name: value for name, value in given.items() if name.startswith(form)}
    assert [len(episode.steps) for episode in episodes] == [3, 4, 5] and source.notes == []
    assert [episode.is_truncated for episode in episodes] == [False, True, False]
    assert [episode.steps[-2].discount for episode in episodes] == [0.0, 1.0, 0.0]
    assert (episodes[1].episode_id, episodes[1].metadata["seed"]) == (f"made/{form}-v0/1", 8)
    assert episodes[0].metadata["agent_id"] == "counting"
    write_episodes(tmp_path / "ours", episodes)
    assert list(EpisodeDataset(tmp_path / "ours").check()) == []


def test_we_read_what_lerobot_writes(tmp_path: Path) -> None:
    given = theirs("EPISODES_LEROBOT_PYTHON", "write_with_lerobot", tmp_path / "theirs", tmp_path / "given.npz")
    source = read_source(tmp_path / "theirs")
    episodes = list(source.episodes)
    found: dict[str, Any] = {}
    for number, episode in enumerate(episodes):
        for i, step in enumerate(episode.steps):
            seen = dict(step.observation)
            assert seen.pop("images.wrist")[:8] == b"\x89PNG\r\n\x1a\n"
            top = seen.pop("images.top")
            assert (tmp_path / "theirs" / top["video"]).is_file()
            assert top["time_s"] == pytest.approx((sum(len(one.steps) for one in episodes[:number]) + i) / 10)
            numbers = {f"observation.{name}": value for name, value in seen.items()}
            numbers |= {"action": step.action, "next.reward": step.reward, "next.done": step.is_terminal}
            put(found, f"{number}/{i}", {**numbers, "words": step.metadata["words"].encode()})
    expected = {name: value for name, value in given.items() if "/observation.images" not in name}
    scalars = ("observation.count", "next.reward", "next.done")  # a shape of (1,) is a number in LeRobot's files
    expected |= {n: (v[0], (), v[2]) for n, v in expected.items() if n.rsplit("/", 1)[1] in scalars}
    assert normal(found) == expected and len(expected) == 9 * 7
    assert [len(episode.steps) for episode in episodes] == [2, 3, 4] and len(source.notes) == 1
    assert [episode.metadata["tasks"] for episode in episodes] == [["lift"], ["drop"], ["lift"]]
    write_episodes(tmp_path / "ours", episodes)
    assert list(EpisodeDataset(tmp_path / "ours").check()) == []


def random_episodes(seed: int) -> list[Episode]:
    random = np.random.default_rng(seed)
    made = []
    for number in range(8):
        last = int(random.integers(2, 9))
        steps = [
            Step(
                {"x": random.normal(size=2)},
                None if i == last else random.normal(size=1),
                None if i == last else np.float64(random.random()),
                None if i == last else np.float32(random.random()),
                i == 0,
                i == last,
                i == last and number % 2 == 0,
            )
            for i in range(last + 1)
        ]
        made.append(Episode(tuple(steps), f"e{number}"))
    return made


@pytest.mark.parametrize("seed", [1, 2])
def test_we_transform_as_rlds_does(tmp_path: Path, seed: int) -> None:
    write_episodes(tmp_path / "a", random_episodes(seed))
    list(export(EpisodeDataset(tmp_path / "a"), "tfds", tmp_path / "b", Wanted("plain")))
    folder = tmp_path / "b" / "plain" / "1.0.0"
    command = [environment("EPISODES_RLDS_PYTHON"), str(Path(__file__).with_name("dump.py")), "transformed_by_rlds"]
    done = subprocess.run(
        [*command, str(folder), str(tmp_path / "out.npz")], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(tmp_path / "out.npz") as file:
        expected = dict(file)
    found = transformed_by_us([as_rlds(episode) for episode in read_source(folder).episodes])
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if name.split("/")[0] in ("mean", "std", "sum", "return"):
            assert np.allclose(found[name], value, rtol=1e-12, atol=1e-12, equal_nan=True), name
        else:
            assert found[name].shape == value.shape and np.array_equal(found[name], value), name


def transformed_by_us(episodes: list[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def of_each(name: str, function: Any) -> None:
        for number, episode in enumerate(episodes):
            for place, one in enumerate(function(episode["steps"])):
                put(found, f"{name}/{number}/{place}", as_they_have_it(one))

    first = ("reward", "discount")
    of_each("batch 2 1 1", lambda steps: ours.batch(steps, 2, 1, 1))
    of_each("batch 2 1 2", lambda steps: ours.batch(steps, 2, 1, 2))
    of_each("batch 3 3 1 drop", lambda steps: ours.batch(steps, 3, drop_remainder=True))
    of_each("batch 2 4 1", lambda steps: ours.batch(steps, 2, 4, 1))
    of_each("shift 1", lambda steps: ours.shift_keys(steps, first, 1))
    of_each("shift -2", lambda steps: ours.shift_keys(steps, first, -2))
    of_each("truncate", lambda steps: ours.truncate_after_condition(steps, lambda step: step["reward"] > 0.5))
    extra = [{"is_terminal": False}]
    of_each("absorbing", lambda steps: ours.concat_if_terminal(steps, lambda step: extra))
    of_each("zeros", ours.zero_dataset_like)
    of_each("negated", lambda steps: ours.map_steps(steps, lambda step: {"reward": -step["reward"]}))
    mean, std = ours.mean_and_std(episodes, sar_fields_mask)
    put(found, "mean", mean)
    put(found, "std", std)
    put(found, "sum", ours.sum_nested_steps(episodes, lambda step: step["reward"]))
    for number, episode in enumerate(episodes):
        put(found, f"length/{number}", ours.episode_length(episode["steps"]))
        put(found, f"final/{number}", ours.final_step(episode["steps"]))
        put(found, f"return/{number}", ours.sum_dataset(episode["steps"], lambda step: step["reward"]))

    def pattern(step: Any) -> Any:
        return {"o": step["observation"]["x"][-3:], "r": step["reward"][-2]}

    for name, boundaries in (("pattern", True), ("pattern across", False)):
        for place, one in enumerate(pattern_map_from_transform(episodes, pattern, (), boundaries)):
            put(found, f"{name}/{place}", one)
    return found
