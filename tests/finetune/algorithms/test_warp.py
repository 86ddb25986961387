"""WARP's first stage ends where its reward and its KL to the average say, and not where one to the reference would."""

import math
from typing import Any

import pytest

from finetune.algorithms.following import STILL
from finetune.algorithms.warp import Warp
from tests.finetune.algorithms.toys import REFERENCE, REWARDS, Scripted, Still, descend, expected_gradient

AVERAGE = (0.2, 0.5, 0.3)


def tilted(law: Any, beta: float) -> list[float]:
    masses = [p * math.exp(reward / beta) for p, reward in zip(law, REWARDS, strict=True)]
    return [mass / math.fsum(masses) for mass in masses]


def test_it_ends_at_the_average_tilted_by_the_reward() -> None:
    average = Still(AVERAGE)
    warp: Any = Warp(2, average, STILL, 0.8)  # type: ignore[arg-type]
    end = descend(lambda policy: expected_gradient(policy, average, warp.examples, 2, 0), 300, 1.0)
    assert end == pytest.approx(tilted(AVERAGE, 0.8), abs=1e-6)
    assert end != pytest.approx(tilted(REFERENCE, 0.8), abs=0.05)


def test_the_average_follows_before_a_step_samples() -> None:
    average = Still(AVERAGE)
    Warp(2, average).examples(Scripted(REFERENCE, average, (0, 1), number=4))  # type: ignore[arg-type]
    assert average.followed == [(0.01, 4)]
