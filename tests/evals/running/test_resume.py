"""A run that is killed with SIGKILL, several times, ends as one that was not: no item lost, none there twice.

The process that is killed waits for a byte before each answer, so that a test says where it dies.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from evals.outputs import read_outputs
from evals.results.scores import score_dir
from tests.nano import needs_nano

N_ITEMS = 30

RUN = """
import sys
import time
from pathlib import Path
from tests.evals.running.test_runner import FakeAnswerer, questions, run

class Waiting(FakeAnswerer):
    def ask_each(self, requests, **options):
        for answer in super().ask_each(requests, **options):
            if not sys.stdin.buffer.read(1):
                sys.exit("the test has gone")
            yield answer

run(questions(int(sys.argv[2])), Waiting(batch=7), Path(sys.argv[1]), advance=lambda n: print(n, flush=True))
print("end", flush=True)
"""


def start(out: Path) -> subprocess.Popen[bytes]:
    root = Path(__file__).parents[3]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", RUN, str(out), str(N_ITEMS)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)


def let(process: subprocess.Popen[bytes], answers: int) -> None:
    """Let it give so many answers, and see each on disk before the next; the first line says what was there before."""
    assert process.stdin and process.stdout
    process.stdout.readline()
    for _ in range(answers):
        process.stdin.write(b".")
        process.stdin.flush()
        assert process.stdout.readline() == b"1\n"


def kill(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGKILL)
    assert process.wait(timeout=60) == -signal.SIGKILL
    process.communicate()


def whole_lines(path: Path) -> list[str]:
    return path.read_text().split("\n")[:-1]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_killed_runs_lose_nothing_and_double_nothing(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    path = tmp_path / "vqa-rad" / "outputs.jsonl"
    done = 0
    for _ in range(3):
        answers = rng.randint(1, 8)
        process = start(tmp_path)
        let(process, answers)
        if rng.random() < 0.5:  # one more is under way, and may or may not get to the disk
            assert process.stdin
            process.stdin.write(b".")
            process.stdin.flush()
        kill(process)
        lines = whole_lines(path)
        assert done + answers <= len(lines) <= done + answers + 1
        if rng.random() < 0.5:  # as if the machine had died with half of the last line on disk
            cut = rng.randint(1, len(lines[-1].encode()))
            path.write_bytes(path.read_bytes()[:-cut])
            lines = lines[:-1]
        done = len(lines)
    process = start(tmp_path)
    let(process, N_ITEMS - done)
    assert process.stdout and process.stdout.readline() == b"end\n"
    assert process.wait(timeout=60) == 0
    ids = [output.item_id for output in read_outputs(path)]
    assert sorted(ids) == sorted(f"q{number}" for number in range(N_ITEMS))
    figure = score_dir(tmp_path)["vqa-rad"]["closed_accuracy"]
    assert (figure["value"], figure["n"], figure["n_unanswered"]) == (1.0, N_ITEMS, 0)


def test_a_killed_run_holds_no_lock_and_leaves_whole_files(tmp_path: Path) -> None:
    """Also the control of the test above: without the mending of the cut line the next run would be refused."""
    process = start(tmp_path)
    let(process, 3)
    kill(process)
    path = tmp_path / "vqa-rad" / "outputs.jsonl"
    path.write_bytes(path.read_bytes()[:-5])
    assert len(json.loads((tmp_path / "vqa-rad" / "run.json").read_text())["settings"]) == 16
    again = start(tmp_path)
    let(again, N_ITEMS - 2)
    assert again.wait(timeout=60) == 0
    again.communicate()
    assert len(whole_lines(path)) == len({json.loads(line)["item_id"] for line in whole_lines(path)}) == N_ITEMS


@needs_nano
@pytest.mark.kit
@pytest.mark.slow
def test_the_command_killed_in_the_middle_ends_as_if_it_had_not_been(kit: Path, tmp_path: Path) -> None:
    """The real command with the real model, killed as soon as some answers are on disk."""
    script = str(Path(sys.executable).parent / "medgemma-eval")

    def command(out: Path) -> list[str]:
        return [script, "run", "vqa-rad", "--data", str(kit), "--out", str(out), "--limit", "60", "--quiet"]

    path = tmp_path / "killed" / "vqa-rad" / "outputs.jsonl"
    process = subprocess.Popen(command(tmp_path / "killed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not (path.is_file() and len(whole_lines(path)) >= 3):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait(timeout=60) == -signal.SIGKILL and 3 <= len(whole_lines(path)) < 60
    for folder in ("killed", "whole"):
        subprocess.run(command(tmp_path / folder), check=True, capture_output=True)
    answers = [
        sorted(
            (output.item_id, output.text) for output in read_outputs(tmp_path / folder / "vqa-rad" / "outputs.jsonl")
        )
        for folder in ("killed", "whole")
    ]
    assert answers[0] == answers[1] and len(answers[0]) == len({item_id for item_id, _ in answers[0]}) == 60
