"""Items of several steps: any part of the last ones, partial steps, columns that come later, patterns."""

import threading
from typing import Any

import numpy as np
import pytest

from experience.replay import Expired, RateLimited, Replay, SignatureMismatch, Table, rate_limiters, selectors
from experience.replay.structured import Pattern, infer_signature, td_error
from experience.transformations.trees import ArraySpec


def queue(name: str = "q", size: int = 1000, **options: Any) -> Table:
    return Table.queue(name, size, **options)


def step(number: int) -> dict[str, Any]:
    return {"observation": {"x": np.array([number, -number], np.int16)}, "reward": float(number)}


def test_items_of_any_part_of_the_history() -> None:
    replay = Replay([queue()])
    with replay.trajectory_writer(num_keep_alive_refs=5) as writer:
        for number in range(5):
            writer.append(step(number))
        seen, reward = writer.history["observation"]["x"], writer.history["reward"]
        writer.create_item("q", 1.0, {"last": seen[-1], "three": seen[-3:], "rewards": (reward[:2], reward[[4, 0, 0]])})
        writer.create_item("q", 2.0, reward[1:5:2])
    first, second = replay.sample("q", 2)
    assert first.data["last"].tolist() == [4, -4] and first.data["three"].tolist() == [[2, -2], [3, -3], [4, -4]]
    assert [one.tolist() for one in first.data["rewards"]] == [[0, 1], [4, 0, 0]]
    assert (second.data.tolist(), second.info.priority) == ([1, 3], 2.0)
    assert first.data["three"].dtype == np.int16 and replay.num_bytes == 0


def test_a_batch_of_trajectories_is_stacked() -> None:
    replay = Replay([queue()])
    with replay.trajectory_writer(3) as writer:
        for number in range(6):
            writer.append(step(number))
            if number >= 2:
                writer.create_item(
                    "q", 1, {"x": writer.history["observation"]["x"][-3:], "r": writer.history["reward"][-1]}
                )
    data = replay.sample("q", 4).data
    assert data["x"].shape == (4, 3, 2) and data["x"][:, :, 0].tolist() == [[n, n + 1, n + 2] for n in range(4)]
    assert data["r"].tolist() == [2, 3, 4, 5]


def test_trajectories_of_differing_lengths() -> None:
    replay = Replay([queue()])
    with replay.trajectory_writer(9) as writer:
        for number in range(1, 4):
            writer.append({"tokens": np.arange(number), "y": number})
            writer.create_item("q", 1, {"tokens": writer.history["tokens"][:], "y": writer.history["y"][:]})
    data = replay.sample("q", 3).data
    assert [one.tolist() for one in data["y"]] == [[1], [1, 2], [1, 2, 3]]
    assert [[t.tolist() for t in one] for one in data["tokens"]] == [[[0]], [[0], [0, 1]], [[0], [0, 1], [0, 1, 2]]]


def test_items_share_their_steps_and_free_them() -> None:
    replay = Replay([queue()])
    writer = replay.trajectory_writer(10)
    for _ in range(10):
        writer.append(np.zeros(1000))
        writer.create_item("q", 1, writer.history[:])
    assert replay.num_bytes == 10 * 8000
    writer.end_episode()
    assert replay.num_bytes == 10 * 8000
    replay.sample("q", 9)
    assert replay.num_bytes == 10 * 8000  # the last item has all ten
    replay.sample("q", 1)
    assert replay.num_bytes == 0


def test_partial_steps_and_columns_that_come_later() -> None:
    replay = Replay([queue()])
    with replay.trajectory_writer(5) as writer:
        writer.append({"observation": 0}, partial_step=True)
        writer.create_item("q", 1, writer.history["observation"][-1])  # before the action is known
        writer.append({"action": 10})
        writer.append({"observation": 1}, partial_step=True)
        with pytest.raises(ValueError, match="got observation twice for one step"):
            writer.append({"observation": 2})
        writer.append({"action": 11, "late": 5})
        assert writer.episode_steps == 2
        writer.create_item("q", 1, {"o": writer.history["observation"][:], "a": writer.history["action"][-2:]})
        with pytest.raises(ValueError, match="late: step 0 does not have it"):
            writer.create_item("q", 1, writer.history["late"][:])
    first, second = replay.sample("q", 2)
    assert (first.data, second.data["o"].tolist(), second.data["a"].tolist()) == (0, [0, 1], [10, 11])


def test_what_is_kept_no_more_is_refused() -> None:
    replay = Replay([queue()])
    writer = replay.trajectory_writer(2)
    for number in range(3):
        writer.append(step(number))
    with pytest.raises(Expired, match=r"reward: step 0 of episode 0 is kept no more; step 1 .*num_keep_alive_refs=2"):
        writer.create_item("q", 1, writer.history["reward"][:])
    old = writer.history["reward"][-1]
    writer.end_episode()
    writer.append(step(9))
    with pytest.raises(Expired, match="step 2 of episode 0 is kept no more; step 0 of episode 1"):
        writer.create_item("q", 1, old)
    with pytest.raises(ValueError, match="reward: got no step"):
        writer.create_item("q", 1, writer.history["reward"][5:])
    with pytest.raises(ValueError, match="in a trajectory; expected parts of `history`"):
        writer.create_item("q", 1, {"x": 3})
    with pytest.raises(ValueError, match="priority nan"):
        writer.create_item("q", float("nan"), writer.history["reward"][-1])
    assert replay.info()["q"].inserts == 0


def test_an_item_is_held_to_the_signature() -> None:
    signature = {"r": ArraySpec((None,), np.dtype("f8"))}
    replay = Replay([queue(signature=signature)])
    with replay.trajectory_writer(3) as writer:
        writer.append(step(1))
        writer.create_item("q", 1, {"r": writer.history["reward"][:]})
        with pytest.raises(SignatureMismatch, match=r"r: expected float64 of shape \(None,\), got float64 of \(\)"):
            writer.create_item("q", 1, {"r": writer.history["reward"][-1]})


def test_making_an_item_never_blocks_and_flushing_does() -> None:
    replay = Replay([queue(size=2)])
    writer = replay.trajectory_writer(1)
    for number in range(5):
        writer.append(step(number))
        writer.create_item("q", 1, writer.history["reward"][-1])
    assert replay.info()["q"].size == 2
    assert not writer.flush(timeout=0.01) and writer.flush(block_until_num_items=3, timeout=0)
    thread = threading.Thread(target=writer.flush)
    thread.start()
    assert [replay.sample("q", timeout=10).data.item() for _ in range(5)] == [0, 1, 2, 3, 4]
    thread.join(10)
    assert not thread.is_alive()
    writer.create_item("q", 1, writer.history["reward"][-1])
    assert writer.end_episode(timeout=0)
    replay.sample("q")
    assert replay.num_bytes == 0


def test_closing_forgets_what_nobody_took() -> None:
    replay = Replay([queue(size=1)])
    with pytest.raises(KeyboardInterrupt), replay.trajectory_writer(1) as writer:
        for number in range(3):
            writer.append(step(number))
            writer.create_item("q", 1, writer.history["reward"][-1])
        raise KeyboardInterrupt
    assert replay.sample("q").data.tolist() == [0] and replay.num_bytes == 0
    with pytest.raises(RateLimited):
        replay.sample("q", timeout=0)


def test_patterns_make_items_as_the_steps_come() -> None:
    replay = Replay([queue("n-step"), queue("ends"), queue("even")])
    patterns = [
        Pattern(
            "n-step",
            lambda s: {"o": s["observation"]["x"][-3], "r": s["reward"][-3:-1], "next": s["observation"]["x"][-1]},
        ),
        Pattern("ends", lambda s: s["reward"][-2:], at_end=True),
        Pattern("even", lambda s: s["reward"][-1], conditions=[lambda m: m.step_index % 2 == 0]),
    ]
    with replay.structured_writer(patterns) as writer:
        for first in (0, 10):
            for number in range(first, first + 4):
                writer.append(step(number))
            writer.end_episode()
    n_step = replay.sample("n-step", 10, timeout=0).data
    assert n_step["o"][:, 0].tolist() == [0, 1, 10, 11] and n_step["next"][:, 0].tolist() == [2, 3, 12, 13]
    assert n_step["r"].tolist() == [[0, 1], [1, 2], [10, 11], [11, 12]]
    assert replay.sample("ends", 10, timeout=0).data.tolist() == [[2, 3], [12, 13]]
    assert replay.sample("even", 10, timeout=0).data.tolist() == [0, 2, 10, 12]
    assert replay.num_bytes == 0


def test_the_priority_of_a_pattern_is_its_td_error() -> None:
    replay = Replay([Table("t", selectors.Fifo(), selectors.Fifo(), 9, rate_limiters.MinSize(1))])
    pattern = Pattern("t", lambda s: {"td_error": s["td"][-3:]}, td_error(0.9))
    with replay.structured_writer([pattern]) as writer:
        for error in (-4.0, 1.0, 1.0):
            writer.append({"td": error})
    assert replay.sample("t")[0].info.priority == pytest.approx(0.9 * 4 + 0.1 * 2)


def test_a_pattern_must_look_back() -> None:
    replay = Replay([queue()])
    with pytest.raises(ValueError, match="got no pattern"):
        replay.structured_writer([])
    with pytest.raises(ValueError, match="got the table 'x'; expected one of q"):
        replay.structured_writer([Pattern("x", lambda s: s[-1])])
    with pytest.raises(ValueError, match=r"expected start below 0"):
        replay.structured_writer([Pattern("q", lambda s: s["reward"][0:])]).append(step(0))


def test_the_signature_of_a_pattern_is_what_its_items_are() -> None:
    pattern = Pattern(
        "q",
        lambda s: {
            "x": s["observation"]["x"][-3:-1],
            "r": (s["reward"][-1], s["reward"][-4::2]),
            "last": s["reward"][-1:],
        },
    )
    signature = infer_signature(pattern, step(0))
    assert signature["x"] == ArraySpec((2, 2), np.dtype(np.int16)) and signature["r"][0].shape == ()
    assert signature["r"][1].shape == (2,) and signature["last"] == ArraySpec((1,), np.dtype(np.float64))
    replay = Replay([queue(signature=signature)])
    with replay.structured_writer([pattern]) as writer:
        for number in range(6):
            writer.append(step(number))
    assert replay.sample("q", 3, timeout=0).data["x"][:, :, 0].tolist() == [[1, 2], [2, 3], [3, 4]]
