import hashlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medsiglip.imaging.frame import DecodedFrame, ImageError
from medsiglip.imaging.resize import resize
from medsiglip.imaging.source import Source
from medsiglip.imaging.workers.pool import DecoderPool, Limits, shared_pool
from medsiglip.imaging.workers.process import Decoded

PLANTED = (sys.executable, "-P", str(Path(__file__).with_name("planted_worker.py")))
posix = pytest.mark.skipif(sys.platform == "win32", reason="signals")


def planted(word):
    return Source("", data=word.encode())


def values(results):
    """The planted grey value of each file's first frame, or the reason of its error."""
    return [result.reason if isinstance(result, ImageError) else int(result[0].pixels[0, 0, 0]) for result in results]


@pytest.fixture
def fast_limits():
    return Limits(memory_mib=256, seconds=2.0)


@pytest.fixture
def pool(fast_limits):
    with DecoderPool(2, fast_limits, command=PLANTED) as pool:
        yield pool


@pytest.fixture
def mixed(tmp_path):
    """PNG, TIFF of three pages, DICOM, an empty file, a broken one, one that is missing."""
    import pydicom.data

    bundled = Path(pydicom.data.__file__).parent / "test_files"
    random = np.random.default_rng(0)
    Image.fromarray(random.integers(0, 256, (40, 30, 3), np.uint8)).save(tmp_path / "a.png")
    pages = [Image.fromarray(random.integers(0, 256, (20, 10), np.uint8)) for _ in range(3)]
    pages[0].save(tmp_path / "b.tiff", save_all=True, append_images=pages[1:])
    Image.fromarray(random.integers(0, 2**16, (30, 30), np.uint16)).save(tmp_path / "c.png")
    (tmp_path / "d.png").write_bytes(b"")
    (tmp_path / "e.png").write_bytes((tmp_path / "a.png").read_bytes()[:90])
    files = [*sorted(tmp_path.iterdir()), tmp_path / "gone.png"]
    files += [bundled / f"{name}.dcm" for name in ("CT_small", "MR_small", "examples_overlay", "SC_rgb_small_odd")]
    return [Source(str(path)) for path in files]


# Results


def described(result):
    if isinstance(result, ImageError):
        return str(result)
    return [(p.file, p.frame, p.sha256, p.policy, p.tags, p.pixels.shape, p.pixels.tobytes()) for p in result]


def test_the_number_of_workers_changes_nothing(mixed):
    with DecoderPool(1) as one, DecoderPool(3) as three:
        first = [described(result) for result in one.pictures(mixed * 3)]
        assert [described(result) for result in three.pictures(mixed * 3)] == first
    assert len(first) == 3 * len(mixed) >= 30
    assert [item for item in first if isinstance(item, str)][:3] == [
        f"{mixed[3].path}: the file is empty; copy it again",
        f"{mixed[4].path}: truncated, damaged or an unusual variant; copy the file again or save it as plain PNG",
        f"{mixed[5].path}: no such file or folder; check the path",
    ]
    assert [frame for _, frame, *_ in first[1]] == [0, 1, 2]


def test_pixels_are_those_of_decoding_in_this_process(mixed):
    from medsiglip.imaging.formats import decode_bytes

    with DecoderPool(2) as pool:
        for source, result in zip(mixed, pool.pictures(mixed, "full-range"), strict=True):
            if isinstance(result, ImageError):
                continue
            data = Path(source.path).read_bytes()
            frames = list(decode_bytes(data, source.path, "full-range"))
            assert len(result) == len(frames) >= 1
            for picture, frame in zip(result, frames, strict=True):
                grey = frame.pixels.ndim == 2
                np.testing.assert_array_equal(picture.pixels[:, :, 0] if grey else picture.pixels, frame.pixels)
                assert (picture.policy, picture.tags) == (frame.policy, frame.tags)
                assert picture.sha256 == hashlib.sha256(data).hexdigest()
                assert (picture.pixels.strides[2] == 0) == grey  # a grey picture stays one plane
                assert not picture.pixels.flags.writeable


def test_bytes_and_paths_give_the_same(mixed):
    in_memory = [Source("", data=Path(source.path).read_bytes()) for source in mixed if Path(source.path).exists()]
    with DecoderPool(2) as pool:
        paths = [result for result in pool.pictures(mixed) if not isinstance(result, ImageError)]
        memory = [result for result in pool.pictures(in_memory) if not isinstance(result, ImageError)]
    strip = [[described([p])[0][1:] for p in result] for result in paths]
    assert [[described([p])[0][1:] for p in result] for result in memory] == strip
    assert {p.file for result in memory for p in result} == {""}


@pytest.mark.parametrize("policy", ["huggingface", "report"])
def test_squares_made_by_the_workers_are_those_made_here(mixed, policy):
    with DecoderPool(2) as pool:
        whole, square = list(pool.pictures(mixed)), list(pool.pictures(mixed, square=(32, policy)))
    for big, small in zip(whole, square, strict=True):
        if isinstance(big, ImageError):
            assert str(small) == str(big)
            continue
        for picture, squared in zip(big, small, strict=True):
            np.testing.assert_array_equal(squared.pixels, resize(picture.pixels, 32, policy))
            assert (squared.sha256, squared.tags, squared.frame) == (picture.sha256, picture.tags, picture.frame)


def test_contents_headers_and_values(mixed):
    from medsiglip.imaging.dicom.instance import decode_values, read_header

    with DecoderPool(2) as pool:
        contents = list(pool.contents(mixed))
        assert [content.format for content in contents[:5]] == ["raster", "raster", "raster", "unknown", "raster"]
        assert isinstance(contents[5], ImageError) and {content.format for content in contents[6:]} == {"dicom"}
        headers = list(pool.headers(mixed))
        assert [content.header for content in contents[:5]] == [None] * 5
        assert [content.header for content in contents[6:]] == headers[6:]
        assert all(isinstance(header, ImageError) for header in headers[:6])
        grey = [source for source, header in zip(mixed[6:], headers[6:], strict=True) if header.samples_per_pixel == 1]
        decoded = list(pool.values(grey))
    for source, header in zip(mixed[6:], headers[6:], strict=True):
        assert header == read_header(Path(source.path).read_bytes(), source.path)
    assert len(grey) >= 2
    for source, frames in zip(grey, decoded, strict=True):
        expected = list(decode_values(Path(source.path).read_bytes(), source.path))
        assert [frame.dtype for frame in frames] == [frame.dtype for frame in expected]
        np.testing.assert_array_equal(frames, expected)


def test_an_unknown_policy_is_refused_at_once():
    with pytest.raises(ValueError, match="unknown pixel policy 'window'"):
        DecoderPool(1).pictures([], "window")


def test_a_resize_that_is_refused_names_the_file(tmp_path):
    Image.new("L", (3, 3)).save(tmp_path / "a.png")
    with DecoderPool(1) as pool:
        (result,) = pool.pictures([Source(str(tmp_path / "a.png"))], square=(8, "no-such-policy"))
    assert str(result).startswith(f"{tmp_path}/a.png: unknown resize policy 'no-such-policy'")


# Faults of decoders


FAULTS = {
    "segfault": r"crashed the decoder \(SIGSEGV\), as damaged files do; copy or export the file again",
    "abort": r"crashed the decoder \(SIGABRT\)",
    "hang": "decoding took longer than 2 s; copy or export the file again",
    "hang-in-c": "decoding took longer than 2 s",
    "frames-for-ever": "decoding took longer than 2 s|more than 65536 frames",
    "exit": r"the decoder failed \(SystemExit",
    "exit-at-once": r"crashed the decoder \(exit status 0\)",
    "panic of Jane Doe": r"the decoder failed \(Panic; damaged file\?\); copy or export the file again$",
    "fault of Jane Doe": r"the decoder failed \(KeyError; damaged file\?\)",
    "refuse": "refused; do better",
    "die-between-frames": r"crashed the decoder \(SIGSEGV\)",
    "lie-about-shape": r"got float64 of shape",
    "not a picture": "not a picture in a format read here",
}


@posix
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_an_error_of_its_file_alone(pool, fault):
    results = list(pool.pictures(planted(word) for word in ["grey 3", "grey 4", fault, "grey 5", "grey 6", fault]))
    found = values(results)
    assert found[:2] == [3, 4] and found[3:5] == [5, 6]
    for index in (2, 5):
        assert isinstance(results[index], ImageError)
        assert re.search(FAULTS[fault], found[index])
        assert "Jane" not in found[index]


@posix
def test_errors_name_their_file(pool, tmp_path):
    (tmp_path / "bad.dcm").write_bytes(b"segfault")
    (result,) = pool.pictures([Source(str(tmp_path / "bad.dcm"))])
    assert str(result).startswith(f"{tmp_path}/bad.dcm: crashed the decoder")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux enforces a bound on address space")
def test_memory_is_bounded():
    words = ["grey 1", "eat", "grey 2", "take 200", "take 300", "grey 3", "take 200"]
    needed = "needs more than 256 MiB of memory to decode; split it into smaller files or save a smaller copy"
    with DecoderPool(2, Limits(memory_mib=256), command=PLANTED) as pool:
        assert values(pool.pictures(map(planted, words))) == [1, needed, 2, 1, needed, 3, 1]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux enforces a bound on address space")
def test_the_files_own_bytes_are_not_counted():
    with DecoderPool(1, Limits(memory_mib=256), command=PLANTED) as pool:
        assert values(pool.pictures([planted("take 200 " + 300 * 2**20 * "x")])) == [1]


def test_a_worker_that_is_still_leaving_gets_no_further_file():
    with DecoderPool(1, Limits(memory_mib=256), command=PLANTED) as pool:
        found = values(pool.pictures(map(planted, ["memory-and-linger", "grey 1", "grey 2"])))
    assert "needs more than 256 MiB" in str(found[0]) and found[1:] == [1, 2]


def test_what_a_decoder_prints_or_reads_does_not_reach_the_pipes(pool, capfd):
    assert values(pool.pictures(map(planted, ["print 7", "read-input", "print 8", "grey 9"]))) == [7, 0, 8, 9]
    assert capfd.readouterr() == ("", "")


@posix
@pytest.mark.parametrize(("word", "value"), [("segfault-unless-first", 42), ("memory-unless-first", 43)])
def test_what_files_before_may_have_led_to_is_tried_again_in_a_fresh_worker(fast_limits, word, value):
    with DecoderPool(1, fast_limits, command=PLANTED) as pool:
        words = ["grey 1", word, "grey 2", "number-of-files-before"]
        assert values(pool.pictures(map(planted, words))) == [1, value, 2, 2]


def test_a_worker_goes_on_after_a_refusal(fast_limits):
    with DecoderPool(1, fast_limits, command=PLANTED) as pool:
        words = ["grey 1", "refuse", "not a picture", "number-of-files-before"]
        assert values(pool.pictures(map(planted, words)))[-1] == 3


def test_the_file_is_read_by_the_worker_up_to_a_limit(tmp_path):
    path = tmp_path / "huge.dcm"
    with path.open("wb") as file:
        file.truncate(2**31 + 1)  # sparse
    with DecoderPool(1) as pool:
        (result,) = pool.pictures([Source(str(path))])
    assert result.reason == f"{2**31 + 1} bytes, more than the limit of 2 GiB; split it into smaller files"


@posix
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.dcm")
    with DecoderPool(1) as pool:
        (result,) = pool.pictures([Source(str(tmp_path / "pipe.dcm"))])
    assert result.reason == "neither a file nor a folder; give a regular file"


def test_a_worker_that_cannot_start_says_so(tmp_path):
    command = (sys.executable, "-c", "raise SystemExit(4)")
    with DecoderPool(1, command=command) as pool, pytest.raises(RuntimeError, match="does not start: exit status 4"):
        list(pool.pictures([planted("grey 1")]))
    broken = "import sys; sys.modules['PIL'] = None; from medsiglip.imaging.workers.worker import main; main()"
    command = (sys.executable, "-c", broken)
    with DecoderPool(1, command=command) as pool, pytest.raises(RuntimeError, match="start: ModuleNotFoundError"):
        list(pool.pictures([planted("grey 1")]))


def damaged(data, start, count, seed):
    """A copy with `count` bytes changed from `start` on."""
    random = np.random.default_rng(seed)
    changed = bytearray(data)
    for place in random.integers(start, len(data), count):
        changed[place] = random.integers(0, 256)
    return bytes(changed)


@pytest.mark.kit
def test_damaged_jpeg_that_aborts_gdcm_harms_no_other_file(kit):
    folder = kit / "dicom-real" / "images"
    whole = Source(str(folder / "CT1_JLSL.dcm"))
    sources = [whole]
    for name in ("CT1_JLSL.dcm", "CT1_JPLL.dcm"):
        data = (folder / name).read_bytes()
        start = data.index(b"\xff\xd8")  # of the codestream
        head, body = data[: start + 700], data[start + 700 :]
        for seed in range(60):
            sources.append(Source("", data=damaged(head, start, 1 + seed % 8, seed) + body))
            sources.append(Source("", data=damaged(data, start, 1, seed)[: start + 40 + 3000 * seed]))
        sources.append(whole)
    with DecoderPool(2, Limits(seconds=10)) as pool:
        results = list(pool.pictures(sources))
    wholes = [described(result) for source, result in zip(sources, results, strict=True) if source is whole]
    assert len(wholes) == 3 and isinstance(wholes[0], list) and wholes[1] == wholes[2] == wholes[0]
    reasons = [result.reason for result in results if isinstance(result, ImageError)]
    assert any("crashed the decoder (SIGABRT)" in reason for reason in reasons)  # GDCM 3.0 does, on seed 5


# Files that a worker is given together


@posix
@pytest.mark.parametrize("fault", ["segfault", "hang", "exit", "die-between-frames", "refuse"])
def test_a_fault_among_files_given_together_is_an_error_of_its_file_alone(fast_limits, tmp_path, fault):
    words = ["grey 3", "grey 4", fault, "grey 5", fault, "grey 6"]
    for number, word in enumerate(words):
        (tmp_path / f"{number}.dcm").write_text(word)
    sources = [Source(str(path)) for path in sorted(tmp_path.iterdir())]
    with DecoderPool(1, fast_limits, command=PLANTED) as pool:
        outcomes = pool._run("pictures", DecodedFrame, sources, policy="voi")
        assert values(pool.pictures([planted("grey 7")])) == [7]
    assert len(outcomes) == 6
    greys = [int(outcome.items[0].pixels[0, 0]) for outcome in outcomes if isinstance(outcome, Decoded)]
    assert greys == [3, 4, 5, 6]
    assert all(re.search(FAULTS[fault], outcomes[index].reason) for index in (2, 4))


def test_files_given_together_give_the_headers_of_files_given_singly(mixed):
    in_memory = [Source("", data=Path(source.path).read_bytes()) for source in mixed[6:]]
    sources = [*mixed * 20, *in_memory, *mixed[6:] * 20]
    with DecoderPool(2) as pool:
        assert {len(turn) for turn in pool._turns(sources)} > {1, 16}
        singly = {source: next(pool.contents([source])) for source in {*sources}}
        together = list(pool.contents(sources))
    assert [str(item) for item in together] == [str(singly[source]) for source in sources]
    assert sum(item.header is not None for item in together if not isinstance(item, ImageError)) >= 160


# The order of results, and how far ahead files are read


def test_slow_files_hold_their_place(pool):
    words = ["hang", *(f"grey {n}" for n in range(60))]
    assert values(pool.pictures(map(planted, words)))[1:] == list(range(60))


def test_files_are_taken_a_bounded_way_ahead(pool):
    taken = []

    def sources():
        for number in range(200):
            taken.append(number)
            yield planted(f"grey {number}")

    results = pool.pictures(sources())
    assert taken == []
    for number in range(50):
        assert values([next(results)]) == [number]
        assert len(taken) <= number + 2 + 8 * pool.workers
    results.close()


def test_large_results_stop_the_reading_ahead(monkeypatch, pool):
    monkeypatch.setattr("medsiglip.imaging.workers.pool.MAX_BYTES_AHEAD", 3)  # one frame of 2 x 2
    started = []
    results = pool.pictures(started.append(n) or planted(f"grey {n}") for n in range(30))
    for number in range(30):
        assert values([next(results)]) == [number]
        assert len(started) <= number + 2 + pool.workers


def test_a_fault_of_the_list_is_raised_in_its_turn(pool):
    def sources():
        yield planted("grey 1")
        raise ImageError("list", "ends; mend it")

    results = pool.pictures(sources())
    assert values([next(results)]) == [1]
    with pytest.raises(ImageError, match="list: ends; mend it"):
        next(results)


def test_streams_may_be_read_in_turns_and_left_half_read(pool):
    first = pool.pictures(planted(f"grey {n}") for n in range(100))
    second = pool.pictures(planted(f"grey {100 + n}") for n in range(100))
    for number in range(40):
        assert values([next(first), next(second)]) == [number, 100 + number]
        assert values(pool.pictures([planted("grey 250")])) == [250]
    first.close()
    assert values(second) == list(range(140, 200))


def test_threads_may_share_a_pool(pool):
    found = {}

    def read(start):
        found[start] = values(pool.pictures(planted(f"grey {start + n}") for n in range(30)))

    threads = [threading.Thread(target=read, args=(start,)) for start in (0, 50, 100, 150)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == {start: list(range(start, start + 30)) for start in (0, 50, 100, 150)}


# Processes


def comes_true(condition, within_s=30.0):
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def is_gone(pid):
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    return state == "" or state.startswith("Z")


def run_python(code, *args, **kwargs):
    return subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, timeout=60, **kwargs)


def test_no_worker_is_started_before_it_is_needed_and_none_is_left(fast_limits):
    with DecoderPool(2, fast_limits, command=PLANTED) as pool:
        assert pool._idle == []
        list(pool.pictures([planted("grey 1")]))
        workers = [worker._process for worker in pool._idle]
        assert 1 <= len(workers) <= 2
    assert [worker.poll() for worker in workers] == [-signal.SIGKILL] * len(workers)
    with pytest.raises(RuntimeError, match="closed"):
        list(pool.pictures([planted("grey 1")]))


def test_a_worker_imports_only_what_decoding_needs():
    code = """
import sys
from medsiglip.imaging.workers.worker import _import_decoders
_import_decoders()
from medsiglip.imaging.formats import decode_bytes
heavy = {"torch", "transformers", "monai", "nibabel", "scipy", "skimage", "sklearn", "pyarrow", "typer", "matplotlib"}
print(sorted(heavy & set(sys.modules)), "pydicom" in sys.modules, "PIL" in sys.modules)
"""
    assert run_python(code).stdout == "[] True True\n"


def test_the_working_directory_shadows_nothing(tmp_path, mixed):
    (tmp_path / "user" / "dl").mkdir(parents=True)
    (tmp_path / "user" / "dl" / "__init__.py").write_text("")
    for name in ("numpy", "pydicom", "json", "medsiglip", "gdcm"):
        (tmp_path / "user" / f"{name}.py").write_text("raise SystemExit('shadowed')")
    code = """
import os, sys
from medsiglip.imaging import read_pictures
os.chdir(sys.argv[1])
print(read_pictures(sys.argv[2])[0].pixels.shape, read_pictures("../a.png")[0].pixels.shape)
"""
    run = run_python(code, str(tmp_path / "user"), mixed[6].path)
    assert run.stdout == "(128, 128, 3) (40, 30, 3)\n", run.stderr


def test_a_relative_path_means_the_readers_working_directory(tmp_path, monkeypatch):
    Image.new("L", (3, 2)).save(tmp_path / "here.png")
    with DecoderPool(1) as pool:
        assert isinstance(next(pool.pictures([Source("here.png")])), ImageError)
        monkeypatch.chdir(tmp_path)
        (picture,) = next(pool.pictures([Source("here.png")]))
        assert picture.file == "here.png"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_names_that_are_no_text_reach_the_worker(tmp_path):
    path = os.path.join(tmp_path, os.fsdecode(b'caf\xe9 \n"x".png'))
    Image.new("L", (3, 2), 5).save(path, "PNG")
    with DecoderPool(1) as pool:
        (picture,) = next(pool.pictures([Source(path)]))
    assert (picture.file, picture.pixels.max()) == (path, 5)


HANGING_READER = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets its background jobs ignore it
from medsiglip.imaging.source import Source
from medsiglip.imaging.workers.pool import DecoderPool, Limits
word, seconds, folder, *command = sys.argv[1:]
pool = DecoderPool(2, Limits(seconds=float(seconds)), command=tuple(command))
results = pool.pictures([Source("", data=f"{word} {folder}/{n}".encode()) for n in (1, 2)])
next(results)
"""


def start_hanging_reader(word, folder, seconds):
    """A process that waits for two workers whose decoders hang, and their process ids."""
    reader = subprocess.Popen(
        [sys.executable, "-c", HANGING_READER, word, str(seconds), str(folder), *PLANTED],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert comes_true(lambda: len(list(folder.iterdir())) == 2)
    output = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    pairs = [tuple(map(int, line.split())) for line in output.splitlines()]
    workers = [pid for pid, parent in pairs if parent == reader.pid]
    assert len(workers) == 2
    return reader, workers


@posix
def test_ctrl_c_ends_reader_and_workers_at_once(tmp_path):
    reader, workers = start_hanging_reader("hang", tmp_path, seconds=300)
    os.killpg(reader.pid, signal.SIGINT)  # what the terminal does
    _, errors = reader.communicate(timeout=30)
    assert errors.count("Traceback") == 1 and errors.rstrip().endswith("KeyboardInterrupt")
    assert all(comes_true(lambda pid=pid: is_gone(pid)) for pid in workers)


@posix
def test_workers_that_hang_end_even_when_their_reader_is_killed(tmp_path):
    reader, workers = start_hanging_reader("hang-in-c", tmp_path, seconds=1.5)
    reader.kill()
    reader.communicate()
    assert not any(map(is_gone, workers))
    assert all(comes_true(lambda pid=pid: is_gone(pid)) for pid in workers)


def test_the_shared_pool_is_one_and_ends_with_its_process(tmp_path):
    assert shared_pool() is shared_pool()
    code = """
import sys
from medsiglip.imaging import read_pictures
from medsiglip.imaging.workers.pool import shared_pool
read_pictures(sys.argv[1])
print(*[w._process.pid for w in shared_pool()._idle])
"""
    Image.new("L", (2, 2)).save(tmp_path / "a.png")
    run = run_python(code, str(tmp_path / "a.png"))
    assert run.stdout.split() and run.stderr == ""
    assert all(comes_true(lambda pid=pid: is_gone(pid)) for pid in run.stdout.split())


FORK = """
import os, sys, threading
from PIL import Image
from medsiglip.imaging.source import Source
from medsiglip.imaging.open import read_pictures
from medsiglip.imaging.workers.pool import shared_pool
paths = sys.argv[1:]
parents = shared_pool().pictures(Source(p) for p in paths)
assert next(parents)[0].file == paths[0]
mine = {w._process.pid for w in [*shared_pool()._idle, *shared_pool()._busy]}
child = os.fork()
if child == 0:
    try:
        next(parents)
    except RuntimeError as error:
        assert "forked" in str(error), error
    del parents
    assert read_pictures(paths[1])[0].file == paths[1]
    theirs = {w._process.pid for w in shared_pool()._idle}
    assert theirs and not theirs & mine
    shared_pool().close()
    os._exit(7)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 7, status
assert [result[0].file for result in parents] == paths[1:]
assert {w._process.pid for w in shared_pool()._idle} == mine
print("whole")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="os.fork")
def test_a_forked_process_has_a_pool_of_its_own(tmp_path):
    paths = [tmp_path / f"{n}.png" for n in range(40)]
    for number, path in enumerate(paths):
        Image.new("L", (4, 4), number).save(path)
    run = run_python(FORK, *map(str, paths))
    assert run.stdout == "whole\n", run.stderr
