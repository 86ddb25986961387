"""Limiters against the cases worked out in Reverb's tests and against a model, on sequences that nobody chose."""

import os
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experience.replay import rate_limiters
from experience.replay.tables.rate_limiters import LimiterState, RateLimiter


def after(limiter: RateLimiter, inserts: int, samples: int, deletes: int = 0) -> LimiterState:
    state = LimiterState(limiter)
    state.inserts, state.samples, state.deletes = inserts, samples, deletes
    return state


@pytest.mark.parametrize(
    ("limiter", "inserts", "samples", "deletes", "may_insert", "may_sample"),
    [
        (RateLimiter(1.5, 2, -1, 3), 1, 0, 0, True, False),
        (RateLimiter(1.5, 2, -1, 3), 2, 0, 0, False, True),  # 3; with one more 4.5
        (RateLimiter(1.5, 2, -1, 3), 2, 1, 0, False, True),  # 2; with one more 3.5
        (RateLimiter(1.5, 2, -1, 3), 2, 2, 0, True, True),  # 1; with one more 2.5
        (RateLimiter(1.5, 2, -1, 3), 2, 4, 0, True, False),  # -1; one sample more would be -2
        (RateLimiter(5, 2, 0, 5), 2, 1, 0, False, True),
        (RateLimiter(5, 2, 0, 5), 2, 1, 1, True, False),  # a deletion frees the insert and blocks samples
        (rate_limiters.MinSize(3), 2, 0, 0, True, False),
        (rate_limiters.MinSize(3), 3, 9999, 0, True, True),
        (rate_limiters.Queue(2), 2, 0, 0, False, True),
        (rate_limiters.Queue(2), 2, 1, 1, True, True),
        (rate_limiters.Queue(2), 2, 2, 2, True, False),
    ],
)
def test_worked_cases(
    limiter: RateLimiter, inserts: int, samples: int, deletes: int, may_insert: bool, may_sample: bool
) -> None:
    state = after(limiter, inserts, samples, deletes)
    assert (state.can_insert(), state.can_sample()) == (may_insert, may_sample)


def test_the_ratio_s_own_buffer() -> None:
    limiter = rate_limiters.SampleToInsertRatio(4.0, 100, 50)
    assert (limiter.min_diff, limiter.max_diff, limiter.min_size_to_sample) == (350, 450, 100)
    assert rate_limiters.SampleToInsertRatio(4.0, 100, (0.0, 500.0)).max_diff == 500


@pytest.mark.parametrize(
    ("ratio", "size", "buffer", "message"),
    [
        (4.0, 10, 3.9, "error_buffer=4 or more"),
        (0.5, 10, 0.9, "error_buffer=1 or more"),
        (1.0, 10, (11.0, 20.0), r"got min_diff=11; expected at most 10 .*wait for ever"),
        (0.0, 10, 5, "samples_per_insert=0.0; expected a number above 0"),
        (1.0, 0, 5, "min_size_to_sample=0; expected a whole number from 1"),
    ],
)
def test_limiters_that_cannot_work_are_refused(ratio: float, size: int, buffer: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rate_limiters.SampleToInsertRatio(ratio, size, buffer)  # type: ignore[arg-type]


def test_a_ceiling_below_the_start_is_warned_of() -> None:
    with pytest.warns(UserWarning, match="max_diff=30 is below 40"):
        rate_limiters.SampleToInsertRatio(4.0, 10, (0.0, 30.0))


def allowed(limiter: RateLimiter, inserts: int, samples: int, deletes: int, what: str, count: int) -> bool:
    """The rule, in exact numbers."""
    ratio, size = Fraction(limiter.samples_per_insert), inserts - deletes
    if what == "insert":
        free = size + count <= limiter.min_size_to_sample
        return free or (inserts + count) * ratio - samples <= Fraction(limiter.max_diff)
    return size >= limiter.min_size_to_sample and inserts * ratio - samples - count >= Fraction(limiter.min_diff)


@settings(max_examples=int(os.environ.get("REPLAY_SEQUENCES", "300")), deadline=None)
@given(
    st.sampled_from([0.25, 0.5, 1.0, 1.5, 4.0, 5.0]),
    st.integers(1, 6),
    st.integers(-8, 8),
    st.integers(0, 12),
    st.lists(st.tuples(st.sampled_from(["insert", "sample", "delete"]), st.integers(1, 4)), max_size=40),
)
def test_any_sequence_goes_as_the_rule_says(
    ratio: float, size: int, low: int, width: int, calls: list[tuple[str, int]]
) -> None:
    limiter = RateLimiter(ratio, size, low / 2, (low + width) / 2)
    state, inserts, samples, deletes = LimiterState(limiter), 0, 0, 0
    for what, count in calls:
        if what == "delete":
            gone = min(count, inserts - deletes)
            deletes += gone
            state.deletes += gone
            continue
        possible = [k for k in range(count + 1) if k == 0 or allowed(limiter, inserts, samples, deletes, what, k)]
        if what == "insert":
            assert state.can_insert(count) == (count in possible)
            assert (most := state.most_inserts(count)) == max(possible) == len(possible) - 1
            inserts, state.inserts = inserts + most, state.inserts + most
            if most < count:
                assert "more samples free it" in state.why_no_insert()
        else:
            assert state.can_sample(count) == (count in possible)
            assert (most := state.most_samples(count)) == max(possible) == len(possible) - 1
            samples, state.samples = samples + most, state.samples + most
            if most < count:
                freed = int(state.why_no_sample().split()[-5])
                assert not allowed(limiter, inserts + freed - 1, samples, deletes, "sample", 1)
                assert allowed(limiter, inserts + freed, samples, deletes, "sample", 1)
        assert (state.inserts, state.samples, state.size) == (inserts, samples, inserts - deletes)
