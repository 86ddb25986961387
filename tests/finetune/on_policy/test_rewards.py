"""Rewards: TRL's signature, several with weights, and every fault by name."""

from typing import Any

import pytest

from finetune.on_policy import PromptRow, Reward, Rollout
from finetune.on_policy.rewards import graded
from medgemma.prompts.chat import Prompt

EMPTY = Prompt((2,), (0,), 0)
TALK = [{"role": "user", "content": "Is it benign?"}]
ROWS = [
    PromptRow(EMPTY, TALK, columns={"solution": "yes", "weight": 2}, place="t.csv:1"),
    PromptRow(EMPTY, TALK, columns={"solution": "no"}, place="t.csv:2"),
]


def rollout(group: int, text: str, *ids: int) -> Rollout:
    zeros = (0.0,) * len(ids)
    return Rollout((2,), ids, (), ROWS[group].place, group, True, zeros, zeros, "v0", text)


ROLLOUTS = [rollout(0, "yes", 5, 1), rollout(0, "no", 6, 1), rollout(1, "no", 6, 1)]


def right(completions: Any, solution: Any, **kwargs: Any) -> list[float]:
    """As TRL's rewards are written: completions are lists of one message."""
    return [float(c[0]["content"] == s) for c, s in zip(completions, solution, strict=True)]


def test_columns_messages_and_ids_come_one_a_completion() -> None:
    seen: dict[str, Any] = {}

    def look(prompts: Any, completions: Any, **columns: Any) -> list[float]:
        seen.update(prompts=prompts, completions=completions, **columns)
        return [0.0] * len(prompts)

    graded([Reward(look)], ROWS, ROLLOUTS)
    assert seen["prompts"] == [TALK] * 3 and seen["solution"] == ["yes", "yes", "no"] and seen["weight"] == [2, 2, None]
    assert seen["completions"][1] == [{"role": "assistant", "content": "no"}]
    assert seen["completion_ids"] == [[5, 1], [6, 1], [6, 1]]


def test_plain_prompts_get_plain_completions() -> None:
    rows = [PromptRow(EMPTY, "Is it benign?")]
    found = graded([Reward(lambda prompts, completions, **_: [float(completions[0] == "yes")])], rows, ROLLOUTS[:1])
    assert found.total == (1.0,)


def test_several_are_summed_by_weight_and_none_leaves_one_out() -> None:
    def some(completions: Any, **_: Any) -> list[float | None]:
        return [None, 3.0, 5.0]

    found = graded([Reward(right, 2.0), Reward(some, 0.5)], ROWS, ROLLOUTS)
    assert found.total == (2.0, 1.5, 4.5)
    assert found.by_name == {"right": (1.0, 0.0, 1.0), "some": (None, 3.0, 5.0)}
    assert found.means() == {"right": pytest.approx(2 / 3), "some": 4.0}


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), "much"])
def test_a_value_that_is_no_number_is_named_with_its_rows(bad: Any) -> None:
    with pytest.raises(ValueError, match=r"reward judge: .* is no finite number, for 1 of 3 completions \(t.csv:2\)"):
        graded([Reward(right), Reward(lambda **_: [0.0, 1.0, bad], name="judge")], ROWS, ROLLOUTS)


def test_a_wrong_count_and_a_row_without_a_reward_are_named() -> None:
    with pytest.raises(ValueError, match="reward judge: 2 values for 3 completions; give one each"):
        graded([Reward(lambda **_: [0.0, 1.0], name="judge")], ROWS, ROLLOUTS)
    with pytest.raises(ValueError, match=r"t.csv:2: no reward applies to it"):
        graded([Reward(lambda **_: [0.0, 1.0, None], name="judge")], ROWS, ROLLOUTS)
