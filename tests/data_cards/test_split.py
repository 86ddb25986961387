from hashlib import sha256

import pytest

from data_cards.split import KEPT_PERCENT, SIDES, is_kept_from_training, side


def test_known_sides_never_change() -> None:
    """Shipped weights rest on this division: a change would put training pictures into the evaluations."""
    groups = [f"nih_{number:05d}" for number in range(12)]
    assert [is_kept_from_training(group, 25) for group in groups] == [
        int(sha256(f"medgemma-split-1:{group}".encode()).hexdigest(), 16) % 100 < 25 for group in groups
    ]
    known = {"nih_00150": "train", "nih_00211": "held-out", "vqarad_case164": "final"}
    assert {group: side(group) for group in known} == known


def test_share_is_about_as_asked_and_larger_shares_hold_smaller_ones() -> None:
    groups = [f"g{number}" for number in range(4000)]
    quarter = {group for group in groups if is_kept_from_training(group, KEPT_PERCENT)}
    assert 0.22 < len(quarter) / len(groups) < 0.28
    assert quarter <= {group for group in groups if is_kept_from_training(group, 50)}
    assert not any(is_kept_from_training(group, 0) for group in groups) and all(
        is_kept_from_training(group, 100) for group in groups
    )


def test_the_final_side_is_half_of_what_is_is_kept_from_training() -> None:
    groups = [f"g{number}" for number in range(4000)]
    sides = {name: {group for group in groups if side(group) == name} for name in SIDES}
    assert sides["held-out"] | sides["final"] == {
        group for group in groups if is_kept_from_training(group, KEPT_PERCENT)
    }
    assert 0.45 < len(sides["final"]) / len(sides["final"] | sides["held-out"]) < 0.55
    assert sum(map(len, sides.values())) == len(groups)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="empty group"):
        side("")
    with pytest.raises(ValueError, match="expected 0 to 100"):
        is_kept_from_training("g", 101)
