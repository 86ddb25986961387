"""The reward-KL plot, point by point, and its lines."""

import json
from pathlib import Path

import pytest

from finetune.on_policy.records import Records, curves_of, reward_kl_chart


def test_points_stand_where_their_numbers_say() -> None:
    """The frame goes from 56 to 464 across and from 304 up to 56; both axes from 0 to 1."""
    chart = reward_kl_chart({"a<b": [(0.0, 0.0), (0.5, 0.25), (1.0, 1.0)]})
    assert 'points="56.0,304.0 260.0,242.0 464.0,56.0"' in chart and "a&lt;b" in chart and "a<b" not in chart
    assert [f">{tick}</text>" in chart for tick in ("0", "0.2", "0.4", "0.6", "0.8", "1")] == [True] * 6


@pytest.mark.parametrize("curve", [[(0.0, 0.3)], [(-0.002, -5.0), (31.0, 7e4)], [(0.0, 0.0), (0.0, 0.0)]])
def test_any_numbers_stay_inside_the_frame(curve: list[tuple[float, float]]) -> None:
    chart = reward_kl_chart({"run": curve})
    points = chart.split('points="')[1].split('"')[0].split()
    for point in points:
        x, y = map(float, point.split(","))
        assert 56 <= x <= 464 and 56 <= y <= 304


def test_lines_of_steps_that_run_again_are_taken_out_and_what_was_measured_before_stays(tmp_path: Path) -> None:
    first = Records(tmp_path)
    for step in range(3):
        first.write(step, "train", step, {"reward": float(step), "kl": 0.1})
    first.write(1, "held-out", 2, {"reward": 9.0, "kl": 0.2})
    again = Records(tmp_path)  # the checkpoint is after two steps
    again.write(2, "train", 2, {"reward": 5.0, "kl": 0.3})
    again.draw()
    told = [json.loads(line) for line in (tmp_path / "reward_kl.jsonl").read_text().splitlines()]
    assert [(line["side"], line["updates"]) for line in told] == [
        ("train", 0),
        ("train", 1),
        ("held-out", 2),
        ("train", 2),
    ]
    assert curves_of(tmp_path) == {"train": [(0.1, 0.0), (0.1, 1.0), (0.3, 5.0)], "held-out": [(0.2, 9.0)]}
    assert (tmp_path / "reward_kl.svg").read_text().count("<polyline") == 2
