"""Traces worked out by hand: the reward lies on the step that earned it, whoever speaks first."""

from pathlib import Path
from typing import Any

import dm_env
import gymnasium
import numpy as np
import pytest
from dm_env import specs

from experience import EpisodeDataset, EpisodeWriter, Step
from experience.alignment import First, Transition, sar_steps, transitions_of
from experience.environments import record_dm_env, record_gymnasium
from experience.recorder import EpisodeRecorder, Provenance

WHO = Provenance("policy-1", {"name": "count", "to": 3}, "abc123", 7, "trial")


class Counting(gymnasium.Env[Any, Any]):
    """Counts to 3, giving 10 times the count it comes to; its observation is one array, changed in place."""

    observation_space = gymnasium.spaces.Box(0, 9, (1,), np.int64)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, most: int = 3, cut: int = 99) -> None:
        self.count, self.most, self.cut = np.zeros(1, np.int64), most, cut

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.count[:] = 0
        return self.count, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.count += 1
        return self.count, 10.0 * self.count[0], bool(self.count >= self.most), bool(self.count >= self.cut), {}


class CountingDm(dm_env.Environment):
    """The same as dm_env speaks; its last discount is 0 where it ends and 1 where it is cut."""

    def __init__(self, most: int = 3, cut: int = 99) -> None:
        self.inner, self.over = Counting(most, cut), True

    def reset(self) -> dm_env.TimeStep:
        self.over = False
        return dm_env.restart(self.inner.reset()[0])

    def step(self, action: Any) -> dm_env.TimeStep:
        if self.over:
            return self.reset()
        observation, reward, ended, cut, _ = self.inner.step(action)
        self.over = ended or cut
        if ended:
            return dm_env.termination(reward, observation)
        return dm_env.truncation(reward, observation) if cut else dm_env.transition(reward, observation)

    def observation_spec(self) -> Any:
        return specs.BoundedArray((1,), np.int64, 0, 9)

    def action_spec(self) -> Any:
        return specs.DiscreteArray(2)


def told(step: Step) -> tuple[Any, ...]:
    return (
        int(step.observation[0]),
        step.action,
        step.reward,
        step.discount,
        step.is_first,
        step.is_last,
        step.is_terminal,
    )


COUNTED = [
    (0, 1, 10.0, 1.0, True, False, False),
    (1, 1, 20.0, 1.0, False, False, False),
    (2, 1, 30.0, 0.0, False, False, False),
    (3, None, None, None, False, True, True),
]
CUT_AT_2 = [COUNTED[0], COUNTED[1], (2, None, None, None, False, True, False)]


def recorded(folder: Path, kind: str, most: int, cut: int, resets_after: int = 99) -> list[list[tuple[Any, ...]]]:
    with EpisodeWriter(folder) as writer, EpisodeRecorder(writer, WHO) as recorder:
        if kind == "gymnasium":
            env = record_gymnasium(Counting(most, cut), recorder)
            for _ in range(2):
                env.reset()
                for _ in range(resets_after):
                    *_, ended, truncated, _ = env.step(1)
                    if ended or truncated:
                        break
            env.close()
        else:
            environment = record_dm_env(CountingDm(most, cut), recorder)
            for _ in range(2):
                environment.reset()
                for _ in range(resets_after):
                    if environment.step(1).last():
                        break
            environment.close()
    return [[told(step) for step in episode.steps] for episode in EpisodeDataset(folder)]


@pytest.mark.parametrize("kind", ["gymnasium", "dm_env"])
def test_traces(tmp_path: Path, kind: str) -> None:
    assert recorded(tmp_path / "ended", kind, 3, 99) == [COUNTED, COUNTED]
    assert recorded(tmp_path / "truncated", kind, 9, 2) == [CUT_AT_2, CUT_AT_2]
    assert recorded(tmp_path / "reset", kind, 9, 99, resets_after=2) == [CUT_AT_2, CUT_AT_2]
    assert (
        recorded(tmp_path / "at once", kind, 9, 99, resets_after=0) == [[(0, None, None, None, True, True, False)]] * 2
    )


def test_a_dm_env_step_after_the_last_begins_the_next_episode(tmp_path: Path) -> None:
    with EpisodeWriter(tmp_path) as writer:
        environment = record_dm_env(CountingDm(1), EpisodeRecorder(writer, WHO))
        for _ in range(4):
            environment.step(1)
        assert environment.discount_spec().maximum == 1 and environment.reward_spec().shape == ()
    first, second = ([told(step) for step in episode.steps] for episode in EpisodeDataset(tmp_path))
    assert first == second == [(0, 1, 10.0, 0.0, True, False, False), (1, *COUNTED[3][1:])]


def test_provenance_and_seed_are_in_the_metadata(tmp_path: Path) -> None:
    with EpisodeWriter(tmp_path) as writer, EpisodeRecorder(writer, WHO) as recorder:
        record_gymnasium(Counting(), recorder).reset(seed=5)
    assert EpisodeDataset(tmp_path)[0].metadata == {
        "agent_id": "policy-1",
        "environment_config": '{"name": "count", "to": 3}',
        "code_version": "abc123",
        "seed": 5,
        "experiment_id": "trial",
    }


def test_after_an_error_the_episode_is_invalid(tmp_path: Path) -> None:
    with pytest.raises(KeyError), EpisodeWriter(tmp_path) as writer, EpisodeRecorder(writer, WHO) as recorder:
        recorder.reset("o0")
        recorder.step("a0", 1.0, 1.0, "o1")
        raise KeyError
    assert EpisodeDataset(tmp_path)[0].is_invalid and EpisodeDataset(tmp_path)[0].num_transitions == 1
    with pytest.raises(ValueError, match=r"expected reset\(\) first"):
        recorder.__class__(recorder.writer, WHO).step("a", 0.0, 1.0, "o")


def test_the_shift_and_its_inverse() -> None:
    said = [Transition(f"a{i}", float(i), 1.0, f"o{i + 1}", i == 2, i == 2, {"t": i + 1}) for i in range(3)]
    steps = list(sar_steps(First("o0", {"t": 0}), said))
    assert [(s.observation, s.action, s.reward, s.metadata["t"]) for s in steps] == [
        ("o0", "a0", 0.0, 0),
        ("o1", "a1", 1.0, 1),
        ("o2", "a2", 2.0, 2),
        ("o3", None, None, 3),
    ]
    assert list(transitions_of(steps)) == [First("o0", {"t": 0}), *said]
