"""RLDS' transformations over tables of steps, vectorised by Arrow: the same meanings, whole columns at a time.

A table is what `EpisodeDataset.tables` gives: whole episodes, a row a step, `episode_id` and the fields of RLDS. Every
function looks at each episode by itself. What makes values of a spec, and not steps of steps, has no version here: the
spec of a data set is `EpisodeDataset.specs()`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from experience.transformations.patterns import Slice
from experience.transformations.steps import AlignmentType, MeanAndStd


class Bounds(NamedTuple):
    """Where the episodes of a table lie, (E,) int64 each."""

    starts: Any
    stops: Any


def bounds(table: pa.Table) -> Bounds:
    """Return first rows, and those behind the last, of the episodes of a table."""
    if not len(table):
        return Bounds(np.zeros(0, np.int64), np.zeros(0, np.int64))
    runs = pc.run_end_encode(table["episode_id"].combine_chunks(), run_end_type=pa.int64())
    stops = np.asarray(runs.run_ends)
    return Bounds(np.concatenate([[0], stops[:-1]]), stops)


def batch(
    table: pa.Table, size: int, shift: int | None = None, stride: int = 1, drop_remainder: bool = False
) -> pa.Table:
    """Return windows of steps, a row a window and a list a column; none has steps of two episodes."""
    shift = shift or size
    if min(size, shift, stride) < 1:
        raise ValueError(f"got size={size}, shift={shift}, stride={stride}; expected numbers above 0")
    starts, stops = bounds(table)
    counts = -(-(stops - starts) // shift)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    first = np.repeat(starts, counts) + within * shift
    stop = np.repeat(stops, counts)
    rows = first[:, None] + np.arange(size) * stride
    there = rows < stop[:, None]
    if drop_remainder:
        rows, there = rows[there.all(axis=1)], there[there.all(axis=1)]
    taken = table.take(pa.array(rows[there]))
    offsets = pa.array(np.concatenate([[0], np.cumsum(there.sum(axis=1))]))
    return pa.table(
        {name: pa.LargeListArray.from_arrays(offsets, taken[name].combine_chunks()) for name in table.column_names}
    )


def shift_keys(table: pa.Table, keys: Sequence[str], shift: int) -> pa.Table:
    """Return steps in which the keys have the values of `shift` steps later (earlier if negative), in each episode."""
    starts, stops = bounds(table)
    lengths = np.maximum(stops - starts - abs(shift), 0)
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    early = np.repeat(starts, lengths) + within
    others, values = (early, early + shift) if shift > 0 else (early - shift, early)
    kept, shifted = table.take(pa.array(others)), table.select(keys).take(pa.array(values))
    for name in keys:
        kept = kept.set_column(kept.column_names.index(name), name, shifted[name])
    return kept


def add_alignment_to_step(table: pa.Table, alignment: AlignmentType) -> pa.Table:
    """Return steps that say how they are aligned."""
    return table.append_column("alignment", pa.array(np.full(len(table), alignment.value)))


def concatenate(table1: pa.Table, table2: pa.Table) -> pa.Table:
    """Return the steps of both; a field that only one has is zero in the other (null where it is no number)."""
    both = pa.concat_tables([table1, table2], promote_options="default")
    for place, column in enumerate(both.schema):
        zero = _zero(column.type)
        lacking = [column.name not in table.column_names for table in (table1, table2)]
        if any(lacking) and zero is not None:
            parts = both[column.name].slice(0, len(table1)), both[column.name].slice(len(table1))
            filled = [part.fill_null(zero) if no else part for part, no in zip(parts, lacking, strict=True)]
            chunks = [chunk for part in filled for chunk in part.chunks]
            both = both.set_column(place, column, pa.chunked_array(chunks, column.type))
    return both


def concat_if_terminal(table: pa.Table, make_extra_steps: Callable[[pa.Table], pa.Table]) -> pa.Table:
    """Return the steps, and behind every episode that ends in a terminal step what is made of that step.

    Args:
        table: Whole episodes.
        make_extra_steps: Gets the terminal steps, a row an episode, and gives the steps to add, `episode_id` in each.
    """
    last = final_step(table)
    extra = make_extra_steps(last.filter(last["is_terminal"]))
    whole = concatenate(table, extra)
    order = {name: place for place, name in enumerate(dict.fromkeys(table["episode_id"].to_pylist()))}
    places = np.array([order[name] for name in whole["episode_id"].to_pylist()])
    return whole.take(pa.array(np.argsort(places, kind="stable")))


def truncate_after_condition(table: pa.Table, condition: Any) -> pa.Table:
    """Return the steps of each episode up to the first that meets the condition, and that one.

    Args:
        table: Whole episodes.
        condition: Flag a row; a null is none.
    """
    flags = condition if isinstance(condition, np.ndarray) else np.asarray(pc.fill_null(condition, False))
    met = flags.astype(np.int64)
    starts, stops = bounds(table)
    before = np.cumsum(met) - met
    lengths = stops - starts
    return table.filter(pa.array(before - np.repeat(before[starts] if len(starts) else before, lengths) == 0))


def sar_fields_mask(table: pa.Table) -> dict[str, Any]:
    """Return which rows of observation, action and reward mean something, (rows,) bool each."""
    valid = ~np.asarray(table["is_last"])
    return {"observation": np.ones(len(table), bool), "action": valid, "reward": valid}


def mean_and_std(table: pa.Table, columns: Sequence[str]) -> MeanAndStd:
    """Return mean and sample deviation of columns of numbers or of arrays of one shape, in float64, over all steps.

    Args:
        table: Whole episodes.
        columns: Dotted names reach into dicts: `observation.state`. Of action and reward the last steps are left out.
    """
    masks = sar_fields_mask(table)
    mean, std = {}, {}
    for name in columns:
        values = numbers_of(table, name)[masks.get(name.split(".")[0], np.ones(len(table), bool))]
        with np.errstate(divide="ignore", invalid="ignore"):
            mean[name] = values.sum(axis=0) / np.float64(len(values))
            std[name] = np.sqrt(((values - mean[name]) ** 2).sum(axis=0) / np.float64(len(values) - 1))
    return MeanAndStd(mean, std)


def sum_nested_steps(table: pa.Table, column: str) -> Any:
    """Return the sum of a column over all steps; a null counts nothing."""
    return np.nan_to_num(numbers_of(table, column), nan=0.0).sum(axis=0)


def sum_dataset(table: pa.Table, column: str) -> pa.Table:
    """Return the sum of a column of numbers in each episode: `episode_id`, `sum`; a null counts nothing."""
    starts, _ = bounds(table)
    values = np.nan_to_num(numbers_of(table, column), nan=0.0)
    return pa.table({"episode_id": _ids(table), "sum": np.add.reduceat(values, starts) if len(starts) else values})


def episode_length(table: pa.Table) -> pa.Table:
    """Return the number of steps of each episode: `episode_id`, `length`."""
    starts, stops = bounds(table)
    return pa.table({"episode_id": _ids(table), "length": stops - starts})


def final_step(table: pa.Table) -> pa.Table:
    """Return the last step of each episode."""
    return table.take(pa.array(bounds(table).stops - 1))


def map_steps(table: pa.Table, transform_steps: Callable[[pa.Table], pa.Table]) -> pa.Table:
    """Return what a function makes of all steps at once, each by itself: Arrow's or NumPy's functions on columns.

    As every row says whose it is, `map_nested_steps` is this too.

    Raises:
        ValueError: It gave another number of steps.
    """
    made = transform_steps(table)
    if len(made) != len(table):
        raise ValueError(f"got {len(made)} steps of {len(table)}; expected one of each; see apply_nested_steps")
    return made


def apply_nested_steps(table: pa.Table, transform_steps: Callable[[pa.Table], pa.Table]) -> pa.Table:
    """Return what a function makes of the steps of each episode, one after another."""
    parts = [transform_steps(table.slice(a, b - a)) for a, b in zip(*bounds(table), strict=True)]
    return pa.concat_tables(parts, promote_options="default") if parts else transform_steps(table)


def pattern_map(table: pa.Table, pattern: Mapping[str, Slice], condition: Any = None) -> pa.Table:
    """Return what a pattern makes of steps: a row wherever the episode has history enough, in order.

    Args:
        table: Whole episodes.
        pattern: Name to slice, as `patterns.Column` gives it; a squeezed slice is a value, any other a list.
        condition: Flag a row; where the newest step has it the pattern is applied. A null is none.
    """
    history = max((-part.start for part in pattern.values()), default=1)
    starts, stops = bounds(table)
    rows = np.arange(len(table))
    enough = rows - np.repeat(starts, stops - starts) + 1 >= history
    newest = rows[enough if condition is None else enough & np.asarray(pc.fill_null(pa.array(condition), False))]
    return pa.table({name: _cut(table, part, newest) for name, part in pattern.items()})


def numbers_of(table: pa.Table, name: str) -> Any:
    """Return a column as float64, (rows,) or (rows, n); a null is NaN.

    Raises:
        ValueError: It is no column of numbers, or its arrays differ in length.
    """
    column = _column(table, name.split("."))
    if not pa.types.is_large_list(column.type) and not pa.types.is_list(column.type):
        return column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    lengths = pc.list_value_length(column)
    sizes = set(lengths.drop_null().to_pylist())
    if len(sizes) > 1:
        raise ValueError(f"column {name}: its arrays differ in length ({sorted(sizes)}); expected one length")
    found = np.full((len(column), *sizes), np.nan)
    there = column.is_valid().to_numpy(zero_copy_only=False)
    found[there] = column.flatten().cast(pa.float64()).to_numpy(zero_copy_only=False).reshape(there.sum(), *sizes)
    return found


def _column(table: pa.Table, path: Sequence[str]) -> pa.Array:
    """A column, or a field of one."""
    column = table[path[0]].combine_chunks()
    for part in path[1:]:
        column = column.field(part)
    return column


def _cut(table: pa.Table, part: Slice, newest: Any) -> pa.Array:
    places = np.arange(part.start + 1, 1 + (part.stop or 0), part.step)
    taken = _column(table, part.path).take(pa.array((newest[:, None] + places).ravel()))
    if part.squeeze:
        return taken
    return pa.LargeListArray.from_arrays(pa.array(np.arange(len(newest) + 1) * len(places)), taken)


def _zero(kind: pa.DataType) -> Any:
    """The zero of a type, or None."""
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return pa.scalar("", kind)
    return pa.scalar(0).cast(kind) if pa.types.is_primitive(kind) else None


def _ids(table: pa.Table) -> Any:
    return table["episode_id"].take(pa.array(bounds(table).starts))
