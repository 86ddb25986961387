"""Limiters against the cases worked out in Reverb's tests and against a model, on sequences that nobody chose."""

import os
from collections import Counter
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experience.replay import Fields, RateLimited, Replay, Table, rate_limiters, selectors
from experience.replay.tables.rate_limiters import LimiterState, RateLimiter, Unit


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


# Tables of any group size and age


def table(**options: Any) -> Table:
    return Table("t", selectors.Uniform(), selectors.Fifo(), 7, **options)


@dataclass
class Model:
    """A table whose oldest items go first, in exact numbers."""

    table: Table
    items: dict[int, dict[str, Any]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    newest: int = -1

    def may(self, call: str) -> bool:
        limiter, counts = self.table.rate_limiter, self.counts
        worth = counts["inserts"] * Fraction(limiter.samples_per_insert) - counts["samples"] - counts["forgone"]
        size = counts["inserts"] - counts["deletes"]
        if call == "insert":
            after = worth + Fraction(limiter.samples_per_insert)
            return size + 1 <= limiter.min_size_to_sample or after <= limiter.max_diff
        return size >= limiter.min_size_to_sample and worth - 1 >= limiter.min_diff

    def units(self, key: int) -> int:
        fields = self.items[key]["fields"]
        return {"items": 1, "tokens": fields.tokens, "episodes": fields.episodes}[self.table.rate_limiter.counts]

    def whole(self, key: int) -> list[int]:
        """The item with its group, if that is complete."""
        number = self.items[key]["number"]
        return [key] if number is None else [one for one, item in self.items.items() if item["number"] == number]

    def insert(self, key: int, fields: Fields) -> None:
        waiting = [one for one, i in self.items.items() if i["number"] is None and i["fields"].group == fields.group]
        self.items[key] = {"fields": fields, "number": None, "times": 0}
        if len(waiting) + 1 >= self.table.group_size:
            for one in (*waiting, key) if self.table.group_size else (key,):
                self.items[one]["number"] = key
                self.counts["inserts"] += self.units(one)
        self.advance(fields.policy_version or 0)
        if len(self.items) > self.table.max_size:
            self.remove(next(iter(self.items)))

    def remove(self, key: int, *, for_age: bool = False) -> None:
        for one in self.whole(key):
            if self.items[one]["number"] is not None:
                self.counts["deletes"] += self.units(one)
                left = self.table.max_times_sampled - self.items[one]["times"]
                self.counts["forgone"] += self.units(one) * max(left, 0) * for_age
            self.counts["stale"] += for_age
        for one in self.whole(key):
            del self.items[one]

    def advance(self, version: int) -> None:
        self.newest = max(self.newest, version)
        if self.table.max_age is not None:
            for one in list(self.items):
                if one in self.items and self.items[one]["fields"].policy_version < self.newest - self.table.max_age:
                    self.remove(one, for_age=True)

    def sample(self, keys: list[int]) -> None:
        for key in keys:
            self.counts["samples"] += self.units(key)
            self.items[key]["times"] += 1
        if self.items[keys[0]]["times"] == self.table.max_times_sampled:
            self.remove(keys[0])


CALLS = st.one_of(
    st.tuples(st.just("insert"), st.integers(1, 4), st.sampled_from("ab"), st.integers(-2, 1), st.integers(0, 1)),
    st.tuples(st.just("sample"), st.integers(1, 3)),
    st.tuples(st.just("delete"), st.integers(0, 5)),
    st.tuples(st.just("version"), st.integers(0, 2)),
)


@settings(max_examples=max(100, int(os.environ.get("REPLAY_SEQUENCES", "0")) // 10), deadline=None)
@given(
    st.sampled_from(["items", "tokens", "episodes"]),
    st.sampled_from([(0.5, 2, 4), (1.0, 1, 3), (1.0, 3, 40), (2.0, 4, 5), (1.0, 1, np.inf)]),
    st.sampled_from([0, 1, 2, 3]),
    st.sampled_from([None, 0, 1, 2]),
    st.sampled_from([0, 1, 2]),
    st.lists(CALLS, max_size=40),
)
def test_any_sequence_of_a_table_goes_as_the_rule_says(
    counts: Unit, limits: tuple[float, int, float], group: int, age: int | None, times: int, calls: list[Any]
) -> None:
    ratio, size, high = limits
    limiter = RateLimiter(ratio, size, 0.0 if high < np.inf else -np.inf, high, counts)
    options = {"rate_limiter": limiter, "group_size": group, "max_age": age, "max_times_sampled": times}
    replay, model = Replay([table(**options)]), Model(table(**options))
    state = replay.core.tables["t"].state
    for call, *values in calls:
        if call == "insert":
            tokens, name, older, episodes = values
            fields = Fields(max(0, model.newest + older), name, tokens, episodes)
            if model.may("insert"):
                model.insert(replay.insert(0, {"t": 1}, timeout=0, fields=fields)["t"], fields)
            else:
                with pytest.raises(RateLimited, match="insert was blocked .* more samples"):
                    replay.insert(0, {"t": 1}, timeout=0, fields=fields)
        elif call == "sample" and model.may("sample"):
            keys, step = replay.sample("t", values[0], timeout=0).info.key.tolist(), group or 1
            for start in range(0, len(keys), step):
                assert model.may("sample") and model.whole(keys[start]) == keys[start : start + step]
                model.sample(keys[start : start + step])
            assert len(keys) == values[0] * step or not model.may("sample")
        elif call == "sample":
            with pytest.raises(RateLimited, match="sample.* was blocked .* more inserts"):
                replay.sample("t", values[0], timeout=0)
        elif call == "delete" and len(model.items) > values[0]:
            key = list(model.items)[values[0]]
            assert replay.delete("t", [key]) == len(model.whole(key))
            model.remove(key)
        elif call == "version":
            before = model.counts["stale"]
            dropped = replay.set_policy_version("t", max(0, model.newest + values[0] - 1))
            model.advance(max(0, model.newest + values[0] - 1))
            assert dropped == model.counts["stale"] - before
        info = replay.info()["t"]
        told = (info.inserts, info.samples, info.deletes, info.stale, state.limiter.forgone)
        assert told == tuple(model.counts[one] for one in ("inserts", "samples", "deletes", "stale", "forgone"))
        assert (info.policy_version, info.size) == (model.newest, len(model.items))
        assert info.tokens == sum(item["fields"].tokens for item in model.items.values())
        waiting = sum(item["number"] is None for item in model.items.values())
        assert (info.incomplete, info.groups * group) == (waiting, len(model.items) - waiting if group else 0)
