"""TFDS folders: the real sample read, and our own writing read again bit for bit."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest

from experience import Episode, EpisodeDataset, Step, write_episodes
from experience.formats.example import parse_example, serialize_example
from experience.formats.records import read_records, write_records
from experience.formats.sources import read_source
from experience.formats.targets import Wanted, export
from experience.formats.tfds import read_tfds
from experience.storage.values import same, sha256_of
from tests.experience.values import bits


def rich(number: int, num_steps: int = 4, **metadata: object) -> Episode:
    """An episode of everything that TFDS has a feature for."""
    last = num_steps - 1
    steps = [
        Step(
            {
                "state": np.array([-0.0, bits(0x7FC12345, "f4")[0], number], "f4"),
                "precise": np.array([1 / 3, bits(0x7FF8000000000042, "f8")[0]]),
                "half": bits(0x7E01, "f2")[0],
                "tokens": np.arange(i, dtype="i4"),
                "logits": np.arange(i, dtype="f8"),
                "pixels": np.full((2, 2, 3), i, np.uint8),
                "frames": np.ones((i, 2), np.int16),
                "large": np.uint64(2**64 - 1 - i),
                "one": np.ones(1, "f4"),
                "picture": b"\x89PNG\x00\xff" * i,
                "text": "Äß “\U0001f600”" * i,
                "flag": i % 2 == 0,
                "count": -i,
                "messages": [{"role": "user", "content": f"m{j}"} for j in range(i)],
                "names": ["a", ""][:i],
                "free": [{"x": 1.5}, "two", None][i % 3],
            },
            None if i == last else np.array([0.5, -1], "f4"),
            None if i == last else 0.1,
            None if i == last else np.float32(0.99),
            i == 0,
            i == last,
            i == last,
            {"note": f"n{i}"},
        )
        for i in range(num_steps)
    ]
    return Episode(tuple(steps), f"e{number}", {"agent_id": "a", "score": 1 / 3, "seed": number, **metadata})


def filled(episode: Episode) -> Episode:
    """What null becomes on the way."""
    *before, last = episode.steps
    last = Step(last.observation, np.zeros(2, "f4"), 0.0, np.float32(0), last.is_first, True, True, last.metadata)
    return Episode((*before, last), episode.episode_id, episode.metadata)


def assert_alike(given: Episode, found: Episode) -> None:
    """Bit-equal but for what TFDS does not tell apart: Python's numbers from NumPy's, and texts of JSON."""
    assert (given.episode_id, len(given.steps)) == (found.episode_id, len(found.steps))
    for one, other in zip(given.steps, found.steps, strict=True):
        expected = {**one.fields()["observation"], **{k: v for k, v in one.fields().items() if k != "observation"}}
        got = {**other.fields()["observation"], **{k: v for k, v in other.fields().items() if k != "observation"}}
        assert expected.keys() == got.keys()
        for name, value in expected.items():
            if name == "free":
                assert json.loads(got[name]) == value
            elif isinstance(value, bool | int | float) and not isinstance(value, np.generic):
                kind = {bool: np.bool_, int: np.int64, float: np.float64}[type(value)]
                assert same(kind(value), got[name] if type(got[name]) is not bool else np.bool_(got[name])), name
            else:
                assert same(value, got[name]), (name, value, got[name])


@pytest.mark.parametrize("form", ["tfds", "tfds-array-record"])
def test_what_we_write_we_read(tmp_path: Path, form: str) -> None:
    episodes = [rich(n, 1 + n % 5) for n in range(7)]
    write_episodes(tmp_path / "a", episodes, split=lambda episode: "val" if episode.episode_id == "e3" else "train")
    lines = list(export(EpisodeDataset(tmp_path / "a"), form, tmp_path / "b", Wanted("rich")))
    assert lines == [f"{tmp_path / 'b'}: 7 episodes (train 6, val 1)"]
    source = read_source(tmp_path / "b")
    found = {episode.episode_id: episode for episode in source.episodes}
    assert source.splits["e3"] == "val" and source.notes == [] and len(found) == 7
    for episode in episodes:
        assert_alike(filled(episode), found[episode.episode_id])
        assert same(
            dict(found[episode.episode_id].metadata),
            {"agent_id": "a", "score": 1 / 3, "seed": np.int64(episode.metadata["seed"])},
        )


def test_nulls_and_invalid_episodes_are_told(tmp_path: Path) -> None:
    episode = Episode(
        (Step("a", None, 1.0, is_first=True), Step("b", "act", 2.0)), "cut", {"invalid": True, "why": None}
    )
    write_episodes(tmp_path / "a", [episode, Episode((Step("c", is_first=True, is_last=True),), "e", {"why": "x"})])
    notes = list(export(EpisodeDataset(tmp_path / "a"), "tfds", tmp_path / "b", Wanted()))
    nulls = "1 nulls are written as zero or empty"
    assert notes[:-1] == [f"note: {column}: {nulls}" for column in ("action", "why", "invalid")]
    cut, whole = read_source(tmp_path / "b").episodes
    assert (cut.is_invalid, whole.is_invalid, cut.steps[1].is_last) == (True, False, False)
    only = list(export(EpisodeDataset(tmp_path / "a"), "tfds", tmp_path / "c", Wanted(valid_only=True)))
    assert only[-1].endswith("1 episodes (train 1)")


def test_splits_by_group(tmp_path: Path) -> None:
    write_episodes(tmp_path / "a", [rich(n, group=f"g{n // 2}") for n in range(20)])
    list(export(EpisodeDataset(tmp_path / "a"), "tfds", tmp_path / "b", Wanted(split_by="group")))
    source = read_source(tmp_path / "b")
    sides = {episode.metadata["group"]: set() for episode in source.episodes}
    for name, split in source.splits.items():
        sides[f"g{int(name[1:]) // 2}"].add(split)
    assert all(len(one) == 1 for one in sides.values()) and {"train"} < set(source.splits.values())


@pytest.mark.parametrize(
    ("form", "wanted", "message"),
    [
        ("zip", Wanted(), "expected tfds"),
        ("tfds", Wanted("A b"), "lower case"),
        ("hub", Wanted(split_by="x"), "'x' in its"),
    ],
)
def test_what_cannot_be_exported(tmp_path: Path, form: str, wanted: Wanted, message: str) -> None:
    write_episodes(tmp_path / "a", [rich(1)])
    with pytest.raises(ValueError, match=message):
        list(export(EpisodeDataset(tmp_path / "a"), form, tmp_path / "b", wanted))
    with pytest.raises(ValueError, match="is there already"):
        list(export(EpisodeDataset(tmp_path / "a"), "tfds", tmp_path, Wanted()))


@pytest.mark.kit
def test_the_real_sample(kit: Path, tmp_path: Path) -> None:
    folder = kit / "rlds-bridge-sample"
    source = read_source(folder)
    episodes = list(source.episodes)
    assert list(source.splits.values()) == ["train"] * 6 + ["val"] * 3
    assert source.notes == ["some episodes have no last step: they were cut, and are marked invalid"]
    step = episodes[0].steps[1]
    raw = next(read_records(next(folder.rglob("*train.tfrecord*")), "tfrecord"))
    columns = parse_example(raw)
    assert list(step.observation) == ["image_1", "state", "image_0", "image_2", "image_3"]
    assert (
        step.observation["image_0"] == columns["steps/observation/image_0"][1]
        and step.observation["image_0"][:2] == b"\xff\xd8"
    )
    assert same(step.action, columns["steps/action"][7:14]) and same(step.reward, columns["steps/reward"][1])
    assert step.metadata["language_embedding"].shape == (512,)
    assert same(step.metadata["language_instruction"].encode(), columns["steps/language_instruction"][1])
    assert serialize_example(parse_example(raw)) == serialize_example(columns) and len(
        serialize_example(columns)
    ) == len(raw)
    write_episodes(tmp_path, episodes)
    assert [sha256_of(e) for e in EpisodeDataset(tmp_path)] == [sha256_of(e) for e in episodes]
    assert [e.episode_id for e in read_source(folder, "val").episodes] == [f"bridge_dataset/val/{n}" for n in range(3)]
    with pytest.raises(ValueError, match="no split 'test'; expected one of train, val"):
        read_source(folder, "test")


def test_records_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "x.tfrecord"
    write_records(path, [b"one", b"", b"three"], "tfrecord")
    assert list(read_records(path, "tfrecord")) == [b"one", b"", b"three"]
    whole = path.read_bytes()
    assert whole[:8] == struct.pack("<Q", 3) and len(whole) == 3 * 16 + 8
    for damaged, record in [(whole[:-1], 2), (whole[:5], 0), (whole[:13] + b"X" + whole[14:], 0), (whole + b"\x00", 3)]:
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=f"x.tfrecord: record {record} is cut or broken"):
            list(read_records(path, "tfrecord"))
    with pytest.raises(ValueError, match="expected tfrecord or array_record"):
        list(read_records(path, "riegeli"))


def test_varints_at_their_limits() -> None:
    numbers = np.array([0, 1, 127, 128, 300, 2**31, 2**63 - 1, -1, -(2**63)], np.int64)
    floats = np.array([1.5, -0.0], "f4")
    record = serialize_example({"i": numbers, "f": floats, "b": [b"", b"x" * 200], "none": np.zeros(0, np.int64)})
    found = parse_example(record)
    assert same(found["i"], numbers) and same(found["f"], floats) and found["b"] == [b"", b"x" * 200]
    # one int64 written by hand, unpacked: Example{features{feature{"a", {int64_list{value: 300}}}}}
    assert same(parse_example(bytes.fromhex("0a0c0a0a0a016112051a0308ac02"))["a"], np.array([300]))
    with pytest.raises(ValueError, match=r"no tf\.train\.Example"):
        parse_example(b"\x0a\xff\x01")


def test_a_foreign_data_set_with_other_names_and_flags(tmp_path: Path) -> None:
    """`step` and `split` are kept names here; is_last is on two steps; the episode's id is no text."""
    from experience.formats.features import Feature, encode_record, to_json

    number = Feature("tensor", dtype="int64")
    step = Feature("dict", {"observation": number, "is_last": Feature("tensor", dtype="bool"), "step": number})
    feature = Feature("dict", {"steps": Feature("sequence", item=step, is_dataset=True), "split": Feature("text")})
    record = encode_record(
        feature, {"steps": [{"observation": i, "is_last": i > 0, "step": i} for i in range(3)], "split": "x"}
    )
    (tmp_path / "features.json").write_text(json.dumps(to_json(feature)))
    info = {"name": "odd", "version": "1.0.0", "splits": [{"name": "train", "shardLengths": ["2"]}]}
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    write_records(tmp_path / "odd-train.tfrecord-00000-of-00001", [record], "tfrecord")
    source = read_tfds(tmp_path)
    episode = next(source.episodes)
    assert [s.metadata for s in episode.steps] == [{"is_last_original": i > 0, "step_": i} for i in range(3)]
    assert [s.is_last for s in episode.steps] == [False, False, True] and episode.metadata == {"split_": "x"}
    assert len(source.notes) == 5 and episode.episode_id == "odd/train/0"
    with pytest.raises(ValueError, match="has 1 episodes; dataset_info.json says 2"):
        next(source.episodes)
