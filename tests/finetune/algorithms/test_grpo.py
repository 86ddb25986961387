"""GRPO by hand, and where it ends by enumeration."""

import math
from typing import Any

import pytest

from finetune.algorithms.grpo import Grpo, group_advantages
from tests.finetune.algorithms.toys import REFERENCE, Scripted, Still, expected_gradient

POLICY = (0.35, 0.25, 0.4)


def test_advantages_by_hand() -> None:
    assert group_advantages([1, 3, 5, 5], [[0, 1], [2, 3]], scaled=False) == [-1, 1, 0, 0]
    scaled = group_advantages([1, 3, 5, 5], [[0, 1], [2, 3]], scaled=True)
    assert scaled == pytest.approx([-1 / (math.sqrt(2) + 1e-4), 1 / (math.sqrt(2) + 1e-4), 0, 0])


def test_the_kl_is_one_to_the_reference_in_the_mean() -> None:
    """All rewards equal: the gradient left is β ∇KL(π‖π_ref) exactly."""
    grpo: Any = Grpo(2, 0.5)
    found = expected_gradient(POLICY, Still(), grpo.examples, 2, 0, (1.0, 1.0, 1.0))
    divergence = math.fsum(p * math.log(p / q) for p, q in zip(POLICY, REFERENCE, strict=True))
    wanted = [0.5 * p * (math.log(p / q) - divergence) for p, q in zip(POLICY, REFERENCE, strict=True)]
    reverse = [0.5 * (p - q) for p, q in zip(POLICY, REFERENCE, strict=True)]
    assert found == pytest.approx(reverse, abs=1e-12)  # its estimate's gradient is that of KL(π_ref‖π), in the mean
    assert found != pytest.approx(wanted, abs=1e-3)


def test_variants_by_name() -> None:
    round: Any = Scripted(POLICY, Still(POLICY), (0, 2))
    weights = {
        name: [example.weights for example in Grpo(2, 0.1, name, 8).examples(round)]  # type: ignore[arg-type]
        for name in ("grpo", "dr_grpo", "dapo")
    }
    scaled = 1 / (math.sqrt(2) + 1e-4)
    assert weights["grpo"] == weights["dapo"] == [pytest.approx((-scaled,)), pytest.approx((scaled,))]
    assert weights["dr_grpo"] == [(-1 / 8,), (1 / 8,)]
    normalisations = [Grpo(2, 0.1, name).normalisation for name in ("grpo", "dr_grpo", "dapo")]  # type: ignore[arg-type]
    assert normalisations == ["sequence-mean", "sequence-sum", "token"]
    with pytest.raises(ValueError, match="1 samples a prompt; a group needs two"):
        Grpo(1, 0.1)
