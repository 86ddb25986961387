"""What a call of `sample` gives."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Self, overload

from experience.replay.data.arena import Cells, Store
from experience.replay.data.items import Data, joined_data, leaves_of, stacked, structure_of
from experience.replay.data.structure import Flat, unflatten
from experience.replay.tables.draws import SampleInfo


class Sample(NamedTuple):
    """One sampled item."""

    info: SampleInfo
    data: Any
    """As it was inserted: dicts, lists and tuples of NumPy arrays; copied."""


class Batch(Sequence[Sample]):
    """Sampled items: stacked as `data` and `info`, or one by one."""

    def __init__(self, items: Sequence[Data] | Cells, info: SampleInfo) -> None:
        self.info = info
        self._stacked: Flat | None = None
        self._single: list[Flat] = []
        try:
            self._stacked = stacked(items)
        except ValueError as fault:
            self._fault = fault
            self._single = [Flat(structure_of(one), leaves_of(one)) for one in joined_data([items])]

    @classmethod
    def of_columns(cls, columns: Flat, info: SampleInfo) -> Self:
        """Return a batch of stacked leaves, each with a first axis over the items."""
        made = cls.__new__(cls)
        made.info, made._stacked, made._single = info, columns, []
        return made

    @property
    def data(self) -> Any:
        """The items as one: their structure, each leaf with a first axis over the items.

        The memory is the batch's own; `torch.from_numpy` takes it as it is. Leaves that differ in dtype or shape, or
        are no arrays, stand in a list.

        Raises:
            ValueError: The items differ in structure; they can be had one by one.
        """
        if self._stacked is None:
            raise self._fault
        return unflatten(*self._stacked)

    def __len__(self) -> int:
        return len(self.info.key)

    @overload
    def __getitem__(self, place: int) -> Sample: ...

    @overload
    def __getitem__(self, place: slice) -> list[Sample]: ...

    def __getitem__(self, place: int | slice) -> Sample | list[Sample]:
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        place = range(len(self))[place]
        info = SampleInfo(*(column.item(place) for column in self.info))
        return Sample(info, unflatten(*self.flat(place)))

    @property
    def columns(self) -> Flat | None:
        """`data` taken apart; None if the items differ in structure."""
        return self._stacked

    def flat(self, place: int) -> Flat:
        """Return the data of an item taken apart."""
        if self._stacked is None:
            return self._single[place]
        structure, leaves = self._stacked
        return Flat(structure, [leaf[place] for leaf in leaves])


def batch_of(items: Iterable[Flat], info: SampleInfo) -> Batch:
    """Return a batch of items that were taken apart, copied."""
    store = Store()
    return Batch([store.put(unflatten(*one)) for one in items], info)
