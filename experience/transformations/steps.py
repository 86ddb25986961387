"""RLDS' transformations over streams: steps are dicts in any iterable, episodes dicts with `steps` and metadata.

Names, arguments and meanings are those of `rlds.transformations` 0.1.8, whose output the tests compare with. Functions
that yield are lazy and hold no more steps than they look at. Where they differ: sums are in float64 (rlds sums small
integers in their own dtype, and overflows); there are no batch sizes to tune.

Source: Ramos et al., RLDS, arXiv:2111.02767 (2021); google-research/rlds, rlds/transformations.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import Enum
from itertools import chain, islice
from typing import Any, NamedTuple

import numpy as np

from experience.episode import Episode, step_of
from experience.transformations.trees import ArraySpec, leaves, map_structure, merged_spec, spec_of, stack, zeros_like

Step = dict[str, Any]
Steps = Iterable[Step]
RldsEpisode = Mapping[str, Any]
"""`steps` and metadata."""

DEFAULT_BATCH_SIZE_IN_BYTES = 200_000
"""Of a batch whose size is not given."""


class AlignmentType(Enum):
    """Which of state, action and reward comes first in a step."""

    UNKNOWN = 1
    SAR = 2
    ARS = 3
    RSA = 4


class MeanAndStd(NamedTuple):
    """float64, of the structure of the fields."""

    mean: dict[str, Any]
    std: dict[str, Any]
    """Sample deviation (n - 1)."""


def as_rlds(episode: Episode) -> dict[str, Any]:
    """Return an episode as RLDS has it."""
    steps = [step.fields() for step in episode.steps]
    return {"steps": steps, "episode_id": episode.episode_id, **episode.metadata}


def from_rlds(episode: RldsEpisode) -> Episode:
    """Return an episode of what `as_rlds` gave, its steps transformed or not."""
    metadata = {name: value for name, value in episode.items() if name not in ("steps", "episode_id")}
    return Episode(tuple(map(step_of, episode["steps"])), episode["episode_id"], metadata)


def batch(
    steps: Steps, size: int | None = None, shift: int | None = None, stride: int = 1, drop_remainder: bool = False
) -> Iterator[Any]:
    """Yield windows of steps, stacked: (1, 2, 3, 4) with size 2 and shift 1 gives (1, 2), (2, 3), (3, 4), (4).

    Args:
        steps: Dicts, or any values.
        size: Of a window; by default what makes about DEFAULT_BATCH_SIZE_IN_BYTES.
        shift: From the start of a window to the start of the next; `size` by default.
        stride: Between the steps of a window.
        drop_remainder: Leave out windows that the end cuts short.
    """
    left = iter(steps)
    if size is None:
        first = list(islice(left, 1))
        size = max(1, DEFAULT_BATCH_SIZE_IN_BYTES // max(1, sum(np.asarray(leaf).nbytes for leaf in leaves(first))))
        left = chain(first, left)
    shift = shift or size
    if min(size, shift, stride) < 1:
        raise ValueError(f"got size={size}, shift={shift}, stride={stride}; expected numbers above 0")
    span = (size - 1) * stride + 1
    held: deque[Any] = deque(islice(left, span))
    while held:
        window = list(islice(held, 0, span, stride))
        if len(window) == size or not drop_remainder:
            yield stack(window)
        for _ in range(min(shift, len(held))):
            held.popleft()
        skipped = shift - span
        held.extend(islice(left, max(0, skipped), max(0, skipped) + span - len(held)))


def shift_keys(steps: Steps, keys: Sequence[str], shift: int) -> Iterator[Step]:
    """Yield n - |shift| steps in which the keys have the values of `shift` steps later (earlier if negative)."""
    held: deque[Step] = deque(maxlen=abs(shift) + 1)
    for step in steps:
        held.append(step)
        if len(held) == abs(shift) + 1:
            values, others = (held[-1], held[0]) if shift > 0 else (held[0], held[-1])
            yield {name: (values if name in keys else others)[name] for name in step}


def add_alignment_to_step(step: Step, alignment: AlignmentType) -> Step:
    """Return a step that says how it is aligned."""
    return {**step, "alignment": alignment.value}


def concatenate(steps1: Steps, steps2: Steps) -> Iterator[Step]:
    """Yield the steps of both; a field that only one has is zero in the other."""
    left1, left2 = iter(steps1), iter(steps2)
    first1, first2 = list(islice(left1, 1)), list(islice(left2, 1))
    every = {name: zeros_like(value) for one in (*first2, *first1) for name, value in one.items()}
    for step in chain(first1, left1, first2, left2):
        yield {**step, **{name: zero for name, zero in every.items() if name not in step}}


def concat_if_terminal(steps: Steps, make_extra_steps: Callable[[Step], Steps]) -> Iterator[Step]:
    """Yield the steps, and after a terminal one what is made of it: absorbing states."""
    held = list(steps)
    extra = make_extra_steps(held[-1]) if held and held[-1]["is_terminal"] else []
    yield from concatenate(held, extra)


def truncate_after_condition(steps: Steps, truncate_condition: Callable[[Step], Any]) -> Iterator[Step]:
    """Yield the steps up to the first that meets the condition, and that one."""
    for step in steps:
        yield step
        if truncate_condition(step):
            return


def sar_fields_mask(step: Step) -> tuple[dict[str, Any], dict[str, bool]]:
    """Return observation, action and reward of a step, and which of them mean something."""
    valid = not step["is_last"]
    data = {name: step[name] for name in ("observation", "action", "reward")}
    return data, {"observation": True, "action": valid, "reward": valid}


def mean_and_std(
    episodes: Iterable[RldsEpisode], get_step_fields: Callable[[Step], tuple[dict[str, Any], Mapping[str, Any]]]
) -> MeanAndStd:
    """Return mean and deviation of fields over all steps of all episodes, in two passes.

    Args:
        episodes: To be read twice: a sequence, a data set; no generator.
        get_step_fields: Gives the fields of a step, numbers or trees of them, and which of them mean something.
    """
    counts: dict[str, int] = {}
    sums: dict[str, Any] = {}
    for fields in _valid_fields(episodes, get_step_fields):
        for name, value in fields.items():
            counts[name] = counts.get(name, 0) + 1
            sums[name] = map_structure(np.add, sums[name], value) if name in sums else value
    mean = {name: _over(total, counts[name]) for name, total in sums.items()}
    squares: dict[str, Any] = {}
    for fields in _valid_fields(episodes, get_step_fields):
        for name, value in fields.items():
            square = map_structure(lambda x, m: (x - m) ** 2, value, mean[name])
            squares[name] = map_structure(np.add, squares[name], square) if name in squares else square
    variance = {name: _over(total, counts[name] - 1) for name, total in squares.items()}
    return MeanAndStd(mean, {name: map_structure(np.sqrt, value) for name, value in variance.items()})


def map_steps(steps: Steps, transform_step: Callable[[Step], Any]) -> Iterator[Any]:
    """Yield what a function makes of each step."""
    return map(transform_step, steps)


def map_nested_steps(
    episodes: Iterable[RldsEpisode], transform_step: Callable[[Step], Any]
) -> Iterator[dict[str, Any]]:
    """Yield episodes in which a function was applied to each step."""
    return apply_nested_steps(episodes, lambda steps: map(transform_step, steps))


def apply_nested_steps(
    episodes: Iterable[RldsEpisode], transform_steps: Callable[[Steps], Iterable[Any]]
) -> Iterator[dict[str, Any]]:
    """Yield episodes in which a function was applied to all steps together."""
    return ({**episode, "steps": list(transform_steps(episode["steps"]))} for episode in episodes)


def sum_dataset(steps: Steps, data_to_sum: Callable[[Step], Any]) -> Any:
    """Return the sum over steps of what a function gives, leaf by leaf; None of no steps."""
    total = None
    for value in map(data_to_sum, steps):
        total = value if total is None else map_structure(np.add, total, value)
    return total


def sum_nested_steps(episodes: Iterable[RldsEpisode], data_to_sum: Callable[[Step], Any]) -> Any:
    """Return the sum over the steps of all episodes."""
    return sum_dataset(chain.from_iterable(episode["steps"] for episode in episodes), data_to_sum)


def episode_length(steps: Steps) -> int:
    """Return the number of steps."""
    return sum(1 for _ in steps)


def final_step(steps: Steps) -> Step:
    """Return the last step.

    Raises:
        ValueError: There is none.
    """
    last = deque(steps, maxlen=1)
    if not last:
        raise ValueError("got no steps; expected at least one, to have a last")
    return last[0]


def step_spec(episodes: Iterable[RldsEpisode]) -> Any:
    """Return shape and dtype of every leaf of the steps, over all episodes."""
    found: Any = None
    for step in chain.from_iterable(episode["steps"] for episode in episodes):
        found = merged_spec(found, spec_of(step))
    return found


def zeros_from_spec(spec: Any) -> Any:
    """Return zeros of a spec; an axis of unknown length has 1."""
    return map_structure(lambda one: None if one is None else np.zeros(_shape(one), one.dtype)[()], spec)


def zero_dataset_like(steps: Steps) -> list[Any]:
    """Return one step of zeros with the spec of the steps."""
    return [zeros_from_spec(step_spec([{"steps": steps}]))]


def uniform_from_spec(spec: Any, generator: np.random.Generator) -> Any:
    """Return random values of a spec: floats in [0, 1), integers over their range, flags; an unknown axis has 1."""

    def draw(one: ArraySpec | None) -> Any:
        if one is None:
            return None
        if one.dtype.kind == "f":
            return generator.random(_shape(one)).astype(one.dtype)
        if one.dtype.kind == "b":
            return generator.random(_shape(one)) < 0.5
        if one.dtype.kind not in "iu":
            raise ValueError(f"got dtype {one.dtype}; expected numbers or flags, to draw from")
        limits = np.iinfo(one.dtype)
        return generator.integers(limits.min, limits.max, _shape(one), one.dtype, endpoint=True)

    return map_structure(draw, spec)


def _valid_fields(episodes: Iterable[RldsEpisode], get_step_fields: Any) -> Iterator[dict[str, Any]]:
    """Fields that mean something, as float64."""
    for step in chain.from_iterable(episode["steps"] for episode in episodes):
        fields, valid = get_step_fields(step)
        yield {name: map_structure(np.float64, value) for name, value in fields.items() if valid[name]}


def _over(total: Any, count: int) -> Any:
    with np.errstate(divide="ignore", invalid="ignore"):
        return map_structure(lambda x: np.divide(x, np.float64(count)), total)


def _shape(spec: ArraySpec) -> tuple[int, ...]:
    return tuple(1 if size is None else size for size in spec.shape)
