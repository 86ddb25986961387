"""Several actors as one replay: what is drawn from which, and with which probability over all.

A shard is drawn in proportion to the weight of its items, and an item within it; so are groups, each of which lies in
one shard. The reported probability is the
product, with the weights that the shard was drawn by: true of the draw even when others change the shards meanwhile.
"""

from collections.abc import Mapping, Sequence
from typing import Any
from zlib import crc32

import numpy as np

from experience.replay.batch import Batch, batch_of
from experience.replay.data.structure import Flat
from experience.replay.on_ray.actor import Standing
from experience.replay.tables.draws import SampleInfo
from experience.replay.tables.fields import Fields
from experience.replay.tables.live import TableInfo, Waits


def shares(standings: Sequence[Standing]) -> Any:
    """Return the probability of each shard, (shards,) float64: by weights where there are any, else by items.

    Zero for all if no shard can be sampled from.
    """
    weights = np.array([one.size if one.weight is None else one.weight for one in standings], np.float64)
    if not weights.any():
        weights = np.array([one.size for one in standings], np.float64)
    weights[[not one.can_sample for one in standings]] = 0
    largest = weights.max()
    scaled = weights / largest if largest else weights
    total = scaled.sum()
    return scaled / total if total else scaled


def shard_of(fields: Fields | None, shards: int, otherwise: int) -> int:
    """Return where an item goes: to its group, which lies in one shard, or to where the caller's turn is."""
    if isinstance(fields, Fields) and fields.group is not None:
        return crc32(fields.group.encode()) % shards
    return otherwise


def global_keys(keys: Any, shard: int, shards: int) -> Any:
    """Return keys of a shard's items as keys of the replay's."""
    return keys * shards + shard


def by_shard(keys: Any, shards: int) -> list[tuple[Any, Any]]:
    """Return, a shard, which of the replay's keys are its, and what it calls them."""
    return [((mine := np.nonzero(keys % shards == shard)[0]), keys[mine] // shards) for shard in range(shards)]


def joined(
    batches: Sequence[tuple[int, Batch]], draws: Any, probabilities: Any, standings: Sequence[Standing]
) -> Batch:
    """Return what was drawn from several shards as one batch, in the order in which the shards were drawn.

    Args:
        batches: Shard, and what it gave: as many items, or groups, as it was drawn for, or fewer.
        draws: Shards in the order in which they were drawn, (n,) int64.
        probabilities: Of each shard, (shards,).
        standings: Of each shard; the sizes of those drawn from are taken from the batches.
    """
    parts, places, table_size = [], [], np.array([one.size for one in standings], np.int64)
    of_a_draw = np.arange(standings[0].items_of_a_draw)
    for shard, batch in batches:
        keys = global_keys(batch.info.key, shard, len(table_size))
        parts.append(batch.info._replace(key=keys, probability=batch.info.probability * probabilities[shard]))
        places.append(np.nonzero(draws == shard)[0][: len(batch) // len(of_a_draw)])
        table_size[shard] = batch.info.table_size[-1]
    order = np.argsort(np.concatenate(places))
    order = (order[:, None] * len(of_a_draw) + of_a_draw).ravel()
    info = SampleInfo(*(np.concatenate(column)[order] for column in zip(*parts, strict=True)))
    info = info._replace(table_size=np.full(len(order), table_size.sum()))
    return one_batch([batch for _, batch in batches], order, info)


def in_order(batches: Sequence[Batch]) -> Batch:
    """Return batches as one, one after another."""
    if len(batches) == 1:
        return batches[0]
    info = SampleInfo(*map(np.concatenate, zip(*(batch.info for batch in batches), strict=True)))
    return one_batch(batches, np.arange(len(info.key)), info)


def one_batch(batches: Sequence[Batch], order: Any, info: SampleInfo) -> Batch:
    """Return the items of batches as one.

    Args:
        batches: One at least.
        order: Which item stands first, second, ..., counted over all batches, (n,) int64.
        info: Of the items, in that order.
    """
    if len(batches) == 1 and (order[1:] > order[:-1]).all() and batches[0].columns:
        return Batch.of_columns(batches[0].columns, info)
    columns = [batch.columns for batch in batches if batch.columns]
    if len(columns) == len(batches) and (leaves := _alike(columns)):
        return Batch.of_columns(Flat(columns[0].structure, [np.concatenate(leaf)[order] for leaf in leaves]), info)
    flats = [batch.flat(place) for batch in batches for place in range(len(batch))]
    return batch_of([flats[place] for place in order.tolist()], info)


def parts(batch: Batch, size: int) -> list[Batch]:
    """Return a batch as several of so many items."""
    found = []
    for start in range(0, len(batch), size):
        info = SampleInfo(*(column[start : start + size] for column in batch.info))
        if columns := batch.columns:
            leaves = [leaf[start : start + size] for leaf in columns.leaves]
            found.append(Batch.of_columns(Flat(columns.structure, leaves), info))
        else:
            found.append(batch_of([batch.flat(place) for place in range(start, start + len(info.key))], info))
    return found


def merged_info(infos: Sequence[Mapping[str, TableInfo]]) -> dict[str, TableInfo]:
    """Return what the tables of all shards are at, together."""
    return {name: _sum_of([one[name] for one in infos]) for name in infos[0]}


def _alike(columns: Sequence[Flat]) -> list[tuple[Any, ...]] | None:
    """The arrays of each leaf, if they may be put together."""
    if len({one.structure for one in columns}) > 1:
        return None
    leaves = list(zip(*(one.leaves for one in columns), strict=True))
    for leaf in leaves:
        if not all(isinstance(one, np.ndarray) for one in leaf):
            return None
        if len({(one.dtype, one.shape[1:]) for one in leaf}) > 1:
            return None
    return leaves


def _sum_of(infos: Sequence[TableInfo]) -> TableInfo:
    if len(infos) == 1:
        return infos[0]
    found: dict[str, Any] = {"name": infos[0].name}
    for field in TableInfo._fields[1:]:
        each = [getattr(one, field) for one in infos]
        if field.startswith("why"):
            found[field] = "; ".join(f"shard {n}: {why}" for n, why in enumerate(each)) if all(each) else ""
        elif field.endswith("waits"):
            longest_s = max(one.longest_s for one in each)
            found[field] = Waits(*map(sum, zip(*each, strict=True)))._replace(longest_s=longest_s)
        elif field == "counts":
            found[field] = each[0]
        else:
            found[field] = max(each) if field == "policy_version" else sum(each)
    return TableInfo(**found)
