"""Tables of any limiter, group size and age against a model, on sequences that nobody chose."""

import os
from collections import Counter
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experience.replay import Fields, RateLimited, Replay, Table, selectors
from experience.replay.tables.rate_limiters import RateLimiter, Unit


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
def test_any_sequence_goes_as_the_rule_says(
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
