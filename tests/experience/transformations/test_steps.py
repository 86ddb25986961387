"""The examples of rlds' own tests and documentation, worked out by hand."""

from typing import Any

import numpy as np
import pytest

from experience import Episode
from experience import Step as OurStep
from experience.storage.values import same
from experience.transformations.patterns import Config, Moment, pattern_map, pattern_map_from_transform, reference_step
from experience.transformations.steps import (
    AlignmentType,
    add_alignment_to_step,
    apply_nested_steps,
    as_rlds,
    batch,
    concat_if_terminal,
    concatenate,
    episode_length,
    final_step,
    from_rlds,
    map_nested_steps,
    map_steps,
    mean_and_std,
    sar_fields_mask,
    shift_keys,
    step_spec,
    sum_dataset,
    sum_nested_steps,
    truncate_after_condition,
    uniform_from_spec,
    zero_dataset_like,
    zeros_from_spec,
)


def step(i: int, last: int, **more: Any) -> dict[str, Any]:
    ends = i == last
    return {
        "observation": {"x": np.float32(i), "y": np.array([i, -i], np.int32)},
        "action": None if ends else np.array([i * 10], np.int32),
        "reward": None if ends else float(i),
        "is_first": i == 0,
        "is_last": ends,
        "is_terminal": ends,
        **more,
    }


def episode(count: int, name: str = "e") -> dict[str, Any]:
    return {"steps": [step(i, count - 1) for i in range(count)], "episode_id": name}


def lists(windows: Any) -> list[list[int]]:
    return [window.tolist() for window in windows]


def test_batch() -> None:
    four = [1, 2, 3, 4]
    assert lists(batch(four, 2, 1)) == [[1, 2], [2, 3], [3, 4], [4]]
    assert lists(batch(four, 2, 1, drop_remainder=True)) == [[1, 2], [2, 3], [3, 4]]
    assert lists(batch(four, 2)) == [[1, 2], [3, 4]] and lists(batch(four, 3)) == [[1, 2, 3], [4]]
    assert lists(batch(four, 2, 1, 2)) == [[1, 3], [2, 4], [3], [4]]
    assert lists(batch(range(10), 2, 5)) == [[0, 1], [5, 6]] and lists(batch(range(7), 2, 5)) == [[0, 1], [5, 6]]
    assert lists(batch([], 2)) == [] and lists(batch(np.zeros((3, 15_000)), None))[0] == np.zeros((1, 15_000)).tolist()
    (whole,) = batch(episode(3)["steps"], 3)
    assert whole["observation"]["y"].tolist() == [[0, 0], [1, -1], [2, -2]] and whole["action"].tolist() == [
        [0],
        [10],
        [0],
    ]
    with pytest.raises(ValueError, match="above 0"):
        list(batch(four, 0))


def test_shift_keys() -> None:
    steps = [{"A": i, "B": i} for i in range(5)]
    assert list(shift_keys(steps, ["A"], -1)) == [{"A": i - 1, "B": i} for i in range(1, 5)]
    assert list(shift_keys(steps, ["A"], 2)) == [{"A": i + 2, "B": i} for i in range(3)]
    assert list(shift_keys(steps, ["A"], 7)) == [] and list(shift_keys(steps, ["A"], 0)) == steps


def test_alignment_says_how_a_step_is_aligned() -> None:
    assert [one.value for one in AlignmentType] == [1, 2, 3, 4]
    given = step(0, 1)
    assert add_alignment_to_step(given, AlignmentType.SAR)["alignment"] == 2 and "alignment" not in given


def test_concatenate_fills_with_zeros() -> None:
    one, other = [{"a": np.int32(1), "t": "x"}], [{"a": np.int32(2), "b": np.ones(2, "f4")}]
    first, second = concatenate(one, other)
    assert same(first, {"a": np.int32(1), "t": "x", "b": np.zeros(2, "f4")})
    assert same(second, {"a": np.int32(2), "b": np.ones(2, "f4"), "t": ""})
    assert list(concatenate([], other)) == other and list(concatenate(one, [])) == one


def test_concat_if_terminal() -> None:
    def absorbing(last: dict[str, Any]) -> list[dict[str, Any]]:
        return [{**last, "is_terminal": False, "absorbing": True}]

    ends = [{"x": 1, "is_terminal": False}, {"x": 2, "is_terminal": True}]
    assert [one.get("absorbing") for one in concat_if_terminal(ends, absorbing)] == [False, False, True]
    assert list(concat_if_terminal(ends[:1], absorbing)) == ends[:1]


def test_truncation_keeps_the_step_that_meets_the_condition() -> None:
    assert list(truncate_after_condition([1, 2, 3, 4], lambda x: x >= 2)) == [1, 2]
    assert list(truncate_after_condition([1, 2], lambda x: x > 9)) == [1, 2]
    assert list(truncate_after_condition([3, 1], lambda x: x > 2)) == [3]


def test_mean_and_sample_deviation_over_what_means_something() -> None:
    found = mean_and_std([episode(3), episode(2)], sar_fields_mask)
    # x: 0 1 2 0 1; actions: 0 10 0; rewards 0 1 0
    assert found.mean["observation"]["x"] == pytest.approx(4 / 5, abs=1e-15)
    assert found.std["observation"]["x"] == pytest.approx(np.std([0, 1, 2, 0, 1], ddof=1), abs=1e-15)
    assert found.mean["observation"]["y"] == pytest.approx([0.8, -0.8]) and found.mean["action"] == pytest.approx(
        [10 / 3]
    )
    assert found.std["reward"] == pytest.approx(np.std([0, 1, 0], ddof=1), abs=1e-15)
    assert np.isnan(mean_and_std([episode(1)], sar_fields_mask).std["observation"]["x"])
    assert sar_fields_mask(step(2, 2))[1] == {"observation": True, "action": False, "reward": False}


def test_maps_sums_lengths() -> None:
    episodes = [episode(3, "a"), episode(2, "b")]
    doubled = list(map_nested_steps(episodes, lambda s: {"x": 2 * s["observation"]["x"]}))
    assert [[s["x"] for s in e["steps"]] for e in doubled] == [[0, 2, 4], [0, 2]] and doubled[1]["episode_id"] == "b"
    first = list(apply_nested_steps(episodes, lambda steps: list(steps)[:1]))
    assert [len(e["steps"]) for e in first] == [1, 1] and len(episodes[0]["steps"]) == 3
    assert list(map_steps([1, 2], lambda x: -x)) == [-1, -2]
    assert same(sum_dataset(episodes[0]["steps"], lambda s: s["observation"]["y"]), np.array([3, -3], np.int32))
    assert same(sum_nested_steps(episodes, lambda s: {"n": s["observation"]["x"]}), {"n": np.float32(4)})
    assert (episode_length(iter(range(7))), final_step(iter([1, 2]))) == (7, 2)
    with pytest.raises(ValueError, match="at least one"):
        final_step([])


def test_specs() -> None:
    steps = [{"a": np.zeros((2, i), "f4"), "b": {"c": i, "d": "x"}, "n": None if i else np.int8(1)} for i in range(3)]
    spec = step_spec([{"steps": steps}])
    assert (spec["a"].shape, spec["b"]["c"].dtype, spec["n"].dtype) == ((2, None), np.dtype("int64"), np.dtype("int8"))
    assert same(zeros_from_spec({"a": spec["a"]}), {"a": np.zeros((2, 1), "f4")})
    assert same(zero_dataset_like([{"a": np.ones(3)}]), [{"a": np.zeros(3)}])
    drawn = uniform_from_spec({"a": spec["a"], "n": spec["n"]}, np.random.default_rng(0))
    assert (
        drawn["a"].dtype == np.float32 and 0 <= drawn["a"].min() <= drawn["a"].max() < 1 and drawn["n"].dtype == np.int8
    )


def test_patterns_respect_episodes() -> None:
    episodes = [episode(4, "a"), episode(3, "b")]
    pairs = list(
        pattern_map_from_transform(
            episodes,
            lambda s: {"x": s["observation"]["x"][-2:], "next": s["observation"]["y"][-1], "r": s["reward"][-2]},
        )
    )
    assert lists(pair["x"] for pair in pairs) == [[0, 1], [1, 2], [2, 3], [0, 1], [1, 2]]
    assert lists(pair["next"] for pair in pairs)[:2] == [[1, -1], [2, -2]] and [pair["r"] for pair in pairs] == [
        0,
        1,
        2,
        0,
        1,
    ]
    config = Config({"x": reference_step(episodes[0]["steps"][0])["observation"]["x"][-3::2]})
    assert lists(one["x"] for one in pattern_map(episodes, [config])) == [[0, 2], [1, 3], [0, 2]]
    across = pattern_map(episodes, [config], respect_episode_boundaries=False)
    assert lists(one["x"] for one in across) == [[0, 2], [1, 3], [2, 0], [3, 1], [0, 2]]


def test_conditions() -> None:
    episodes = [episode(5)]

    def given(*conditions: Any) -> list[int]:
        found = pattern_map_from_transform(episodes, lambda s: {"x": s["observation"]["x"][-1]}, conditions)
        return [int(one["x"]) for one in found]

    assert given(lambda m: m.step_index % 2 == 0) == [0, 2, 4] and given(lambda m: m.is_end_episode) == [4]
    assert given(lambda m: m.steps_since_applied >= 2) == [1, 3] and given(
        lambda m: m.step["observation"]["x"] > 2
    ) == [3, 4]
    assert given(lambda m: isinstance(m, Moment) and m.buffer_length == 1, lambda m: m.step_index > 3) == [4]


@pytest.mark.parametrize("key", [0, slice(None, -1), slice(-2, 1), slice(-3, None, -1), slice(2, None)])
def test_slices_look_back(key: Any) -> None:
    with pytest.raises(ValueError, match="expected start below 0"):
        reference_step({"x": 1})["x"][key]


def test_episodes_to_rlds_and_back() -> None:
    steps = (
        OurStep("o", "a", 1.0, 0.5, is_first=True, metadata={"m": 1}),
        OurStep("p", is_last=True, metadata={"m": 2}),
    )
    given = Episode(steps, "e", {"agent_id": "a"})
    assert from_rlds(as_rlds(given)) == given and as_rlds(given)["steps"][0]["m"] == 1
