"""Memory that a client lends its actor: what is read of it, when it is used again, and who cannot read it."""

import threading
from typing import Any

import numpy as np
import pytest
import ray

from experience.replay import RateLimited, Table
from experience.replay.data.structure import Flat
from experience.replay.on_ray.slabs import LEAST_BYTES, MOST_BYTES, Borrower, Lender, NotHere
from tests.ray.everywhere import OnRay


def filled(lender: Lender, data: Any) -> Any:
    if not ray.is_initialized():
        ray.init(log_to_driver=False)
    found = lender.filled(data)
    assert found
    return found


def test_what_is_lent_is_read_in_place() -> None:
    whole = np.arange(200_000, dtype=np.int16).reshape(1000, 200)
    data = {"a": whole.T, "b": [np.float64(2.5), "text", None, np.zeros((0, 3))], "c": np.array(["ü", "x"])}
    slab, lent = filled(Lender(), data)
    read = Borrower().data(lent)
    assert read["a"].tolist() == whole.T.tolist() and read["a"].dtype == np.int16
    assert (read["b"][0].item(), *read["b"][1:3], read["b"][3].shape) == (2.5, "text", None, (0, 3))
    assert read["c"].tolist() == ["ü", "x"] and read["a"].ctypes.data % 64 == 0
    slab.memory[64:66].view(np.int16)[:] = -3
    assert read["a"][0, 0] == -3 and not read["a"].flags.writeable


def test_what_is_small_or_huge_or_no_array_goes_another_way() -> None:
    small, huge = np.zeros(LEAST_BYTES - 64, np.uint8), np.zeros(MOST_BYTES, np.uint8)
    for data in (small, huge, np.full(LEAST_BYTES, None), "text" * LEAST_BYTES):
        assert Lender().filled({"x": data}) is None


def test_who_cannot_read_a_slab_says_so() -> None:
    lender, borrower = Lender(), Borrower()
    slab, lent = filled(lender, np.zeros(LEAST_BYTES))
    for other in (
        lent._replace(node="of another machine"),
        lent._replace(token=bytes(16)),
        lent._replace(path="/proc/1/fd/none"),
        lent._replace(num_bytes=2 * lent.num_bytes),
    ):
        with pytest.raises(NotHere):
            borrower.data(other)
    assert borrower.data(lent).shape == (LEAST_BYTES,) and slab.token == lent.token


def test_a_slab_is_used_again_and_let_go_with_its_client() -> None:
    lender, borrower = Lender(), Borrower()
    slab, lent = filled(lender, np.zeros(LEAST_BYTES))
    borrower.data(lent)
    lender.free(slab)
    again, lent = filled(lender, np.ones(LEAST_BYTES))
    assert again is slab and borrower.data(lent)[-1] == 1
    larger, lent = filled(lender, np.ones(2 * LEAST_BYTES))
    assert larger is not slab
    borrower.data(lent)
    assert set(borrower._mapped) == {slab.token, larger.token}
    del slab, again
    _, lent = filled(lender, np.ones(LEAST_BYTES))
    borrower.data(lent)
    assert set(borrower._mapped) == {larger.token, lent.token}


@pytest.mark.parametrize("least_row_bytes", [1, 1 << 20])
def test_inserts_of_many_threads_keep_apart(new: OnRay, least_row_bytes: int) -> None:
    """Rows of 16 KB, 20 a call, by value and in groups."""
    replay = new([Table.queue("q", 10**4)], least_row_bytes=least_row_bytes)

    def insert(number: int) -> None:
        for turn in range(5):
            names = 1000 * number + 20 * turn + np.arange(20)
            replay.insert_many(np.repeat(names[:, None], 2048, axis=1), {"q": np.ones(20)})

    threads = [threading.Thread(target=insert, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = replay.sample("q", 400).data
    assert (found == found[:, :1]).all()
    assert sorted(found[:, 0].tolist()) == [1000 * number + item for number in range(4) for item in range(100)]
    assert 1 <= len(replay._lenders[0]._free) <= 4 and replay._lenders[0]._lends


def test_a_slab_is_not_used_again_after_a_fault(new: OnRay) -> None:
    """The call might still read it."""
    replay = new([Table.queue("q", 1)])
    replay.insert(np.zeros(LEAST_BYTES), {"q": 1})
    assert len(replay._lenders[0]._free) == 1
    with pytest.raises(RateLimited):
        replay.insert(np.ones(LEAST_BYTES), {"q": 1}, timeout=0.01)
    assert not replay._lenders[0]._free


def test_a_client_whose_slabs_cannot_be_read_sends_its_data(new: OnRay, monkeypatch: pytest.MonkeyPatch) -> None:
    replay = new([Table.queue("q", 10)])
    lent = replay._lenders[0].filled

    def elsewhere(data: Any) -> Any:
        slab, there = lent(data)
        return slab, there._replace(node="another", data=Flat(None, []))

    monkeypatch.setattr(replay._lenders[0], "filled", elsewhere)
    replay.insert(np.full(LEAST_BYTES, 3.0), {"q": 1})
    assert (replay.sample("q").data == 3).all() and not replay._lenders[0]._lends
    monkeypatch.undo()
    replay.insert(np.full(LEAST_BYTES, 4.0), {"q": 1})
    assert (replay.sample("q").data == 4).all() and not replay._lenders[0]._free
