"""What the functions over tables give is what those over streams give, on random episodes of random lengths."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from experience import Episode, EpisodeDataset, Step, write_episodes
from experience.transformations import steps, tables
from experience.transformations.patterns import pattern_map_from_transform, reference_step
from experience.transformations.steps import AlignmentType, as_rlds


def random_episode(random: np.random.Generator, number: int) -> Episode:
    last = int(random.integers(0, 7))
    made = [
        Step(
            {"x": random.normal(size=3), "n": np.int32(i)},
            None if i == last else random.normal(size=2).astype("f4"),
            None if i == last else float(random.normal()),
            None if i == last else 1.0,
            i == 0,
            i == last,
            i == last and number % 2 == 0,
            {"tag": f"{number}/{i}"},
        )
        for i in range(last + 1)
    ]
    return Episode(tuple(made), f"e{number}")


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], pa.Table]:
    folder = Path(tmp_path_factory.mktemp("tables"))
    random = np.random.default_rng(3)
    episodes = [random_episode(random, n) for n in range(30)]
    write_episodes(folder, episodes)
    return [as_rlds(episode) for episode in episodes], pa.concat_tables(EpisodeDataset(folder).tables())


def of_each(episodes: list[dict[str, Any]], function: Any) -> list[Any]:
    return [one for episode in episodes for one in function(episode["steps"])]


@pytest.mark.parametrize(
    ("size", "shift", "stride", "drop"), [(2, 1, 1, False), (3, 3, 1, True), (2, 2, 2, False), (2, 5, 1, False)]
)
def test_batch(both: Any, size: int, shift: int, stride: int, drop: bool) -> None:
    episodes, table = both
    expected = of_each(episodes, lambda s: steps.batch(s, size, shift, stride, drop))
    found = tables.batch(table, size, shift, stride, drop)
    assert found["tag"].to_pylist() == [window["tag"].tolist() for window in expected] != []
    assert [[row["n"] for row in window] for window in found["observation"].to_pylist()] == [
        window["observation"]["n"].tolist() for window in expected
    ]


@pytest.mark.parametrize("shift", [1, -1, 3, -2, 0])
def test_shift_keys(both: Any, shift: int) -> None:
    episodes, table = both
    expected = of_each(episodes, lambda s: steps.shift_keys(s, ["reward", "tag"], shift))
    found = tables.shift_keys(table, ["reward", "tag"], shift)
    for name in ("reward", "tag", "is_last"):
        assert found[name].to_pylist() == [step[name] for step in expected]


def test_truncation_and_last_steps_and_lengths(both: Any) -> None:
    episodes, table = both
    met = np.nan_to_num(tables.numbers_of(table, "reward")) > 0.5
    expected = of_each(episodes, lambda s: steps.truncate_after_condition(s, lambda one: (one["reward"] or 0) > 0.5))
    assert tables.truncate_after_condition(table, met)["tag"].to_pylist() == [step["tag"] for step in expected]
    assert tables.final_step(table)["tag"].to_pylist() == [steps.final_step(e["steps"])["tag"] for e in episodes]
    assert tables.episode_length(table)["length"].to_pylist() == [steps.episode_length(e["steps"]) for e in episodes]
    doubled = tables.apply_nested_steps(table, lambda one: one.slice(0, 1))
    assert doubled["tag"].to_pylist() == [e["steps"][0]["tag"] for e in episodes]
    assert set(tables.add_alignment_to_step(table, AlignmentType.SAR)["alignment"].to_pylist()) == {2}


def test_sums_and_statistics(both: Any) -> None:
    episodes, table = both
    expected = steps.mean_and_std(episodes, steps.sar_fields_mask)
    found = tables.mean_and_std(table, ["observation.x", "observation.n", "action", "reward"])
    for part in ("mean", "std"):
        one, other = getattr(expected, part), getattr(found, part)
        for name in ("x", "n"):
            assert other[f"observation.{name}"] == pytest.approx(one["observation"][name], abs=1e-12)
        assert other["action"] == pytest.approx(one["action"], abs=1e-12) and other["reward"] == pytest.approx(
            one["reward"], abs=1e-12
        )
    assert tables.sum_nested_steps(table, "observation.x") == pytest.approx(
        steps.sum_nested_steps(episodes, lambda s: s["observation"]["x"]), abs=1e-12
    )
    returns = tables.sum_dataset(table, "reward")["sum"].to_pylist()
    assert returns == pytest.approx(
        [steps.sum_dataset(e["steps"], lambda s: s["reward"] or 0.0) for e in episodes], abs=1e-12
    )
    with pytest.raises(ValueError, match="differ in length"):
        tables.numbers_of(pa.table({"x": [[1.0], [1.0, 2.0]]}).cast(pa.schema({"x": pa.large_list(pa.float64())})), "x")


def test_concatenation(both: Any) -> None:
    episodes, table = both

    def absorbing(last: pa.Table) -> pa.Table:
        return last.select(["episode_id", "tag", "is_last"]).append_column("absorbing", pa.array([True] * len(last)))

    found = tables.concat_if_terminal(table, absorbing)
    expected = of_each(
        episodes,
        lambda s: steps.concat_if_terminal(s, lambda last: [{"tag": last["tag"], "is_last": True, "absorbing": True}]),
    )
    assert found["tag"].to_pylist() == [step["tag"] for step in expected]
    assert found["absorbing"].to_pylist() == [step.get("absorbing", False) for step in expected]
    whole = tables.concatenate(pa.table({"a": [1], "t": ["x"]}), pa.table({"a": [2], "b": [2.5]}))
    assert whole.to_pylist()[0] == {"a": 1, "t": "x", "b": 0.0} and whole["b"].to_pylist() == [0.0, 2.5]


def test_an_empty_table(both: Any) -> None:
    empty = both[1].slice(0, 0)
    assert [
        len(f) for f in (tables.batch(empty, 2), tables.final_step(empty), tables.shift_keys(empty, ["tag"], 1))
    ] == [0] * 3
    assert len(tables.truncate_after_condition(empty, np.zeros(0, bool))) == 0 == len(tables.episode_length(empty))


@pytest.mark.parametrize("by_reward", [False, True])
def test_patterns(both: Any, by_reward: bool) -> None:
    episodes, table = both

    def pattern(step: Any) -> Any:
        seen, reward = step["observation"]["n"], step["reward"]
        return {
            "n": seen[-3:],
            "now": seen[-1],
            "every other": seen[-3::2],
            "older": reward[-3:-1],
            "tag": step["tag"][-2],
        }

    conditions = [lambda moment: (moment.step["reward"] or 0) > 0] if by_reward else []
    expected = list(pattern_map_from_transform(episodes, pattern, conditions))
    slices = pattern(reference_step(episodes[0]["steps"][0]))
    found = tables.pattern_map(table, slices, pc.greater(table["reward"], 0) if by_reward else None)
    assert len(found) == len(expected) > 10
    for name in slices:
        assert found[name].to_pylist() == [np.asarray(one[name]).tolist() for one in expected], name
    assert len(tables.pattern_map(table.slice(0, 0), slices)) == 0


def test_map_steps(both: Any) -> None:
    episodes, table = both
    place = table.column_names.index("reward")

    def doubled(steps: pa.Table) -> pa.Table:
        return steps.set_column(place, "reward", pc.multiply(steps["reward"], 2))

    expected = of_each(episodes, lambda s: steps.map_steps(s, lambda one: one["reward"] and 2 * one["reward"]))
    assert tables.map_steps(table, doubled)["reward"].to_pylist() == expected
    with pytest.raises(ValueError, match="got 5 steps of .*; expected one of each"):
        tables.map_steps(table, lambda steps: steps.slice(0, 5))
