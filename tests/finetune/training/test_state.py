"""Checkpoints: kills at random and at every write, disks that are full, other configurations, damaged files."""

import errno
import os
import random
import resource
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from tqdm import tqdm

from finetune.training import Loop, Part, Schedule, Turn, state, train
from medsiglip.checkpoints import safetensors_files

SCHEDULE = Schedule(0.05, 12, warmup_steps=2)
SAVING = Loop(quiet=True, save_every_s=-1, log_every_steps=1)
KILLS = int(os.environ.get("TRAINING_KILLS", "20"))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 64), nn.Dropout(0.2), nn.Tanh(), nn.Linear(64, 3))


def draw(step: int) -> list[Part[torch.Tensor]]:
    """From the global generator, as other people's transforms do."""
    return [Part(torch.randn(8, 6), 8.0, (f"t.csv:{step}-{number}",)) for number in range(2)]


def run(
    folder: Path,
    loop: Loop = SAVING,
    schedule: Schedule = SCHEDULE,
    *,
    model: nn.Module | None = None,
    stops_at: int | None = None,
    **kwargs: Any,
) -> nn.Module:
    torch.set_num_threads(1)
    model = model or network()

    def loss_of(inputs: torch.Tensor, turn: Turn) -> torch.Tensor:
        if turn.step == stops_at:
            raise KeyboardInterrupt
        loss: torch.Tensor = (model(inputs) - inputs[:, :3].sin()).square().sum() / turn.denominator
        return loss

    train(model, draw, loss_of, schedule, folder, loop, **kwargs)
    return model


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole") / "stage"
    run(folder)
    return folder


def assert_same_run(folder: Path, whole: Path) -> None:
    left, right = load_file(folder / "state.safetensors"), load_file(whole / "state.safetensors")
    assert left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
    assert (folder / "log.jsonl").read_text() == (whole / "log.jsonl").read_text()
    assert not list(folder.glob("*.partial"))


def child(work: Callable[[], object]) -> int:
    """A process that does some work; tqdm's lock is shared over forks, and one that dies with it would keep it."""
    pid = os.fork()
    if not pid:
        tqdm.set_lock(threading.RLock())
        try:
            work()
        finally:
            os._exit(0)
    return pid


def steps_saved(folder: Path) -> int:
    """Of the last checkpoint, which must load whole; 0 without one."""
    path = folder / "state.safetensors"
    if not path.is_file():
        return 0
    assert all(bool(t.isfinite().all()) for t in load_file(path).values())
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return int(file.metadata()["next_step"])


def test_kills_at_random_points(whole: Path, tmp_path: Path) -> None:
    """Twenty; `make test-faults` sets TRAINING_KILLS. Each goes on from the last, and a run that ended begins anew."""
    chosen, folder, reached, runs = random.Random(0), tmp_path / "0" / "stage", 0, 0
    for _ in range(KILLS):
        pid = child(lambda folder=folder: run(folder))  # type: ignore[misc]
        time.sleep(chosen.random() * 0.06)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        saved = steps_saved(folder)
        assert saved >= reached, "a checkpoint is lost"
        reached = saved
        if reached == SCHEDULE.total_steps:
            runs, reached = runs + 1, 0
            assert_same_run_after(folder, whole)
            folder = tmp_path / str(runs) / "stage"
    assert_same_run_after(folder, whole)


def assert_same_run_after(folder: Path, whole: Path) -> None:
    run(folder)
    assert_same_run(folder, whole)


@pytest.fixture
def at_each_write(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], object]], list[str]]:
    """Has something happen before the n-th of all that a checkpoint does to the disk; returns the list of them."""

    def plant(number: int, happens: Callable[[], object]) -> list[str]:
        done: list[str] = []

        def watched(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                if len(done) == number:
                    happens()
                done.append(name)
                return real(*args, **kwargs)

            return call

        monkeypatch.setattr(safetensors_files, "_bytes_of", watched("write", safetensors_files._bytes_of))
        monkeypatch.setattr(os, "fsync", watched("fsync", os.fsync))
        monkeypatch.setattr(Path, "replace", watched("replace", Path.replace))
        monkeypatch.setattr(state, "write_file", watched("open", state.write_file))
        monkeypatch.setattr(state, "sync_folder", watched("folder", state.sync_folder))
        return done

    return plant


WRITES_A_CHECKPOINT = 21
"""Open, sixteen tensors (four parameters with three moments), fsync, replace, the folder's name and its fsync."""


def test_a_kill_at_every_write_boundary(
    whole: Path, tmp_path: Path, at_each_write: Callable[[int, Callable[[], object]], list[str]]
) -> None:
    """In the second and the third checkpoint: the one before it is there, then the new one."""

    def two_steps(number: int, folder: Path) -> None:
        at_each_write(number, lambda: os.kill(os.getpid(), signal.SIGKILL))
        run(folder)

    for number in range(WRITES_A_CHECKPOINT, 3 * WRITES_A_CHECKPOINT):
        folder = tmp_path / str(number) / "stage"
        pid = child(lambda number=number, folder=folder: two_steps(number, folder))  # type: ignore[misc]
        assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
        steps, place = divmod(number, WRITES_A_CHECKPOINT)
        assert steps_saved(folder) == steps + (place > 18), number  # after the 19th, replace, the new one has its name
        if place in (0, 9, 18, 19):
            assert_same_run_after(folder, whole)


def test_a_checkpoint_does_just_so_much_to_the_disk(
    tmp_path: Path, at_each_write: Callable[[int, Callable[[], object]], list[str]]
) -> None:
    done = at_each_write(-1, lambda: None)
    run(tmp_path, schedule=Schedule(0.05, 1))
    assert done == ["open", *["write"] * 16, "fsync", "replace", "folder", "fsync"]


@pytest.mark.parametrize("number", [0, 1, 8, 17])
def test_a_full_disk_keeps_the_checkpoint(
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    at_each_write: Callable[[int, Callable[[], object]], list[str]],
    number: int,
) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    folder = tmp_path / "stage"
    at_each_write(2 * WRITES_A_CHECKPOINT + number, full)
    with pytest.raises(
        OSError, match=r"state.safetensors: cannot be written \(No space left on device\); the checkpoint"
    ):
        run(folder)
    assert steps_saved(folder) == 2 and not list(folder.glob("*.partial"))
    monkeypatch.undo()
    assert_same_run_after(folder, whole)


def test_a_file_that_may_not_grow_keeps_the_checkpoint(tmp_path: Path, whole: Path) -> None:
    """RLIMIT_FSIZE below a checkpoint's size, in a process of its own that goes on from the first steps."""
    folder = tmp_path / "stage"
    with pytest.raises(KeyboardInterrupt):
        run(folder, stops_at=2)
    assert steps_saved(folder) == 2
    said = tmp_path / "said.txt"

    def limited() -> None:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, before[1]))
        try:
            run(folder)
        except OSError as error:
            said.write_text(str(error))

    os.waitpid(child(limited), 0)
    assert "File too large" in said.read_text() and "the checkpoint before it is kept" in said.read_text()
    assert steps_saved(folder) == 2
    assert_same_run_after(folder, whole)


def test_a_stopped_run_that_drew_from_global_generators_goes_on_exactly(whole: Path, tmp_path: Path) -> None:
    """Data and dropout draw from torch's own generator; what was drawn before plays no part."""
    folder = tmp_path / "stage"
    with pytest.raises(KeyboardInterrupt):
        run(folder, stops_at=7)
    torch.rand(11)
    assert_same_run_after(folder, whole)
    other = tmp_path / "other"  # control: another name seeds other draws
    run(other)
    left, right = load_file(other / "state.safetensors"), load_file(whole / "state.safetensors")
    assert any(not torch.equal(left[name], right[name]) for name in left)


def test_drawing_in_processes_of_their_own_changes_nothing(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As beside a GPU: neither data nor dropout know who drew what before."""
    monkeypatch.setattr("finetune.training.loop._Stage._processes", lambda stage: 2)
    run(tmp_path / "stage")
    assert_same_run(tmp_path / "stage", whole)


@pytest.mark.parametrize(
    ("loop", "schedule", "settings", "said"),
    [
        (SAVING, Schedule(0.01, 12, warmup_steps=2), {}, "peak_learning_rate was 0.05 and is 0.01"),
        (SAVING, Schedule(0.05, 20, warmup_steps=2), {}, "total_steps was 12 and is 20"),
        (replace(SAVING, seed=3), SCHEDULE, {}, "seed was 0 and is 3"),
        (SAVING, SCHEDULE, {"lora_rank": 8}, "lora_rank was None and is 8"),
        (replace(SAVING, seed=3), SCHEDULE, {"data": "b"}, "data was None and is 'b'; seed was 0 and is 3"),
    ],
)
def test_another_configuration_is_refused_by_name(
    tmp_path: Path, loop: Loop, schedule: Schedule, settings: Mapping[str, Any], said: str
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, stops_at=2)
    before = (tmp_path / "state.safetensors").read_bytes()
    with pytest.raises(ValueError, match=f"state.safetensors: a checkpoint of another configuration: {said}; give it"):
        run(tmp_path, loop, schedule, settings=settings)
    assert (tmp_path / "state.safetensors").read_bytes() == before
    run(tmp_path, replace(SAVING, save_every_s=60, quiet=True))  # what changes nothing may change


def test_other_parameters_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, stops_at=2)
    frozen = network()
    frozen[3].bias.requires_grad_(False)
    with pytest.raises(ValueError, match=r"other parameters: 3.bias is \(3,\) in it and not trained in this run"):
        run(tmp_path, model=frozen)
    wider = nn.Sequential(nn.Linear(6, 32), nn.Dropout(0.2), nn.Tanh(), nn.Linear(32, 3))
    with pytest.raises(ValueError, match=r"other parameters: 0.bias is \(64,\) in it and \(32,\) in this run"):
        run(tmp_path, model=wider)


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, stops_at=2)
    path = tmp_path / "state.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="state.safetensors: weights do not load"):
        run(tmp_path)


def test_lines_of_steps_that_run_again_and_cut_lines_leave_the_log(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "stage"
    with pytest.raises(KeyboardInterrupt):
        run(folder, stops_at=5)
    with (folder / "log.jsonl").open("a") as file:
        file.write('{"step": 5, "loss": 9}\n{"step": 6, "lo')
    assert_same_run_after(folder, whole)


class Average:
    """An average of the weights, as on-policy anchors are."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.kept = model, {name: p.detach().clone() for name, p in model.named_parameters()}

    def move(self) -> None:
        for name, parameter in self.model.named_parameters():
            self.kept[name].lerp_(parameter.detach(), 0.25)

    def tensors(self) -> dict[str, torch.Tensor]:
        return {**self.kept, "rows": torch.tensor([3, 1, 2])}

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        assert tensors["rows"].tolist() == [3, 1, 2]
        self.kept = {name: tensor for name, tensor in tensors.items() if name != "rows"}


def test_what_an_algorithm_keeps_is_saved_and_restored(tmp_path: Path) -> None:
    def averaged(folder: Path, stops_at: int | None = None) -> dict[str, torch.Tensor]:
        model = network()
        average = Average(model)

        def loss_of(inputs: torch.Tensor, turn: Turn) -> torch.Tensor:
            if turn.step == stops_at:
                raise KeyboardInterrupt
            average.move()
            loss: torch.Tensor = (model(inputs) - inputs[:, :3].sin()).square().sum() / turn.denominator
            return loss

        train(model, draw, loss_of, SCHEDULE, folder, SAVING, kept=average)
        return average.kept

    expected = averaged(tmp_path / "a" / "stage")
    with pytest.raises(KeyboardInterrupt):
        averaged(tmp_path / "b" / "stage", stops_at=6)
    found = averaged(tmp_path / "b" / "stage")
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
